"""The audit of changes that are never small: labels, points that leave, and candidates that join."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.changes import Add, Change, Relabel, Remove
from solset.errors import bad_value
from solset.modulus._audit_batches import STATIONARY_BATCH, Batch, joined
from solset.problem import Optimality, Problem, single_answer
from solset.risk import EmpiricalRisk, candidates, plain_targets

NOT_A_NUMBER = float("nan")


@dataclass(frozen=True)
class FiniteAudit:
    """The audit by the real size of each change: one Newton step for each choice of each point."""

    problem: Problem  # Problem at its trained weights
    gradient: Tensor | None  # Gradient of the validation loss, if there is one, ``(p,)``
    losses: EmpiricalRisk  # Risk of the points that are audited: those of the problem, or candidates
    # Changes that are tried for each point, ``None`` where a choice is how the point is now
    choices: Mapping[int, Sequence[Change | None]]
    optimality: Optimality  # Optimality map or its name
    at_once: int = STATIONARY_BATCH  # Number of points of a batch

    def batch(self, points: Sequence[int]) -> Batch:
        """The numbers of some points. Cost: one estimate for each change, from one factorisation."""
        return joined([self._of_point(point) for point in points])

    def _of_point(self, point: int) -> Batch:
        answers = [self._of_change(change) for change in self.choices[point]]
        lengths, changes, were_solved, in_doubt = zip(*answers, strict=True)
        sizes, effects = (torch.tensor(column, dtype=torch.float64) for column in (lengths, changes))
        worst = int(sizes.nan_to_num(nan=-1.0).argmax())
        direction = torch.zeros_like(sizes)
        direction[worst] = 1.0
        part = {
            "modulus": sizes.amax().reshape(1),  # not a number where one of them was not solved
            "direction": direction.unsqueeze(0),
            "map": sizes.unsqueeze(0),
            "gradient_norm": self._gradient_norm(point),
            "is_solved": torch.tensor([all(were_solved)]),
            "is_doubted": torch.tensor([any(in_doubt)]),
        }
        if self.gradient is not None:
            largest = effects[int(effects.abs().nan_to_num(nan=-1.0).argmax())]
            part |= {"validation_change": effects[worst].reshape(1), "validation_slope": largest.reshape(1)}
        return part

    def _gradient_norm(self, point: int) -> Tensor:
        scale = self.losses.total if self.losses.reduction == "mean" else 1.0
        return (scale * self.losses.select([point]).gradient().norm()).reshape(1).to(torch.float64)

    def _of_change(self, change: Change | None) -> tuple[float, float, bool, bool]:
        """Length of the step, change of the validation loss, whether it was solved, whether in doubt."""
        if change is None:
            return 0.0, 0.0, True, False
        answer = single_answer(self.problem, change, optimality=self.optimality)
        if not answer.is_answered:
            return float("inf"), NOT_A_NUMBER, True, True
        if not answer.is_solved:
            return NOT_A_NUMBER, NOT_A_NUMBER, False, True
        step = (answer.solution.value - self.problem.weights()).to(torch.float64)
        effect = 0.0 if self.gradient is None else float(step @ self.gradient.to(torch.float64))
        return float(step.norm()), effect, True, bool(answer.note)


def finite_choices(problem: Problem, change: Change) -> dict[int, list[Change | None]]:
    """The changes that are tried for each point of a kind that is never small.

    Raises:
        ValueError: If this kind of change has no single points, or labels are not one number for each point.
    """
    risk = problem.risk()
    if isinstance(change, Remove):
        return {i: [replace(change, points=[i])] for i in change.chosen(risk)}
    if isinstance(change, Add):
        points = candidates(risk, change.inputs, change.targets)
        return {i: [_one_candidate(risk, change, i)] for i in range(len(points))}
    if isinstance(change, Relabel):
        return _labels(risk, change)
    raise bad_value(
        "kind",
        expected="Move, Relabel, Reweight or Remove, or an Add of candidates",
        got=repr(change),
        cure="An audit ranks single points; solset.lipschitz_modulus answers for the weight decay.",
    )


def _one_candidate(risk: EmpiricalRisk, change: Add, place: int) -> Add:
    inputs, targets = candidates(risk, change.inputs, change.targets).select([place])[range(1)]
    tree, targets_tree = risk.points.tree, risk.points.targets
    given = inputs if tree is None else tree.unpack(inputs)
    return replace(
        change, inputs=given, targets=targets if targets_tree is None else targets_tree.unpack(targets)
    )


def _labels(risk: EmpiricalRisk, change: Relabel) -> dict[int, list[Change | None]]:
    """All other labels of the training data for each point, or the ones that the change gives."""
    chosen = change.chosen(risk)
    if change.targets is not None:
        given = torch.as_tensor(change.targets)
        return {i: [Relabel([i], given[k : k + 1])] for k, i in enumerate(chosen)}
    labels = plain_targets(risk, risk.points[range(len(risk.points))][1])
    if labels.numel() != len(labels):
        raise bad_value(
            "kind",
            expected="Relabel with targets, where a point has more than one label",
            got="Relabel",
            cure="Pass solset.Relabel(points, targets) with the labels to try.",
        )
    rows = [label.reshape(labels[:1].shape) for label in labels.unique()]
    return {
        i: [None if bool((row == labels[i]).all()) else Relabel([i], row) for row in rows] for i in chosen
    }
