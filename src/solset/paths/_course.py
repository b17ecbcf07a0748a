"""What following a path returns: every station on the way, and why it ended."""

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from solset.errors import Status
from solset.problem import keeps_outputs
from solset.retraining import Retrained
from solset.risk import Layout
from solset.solvers import Solution


class StopReason(StrEnum):
    """Why a path ended."""

    END = "reached the end"
    FOLD = "fold"
    RANK_LOSS = "rank loss"
    UNFITTED = "left the fitted regime"
    KINK = "activation kink"
    SMALL_STEP = "step too small"
    NONFINITE = "not finite"
    BUDGET = "budget"


@dataclass(frozen=True)
class Station:
    """What was found at one point of the course.

    Attributes:
        place: ``τ`` in [0, 1] along the perturbation, or gradient-descent steps taken.
        moved_loss: Mean loss of the moved points, per example, without weight decay.
        all_loss: Mean loss of all points, per example, without weight decay.
        residual: How far from the set: the largest error of an output that is kept, or the norm of the
            gradient of the risk; along a retraining its gradient norm.
        length: Of the path from ``w̄``, in weight units.
        smallest: The smallest singular value of the rows of ``J`` in use, or the smallest eigenvalue of the
            Hessian on the directions searched (an upper bound of the true one); ``nan`` where none was
            computed.
        rows: Rows of ``J`` in use; 0 where none are.
        error: Estimated error of this step along the set, in weight units, which no residual shows; at an
            isolated solution what the last correction left. Along a retraining the defect of the segment
            that it lies in: how far the slopes of the loss are from the linearisation at the segment's end,
            relative to them at its start, a number without unit.
        gradients: Cost from the start, in gradients of all points, by count.
        held: Activations that the path keeps at their kinks there.
    """

    place: float
    moved_loss: float
    all_loss: float
    residual: float
    length: float
    smallest: float
    rows: int
    error: float
    gradients: float
    held: int = 0


@dataclass(frozen=True, eq=False)
class Course:
    """A path in the weights from ``w̄``.

    Attributes:
        stations: In order; the first is ``w̄`` on the clean data, or where retraining starts.
        trail: Weights at the stations, ``(stations, p)``.
        reason: Why it ended.
        message: The same in a sentence, with the place.
        optimality: The map whose set was followed, or ``"retraining"``.
        layout: Names and shapes of the weights.
        nearest: Where asked for, the solution nearest to ``w̄`` for the data at the end, which are not all of
            the perturbation if the course stopped; its status says whether it was found. The end itself is
            *a* point of the set, and depends on the path.
    """

    stations: tuple[Station, ...]
    trail: Tensor
    reason: StopReason
    message: str
    optimality: str
    layout: Layout
    nearest: Retrained | None = None

    @property
    def end(self) -> Station:
        """The last station."""
        return self.stations[-1]

    @property
    def weights(self) -> Tensor:
        """Where it ended, ``(p,)``."""
        return self.trail[-1]

    @property
    def change(self) -> Tensor:
        """``w - w̄`` at the end, ``(p,)``."""
        return self.trail[-1] - self.trail[0]

    @property
    def error(self) -> float:
        """Estimated error of the end, in weight units.

        On a set of kept outputs that of all steps, as if they pointed the same way, along the set. At an
        isolated solution that of the last one: steps before it leave no trace.
        """
        if keeps_outputs(self.optimality):
            return sum(station.error for station in self.stations)
        return self.end.error

    @property
    def is_complete(self) -> bool:
        """Whether it reached the end that was asked for."""
        return self.reason is StopReason.END

    @property
    def smallest(self) -> float:
        """The smallest singular value or eigenvalue seen; ``nan`` if none was."""
        seen = [station.smallest for station in self.stations if station.smallest == station.smallest]
        return min(seen, default=float("nan"))

    @property
    def solution(self) -> Solution:
        """The end as weights that can be applied to a copy of the model."""
        status = Status.CONVERGED if self.is_complete else Status.MAX_STEPS
        status = Status.NONFINITE if self.reason is StopReason.NONFINITE else status
        steps = len(self.stations) - 1
        return Solution(self.weights, status, self.end.residual, steps, self.layout.shapes)

    def at(self, place: float) -> Tensor:
        """Weights at a place of the course, by linear interpolation between its stations, ``(p,)``.

        Args:
            place: Between the first and the last station's.
        """
        places = torch.tensor([station.place for station in self.stations], dtype=torch.float64)
        last = int((places < place).sum())
        if last == 0 or last == len(places):
            return self.trail[min(last, len(places) - 1)]
        share = float((place - places[last - 1]) / (places[last] - places[last - 1]))
        return self.trail[last - 1] + share * (self.trail[last] - self.trail[last - 1])
