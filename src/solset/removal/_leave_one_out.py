"""Each point predicted by the solution without it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from solset.changes import Divisor, Remove
from solset.checks import checked
from solset.errors import SolsetWarning, Status, bad_value
from solset.problem import (
    AUTO,
    Optimality,
    Problem,
    Proximal,
    Stationary,
    TrainedPoint,
    as_map,
    lost_classes,
    single_answer,
)
from solset.removal._all_at_once import LeftOut, all_at_once
from solset.results import TableResult, computed
from solset.risk import losses_at, plain_targets
from solset.solvers import Solver

NAMED = 5  # points that a message names


@dataclass(frozen=True, eq=False, repr=False)
class LeaveOneOut(TableResult):
    """Each point as the solution without it predicts it.

    Attributes:
        points: Indices of the points that were left out, one at a time.
        outputs: Outputs of each point at the weights without it, ``(k, c)``; not a number where there is no
            finite answer.
        losses: Loss of each point at these outputs, ``(k,)``. Where points count unequally, by class weights
            or sample weights, it is the loss of the point times its weight over the mean weight, so that the
            mean over all points is the risk.
        losses_trained: Loss of each point at the trained weights, ``(k,)``.
        residuals: Targets less outputs, ``(k, c)``; ``None`` where targets are no numbers like the outputs.
        leverages: Largest share of the curvature in any direction that the point alone holds, ``(k,)``: 1 for
            one that alone holds a direction; not a number where the solver keeps no decomposition.
        unanswered: Indices of the points without a finite answer.
        unsolved: Indices of the points whose linear system was not solved.
        doubts: Sentences on what speaks against the step of a point, by its index.
    """

    points: list[int]
    outputs: Tensor
    losses: Tensor
    losses_trained: Tensor
    residuals: Tensor | None
    leverages: Tensor
    unanswered: list[int]
    unsolved: list[int]
    doubts: dict[int, str]

    @property
    def headline(self) -> str:
        """The number of points, and the mean loss left out beside the trained one."""
        answered = torch.isfinite(self.losses)
        left_out, trained = (float(part[answered].mean()) for part in (self.losses, self.losses_trained))
        text = f"{self.status}, {len(self.points)} points, mean loss left out {left_out:.4g}"
        text += f", trained {trained:.4g}"
        finite = self.leverages[~self.leverages.isnan()]
        return f"{text}, largest leverage {float(finite.max()):.3g}" if len(finite) else text

    @computed
    def status(self) -> Status:
        """``converged`` if every point has an answer without doubt; ``doubtful`` if a step is in doubt."""
        if self.unsolved:
            return Status.MAX_STEPS
        if self.unanswered:
            return Status.INDEFINITE
        return Status.DOUBTFUL if self.doubts else Status.CONVERGED

    @computed
    def message(self) -> str:
        """The points without a finite answer, those whose system was not solved, and doubts on others."""
        texts = []
        if self.unanswered:
            texts.append(
                f"without {_named(self.unanswered)} there is no finite answer: alone it holds a direction of "
                f"the weights (leverage 1), or the last of its class, or more curvature than the others have"
            )
        if self.unsolved:
            texts.append(f"the linear system was not solved without {_named(self.unsolved)}")
        if self.doubts:
            first = next(iter(self.doubts))
            texts.append(
                f"the step is in doubt for {len(self.doubts)} points, such as {first}: {self.doubts[first]}"
            )
        return "; ".join(texts)

    def rows(self) -> list[dict[str, Any]]:
        """One row per point: its losses, its leverage, and whether its answer is finite."""
        lacking = set(self.unanswered)
        return [
            {
                "point": i,
                "loss left out": float(self.losses[k]),
                "loss trained": float(self.losses_trained[k]),
                "leverage": float(self.leverages[k]),
                "has answer": i not in lacking,
                "doubt": self.doubts.get(i, ""),
            }
            for k, i in enumerate(self.points)
        ]


@checked
def leave_one_out(
    problem: Problem,
    points: Sequence[int] | None = None,
    *,
    optimality: Optimality = AUTO,
    solver: Solver | None = None,
    divisor: Divisor = "after",
    progress: bool | None = None,
) -> LeaveOneOut:
    """Each training point as the solution without it predicts it, from one decomposition for all.

    For outputs that are linear in the weights, all points are answered at once by their leverages,
    ``f_i + (I - K_i Λ_i)⁻¹ J_i v_i``: exact for a squared loss, where it is the formula of the hat matrix
    ``e_i / (1 - h_i)``, and one Newton step for any other loss (the approximate leave-one-out of
    Rad & Maleki 2020). For other
    networks it is one Newton step and one forward pass for each point.

    A mean is by default one over the points that are left, as when retraining. So ``h_i`` and ``e_i`` belong
    to the ridge ``λ(n-1)/n`` beside ``1/n``; for a sum, and with ``divisor="before"``, to the problem itself.

    Args:
        problem: Trained point that is studied.
        points: Indices of the points that are left out, one at a time; all of them by default.
        optimality: Optimality map, or its name: ``"stationary"``, ``"gauss_newton"`` for more weights, or
            ``"proximal"``. By default the proximal one where the weights are not stationary and outputs are
            not linear in them, else the stationary one.
        solver: Solver of its systems; by default the map chooses one.
        divisor: Number by which a mean is divided without the point: ``"after"`` for that of the points that
            are left, ``"before"`` for that of all points, so that ``α`` stays.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        Outputs, losses, residuals and leverages of the points. A point without a finite answer is named.

    Raises:
        ValueError: If points do not fit, or the map keeps all outputs, so that nothing changes.

    Warns:
        SolsetWarning: If a point has no finite answer, a system was not solved, or a step is in doubt.

    Cost: one decomposition; for outputs linear in the weights the rows of ``J`` of the points, else for each
    point a few products over this point.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 1.5)
        >>> x, y = torch.ones(2, 1), torch.tensor([[1.0], [2.0]])
        >>> leave_one_out(Problem(model, nn.MSELoss(), x, y)).outputs  # the target of the other
        tensor([[2.],
                [1.]])
    """
    chosen = problem.check_points(points)
    if problem.point_count == 1:
        raise bad_value("problem", expected="two points or more", got="one", cure="Nothing would be left.")
    asked, parts = as_map(optimality), None
    if asked is not None and asked.keeps_outputs:
        raise bad_value(
            "optimality",
            expected="'stationary', 'gauss_newton' or 'proximal'",
            got=repr(optimality),
            cure="Where outputs are kept, a point that leaves changes nothing.",
        )
    if asked is None or asked.feels_gradient:  # a damped matrix has other leverages
        first = Stationary() if asked is None else asked
        parts = all_at_once(problem.point, chosen, first, solver, divides=divisor == "after")
    if parts is None:
        used = asked or (Stationary() if problem.is_stationary else Proximal())
        hidden = None if progress is None else not progress
        bar = tqdm(chosen, desc="leave one out", unit="point", disable=hidden, leave=False)
        parts = [_one(problem, Remove([i], divisor=divisor), used, solver) for i in bar]
    result = _result(problem, chosen, parts, divisor)
    if result.message:
        warnings.warn(result.message, SolsetWarning, stacklevel=3)
    return result


def _one(problem: Problem, change: Remove, optimality: Any, solver: Solver | None) -> LeftOut:
    """One point by a Newton step, and its outputs at the new weights."""
    answer = single_answer(problem, change, optimality=optimality, solver=solver, order="newton")
    risk, is_answered = problem.risk(), answer.is_answered
    hidden = answer.system.doubt if answer.system.is_blind else ""
    outputs = risk.at(answer.solution.value).select(change.chosen(risk)).outputs()[0]
    return LeftOut(
        outputs,
        answer.leverage,
        is_answered=is_answered,
        is_solved=answer.is_solved,
        note=(answer.note or hidden) if is_answered else "",
    )


def _result(problem: Problem, chosen: list[int], parts: Sequence[LeftOut], divisor: Divisor) -> LeaveOneOut:
    point, risk = problem.point, problem.risk().select(chosen)
    gone = _last_of_class(point, chosen, divisor)
    answered = torch.tensor(
        [part.is_answered and i not in gone for i, part in zip(chosen, parts, strict=True)]
    ).to(risk.weights.device)
    outputs = torch.stack([part.outputs for part in parts])
    outputs = torch.where(answered.unsqueeze(1), outputs, torch.full_like(outputs, float("nan")))
    losses, trained = losses_at(risk, outputs.nan_to_num()), losses_at(risk, risk.outputs())
    targets = plain_targets(risk, risk.points[list(range(len(chosen)))][1])
    is_like = targets.is_floating_point() and targets.numel() == outputs.numel()
    return LeaveOneOut(
        points=chosen,
        outputs=outputs,
        losses=torch.where(answered, losses, torch.full_like(losses, float("nan"))),
        losses_trained=trained,
        residuals=targets.reshape(outputs.shape).to(outputs) - outputs if is_like else None,
        leverages=torch.tensor([part.leverage for part in parts], dtype=torch.float64),
        unanswered=[i for i, is_finite in zip(chosen, answered.tolist(), strict=True) if not is_finite],
        unsolved=[i for i, part in zip(chosen, parts, strict=True) if not part.is_solved],
        doubts={i: part.note for i, part in zip(chosen, parts, strict=True) if part.note},
    )


def _last_of_class(point: TrainedPoint, chosen: Sequence[int], divisor: Divisor) -> set[int]:
    """The points that are the only ones of their class, where no weight decay bounds its outputs."""
    targets = plain_targets(point.risk, point.sweep.targets)
    if targets.numel() != len(targets):
        return set()
    _, place, count = targets.flatten().unique(return_inverse=True, return_counts=True)
    if len(count) > len(targets) / 2:  # numbers, most of which occur once
        return set()
    alone = [i for i in chosen if int(count[place[i]]) == 1]
    return {i for i in alone if lost_classes(point, Remove([i], divisor=divisor))}


def _named(points: Sequence[int]) -> str:
    names = ", ".join(map(str, points[:NAMED])) + (", …" if len(points) > NAMED else "")
    return f"point {names}" if len(points) == 1 else f"each of points {names}"
