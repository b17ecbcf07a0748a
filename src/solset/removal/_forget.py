"""Points that are forgotten: new weights, and what proves that they are those of the other points."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from solset import retraining
from solset.changes import Remove
from solset.checks import checked
from solset.errors import SolsetWarning, Status
from solset.problem import AUTO, Optimality, Problem
from solset.results import WeightsResult, computed
from solset.risk import gradient_scale
from solset.solvers import Solution, Solver

UNCHANGED = 1e-12  # change relative to the weights that counts as rounding
REACHED = 0.1  # share of the gradient by the removal that may be left where the minimum counts as reached
ROUNDED = 100  # units of rounding of the terms that cancel in a gradient, up to which it counts as zero


@dataclass(frozen=True, eq=False, repr=False)
class Forgotten(WeightsResult):
    """The weights without some points, with the check that they are a minimum of what is left.

    Attributes:
        points: Indices of the points that are forgotten.
        solution: Weights after a Newton step on the risk without the points, with its status and notes.
        change: Length of the change of the weights.
        gradient_before: Norm of the gradient of the risk without the points, at the trained weights.
        gradient_after: Norm of the same gradient at the new weights.
        gradient_trained: Norm of the gradient of the whole risk that training left.
        share_left: Part of the gradient that the removal adds that is there after the step, relative to it;
            0 up to rounding. The gradient that training left counts in neither.
        distance_before: Distance from the trained weights to the retrained ones; ``None`` if nothing was
            retrained.
        distance_after: Distance from the new weights to the retrained ones; ``None`` as before.
    """

    points: list[int]
    solution: Solution
    change: float
    gradient_before: float
    gradient_after: float
    gradient_trained: float
    share_left: float
    distance_before: float | None = None
    distance_after: float | None = None

    @property
    def headline(self) -> str:
        """How it ended, the gradient before and after, and the distance to retrained weights if known."""
        is_far = self.status is Status.MAX_STEPS and self.solution.status is Status.CONVERGED
        ended = "the minimum is farther than one step" if is_far else str(self.status)
        count = "1 point" if len(self.points) == 1 else f"{len(self.points)} points"
        text = f"{ended}, {count}, gradient {self.gradient_before:.3g} to "
        text += f"{self.gradient_after:.3g}, weights changed by {self.change:.3g}"
        if self.distance_after is None:
            return text
        return f"{text}, {self.distance_after:.3g} from retrained weights ({self.distance_before:.3g} before)"

    @computed
    def status(self) -> Status:
        """``diverged`` where what the removal adds to the gradient grew, ``max_steps`` where much is left.

        ``doubtful`` where the step speaks against itself, or nothing was forgotten: ``message`` says which.
        """
        if self.solution.status is not Status.CONVERGED:
            return self.solution.status
        if not self.share_left <= 1:
            return Status.DIVERGED
        if not self.share_left <= REACHED:
            return Status.MAX_STEPS
        return Status.DOUBTFUL if self.solution.message or self.is_unchanged else Status.CONVERGED

    @property
    def is_unchanged(self) -> bool:
        """Whether the trained weights stay a solution, to rounding, so that nothing was forgotten."""
        return self.change <= UNCHANGED * _length(self.solution.value)

    @computed
    def message(self) -> str:
        """What the status says, what speaks against the step, and whether anything was forgotten."""
        texts = [self.solution.message] if self.solution.message else []
        if self.is_unchanged:
            texts.insert(0, "nothing was forgotten, since the trained weights fit the other points too")
        if self.solution.status is Status.CONVERGED and not self.share_left <= REACHED:
            texts.insert(
                0,
                f"{self.share_left:.2g} of the gradient that the removal adds is left: the minimum "
                f"without these points is farther than one step goes; retrain",
            )
        return "; ".join(texts)

    def _named_weights(self) -> tuple[Tensor, Mapping[str, torch.Size] | None]:
        return self.solution.value, self.solution.layout


@checked
def forget(
    problem: Problem,
    points: Sequence[int],
    *,
    retrain: bool = False,
    optimality: Optimality = AUTO,
    solver: Solver | None = None,
) -> Forgotten:
    """The weights after some points are taken out of the training data, with the proof of how well.

    One Newton step on the risk without the points (Guo et al. 2020, section 3), as by
    ``problem.estimate(solset.Remove(points))``, and the gradient of that risk before and after it. A large
    part of the gradient that the removal adds, left after the step, says that the step was too short. No
    noise is added, so that this is no certificate of privacy.

    Args:
        problem: Trained point whose data hold the points.
        points: Indices of the points to forget; not all of them.
        retrain: Whether to train really without the points, by :class:`solset.retraining.Newton`, and to
            tell the distance to the end of that.
        optimality: Optimality map that is linearised, or its name, as for :meth:`solset.Problem.estimate`.
        solver: Solver of the linear system, as for :meth:`solset.Problem.estimate`.

    Returns:
        The new weights; ``.apply_to(model)`` is a changed copy of the model.

    Raises:
        ValueError: If points are empty, repeated, out of range or all of them.

    Warns:
        SolsetWarning: If more than a tenth of the gradient that the removal adds is left, or nothing is
            forgotten.

    Cost: that of the estimate, two gradients, and those of eight points; real training where it is asked for.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 1.5)
        >>> x, y = torch.ones(2, 1), torch.tensor([[1.0], [2.0]])
        >>> forget(Problem(model, nn.MSELoss(), x, y), [1]).weights  # the target that is left
        tensor([1.])
    """
    change = Remove(list(problem.check_points(points)))
    estimate = problem.estimate(change, optimality=optimality, solver=solver)
    solution, risk = estimate.min_norm(), change.applied_to(problem.risk())
    before, after, trained = risk.gradient(), risk.at(solution.value).gradient(), problem.gradient()
    distances: tuple[float, float] | None = None
    if retrain:
        truth = retraining.retrain(problem, change, method=retraining.Newton()).weights
        distances = _length(problem.weights() - truth), _length(solution.value - truth)
    result = Forgotten(
        points=change.chosen(problem.risk()),
        solution=solution,
        change=_length(solution.value - problem.weights()),
        gradient_before=_length(before),
        gradient_after=_length(after),
        gradient_trained=_length(trained),
        share_left=_share_left(problem, before - trained, after - trained),
        distance_before=None if distances is None else distances[0],
        distance_after=None if distances is None else distances[1],
    )
    if result.status is not Status.CONVERGED:
        warnings.warn(result.message, SolsetWarning, stacklevel=3)
    return result


def _share_left(problem: Problem, added: Tensor, left: Tensor) -> float:
    """The length of what is left relative to what was added; 0 where it is rounding of the gradient."""
    scale = gradient_scale(problem.risk(), problem.point.sweep.outputs)
    rounding = ROUNDED * torch.finfo(left.dtype).eps * (scale if isfinite(scale) else 0.0)
    length = _length(left)
    return 0.0 if length <= rounding else length / max(_length(added), rounding, torch.finfo(left.dtype).tiny)


def _length(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))
