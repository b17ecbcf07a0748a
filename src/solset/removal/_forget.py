"""Points that are forgotten: new weights, and what proves that they are those of the other points."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from solset import retraining
from solset.changes import Remove
from solset.checks import checked
from solset.errors import SolsetWarning, Status
from solset.problem import AUTO, Optimality, Problem
from solset.results import WeightsResult, computed
from solset.solvers import Solution, Solver

UNCHANGED = 1e-12  # change relative to the weights that counts as rounding
REACHED = 0.1  # gradient that is left, relative to the one before, up to which the minimum counts as reached


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
    distance_before: float | None = None
    distance_after: float | None = None

    @property
    def headline(self) -> str:
        """How it ended, the gradient before and after, and the distance to retrained weights if known."""
        is_far = self.status is Status.MAX_STEPS and self.solution.status is Status.CONVERGED
        ended = "the minimum is farther than one step" if is_far else str(self.status)
        text = f"{ended}, {len(self.points)} points, gradient {self.gradient_before:.3g} to "
        text += f"{self.gradient_after:.3g}, weights changed by {self.change:.3g}"
        if self.distance_after is None:
            return text
        return f"{text}, {self.distance_after:.3g} from retrained weights ({self.distance_before:.3g} before)"

    @computed
    def status(self) -> Status:
        """``diverged`` where the gradient grew, ``max_steps`` where too much of it is left."""
        if self.solution.status is not Status.CONVERGED:
            return self.solution.status
        if not self.gradient_after <= max(self.gradient_before, self.gradient_trained):
            return Status.DIVERGED
        reached = self.gradient_after <= REACHED * self.gradient_before + 2 * self.gradient_trained
        return Status.CONVERGED if reached else Status.MAX_STEPS

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
        if self.solution.status is Status.CONVERGED and self.status is not Status.CONVERGED:
            texts.insert(
                0,
                f"a gradient of {self.gradient_after:.3g} of {self.gradient_before:.3g} is left: the minimum "
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
    ``problem.estimate(solset.Remove(points))``, and the gradient of that risk before and after it. A gradient
    that stays says that the step was too short. No noise is added, so that this is no certificate of privacy.

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
        SolsetWarning: If the step does not reach the minimum, or nothing is forgotten.

    Cost: that of the estimate, and two gradients; real training where it is asked for.

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
    before, after = risk.gradient(), risk.at(solution.value).gradient()
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
        gradient_trained=_length(problem.gradient()),
        distance_before=None if distances is None else distances[0],
        distance_after=None if distances is None else distances[1],
    )
    if result.status is not Status.CONVERGED or result.is_unchanged:
        warnings.warn(result.message, SolsetWarning, stacklevel=3)
    return result


def _length(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))
