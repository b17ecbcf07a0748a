"""What following a course returns: every station on the way, and why it ended."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from solset.courses._retrained import Retrained
from solset.errors import Status
from solset.problem import keeps_outputs
from solset.results import Result, TableResult, WeightsResult, computed
from solset.risk import Layout


class StopReason(StrEnum):
    """Why a course ended."""

    END = "reached the end"
    FOLD = "fold"
    BIFURCATION = "bifurcation"
    RANK_LOSS = "rank loss"
    UNFITTED = "left the fitted regime"
    KINK = "activation kink"
    SMALL_STEP = "step too small"
    NONFINITE = "not finite"
    BUDGET = "budget"


@dataclass(frozen=True, repr=False)
class Station(Result):
    """The numbers at one point of a course.

    Attributes:
        place: Place ``τ`` in [0, 1] along the change, or number of gradient-descent steps taken.
        moved_loss: Mean loss of the moved points, per example, without weight decay. Where factors or class
            labels change it is that of the points as they were before, whatever they count on the way.
        all_loss: Mean loss of all points as they count there, per example, without weight decay.
        residual: Distance from the set: the largest error of an output that is kept, or the norm of the
            gradient of the risk. Along a retraining it is the gradient norm.
        length: Length of the course from its start, in weight units.
        smallest: Smallest singular value of the rows of ``J`` in use, or smallest eigenvalue of the Hessian
            on the directions searched (an upper bound of the true one); ``nan`` where none was computed.
        rows: Number of rows of ``J`` in use; 0 where none are.
        error: Estimated error of this step along the set, in weight units, which no residual shows; at an
            isolated solution, what the last correction left. Along a retraining it is the defect of the
            segment that contains the station, without unit, as :func:`solset.retraining.follow_retraining`
            defines it at ``max_defect``.
        gradients: Cost from the start, in gradients of all points.
        held: Number of activations that the path holds at their kinks there.
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

    @property
    def headline(self) -> str:
        """The place, the loss of all points, the residual and the cost."""
        return (
            f"place {self.place:.4g}: loss {self.all_loss:.3g}, residual {self.residual:.3g}, "
            f"{self.gradients:.3g} gradients"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Course(WeightsResult, TableResult):
    """A course of the weights, from the trained ones to where it ended.

    Attributes:
        stations: Stations in order; the first is the trained point on the clean data, or on the changed data
            where a retraining starts.
        trail: Weights at the stations, ``(stations, p)``.
        reason: Reason why the course ended.
        message: Sentence that says the same with the place.
        optimality: Map whose set was followed, or ``"retraining"``.
        layout: Names and shapes of the weights.
        nearest: Solution nearest to ``w̄``, if it was asked for, for the data at the end of the course, which
            are not the whole change if the course stopped early; its status says whether it was found. The
            end of the course itself is *a* point of the set, and depends on the path.
    """

    stations: tuple[Station, ...]
    trail: Tensor
    reason: StopReason
    message: str
    optimality: str
    layout: Layout = field(repr=False)
    nearest: Retrained | None = None

    @property
    def headline(self) -> str:
        """Reason and place of the end, and the distance from the trained weights."""
        return f"{self.message}; ‖w - w̄‖ = {float(self.change.norm()):.4g}, {len(self.stations)} stations"

    @computed
    def status(self) -> Status:
        """``converged`` at the end that was asked for, ``nonfinite``, or ``max_steps`` at any other end."""
        if self.reason is StopReason.NONFINITE:
            return Status.NONFINITE
        return Status.CONVERGED if self.is_complete else Status.MAX_STEPS

    def rows(self) -> list[dict[str, Any]]:
        """One dict per station, with the attributes of :class:`Station`."""
        return [asdict(station) for station in self.stations]

    def _named_weights(self) -> tuple[Tensor, Mapping[str, torch.Size]]:
        return self.trail[-1], self.layout.shapes

    @property
    def end(self) -> Station:
        """The last station."""
        return self.stations[-1]

    @property
    def change(self) -> Tensor:
        """Difference of the last and the first weights, ``(p,)``."""
        return self.trail[-1] - self.trail[0]

    @property
    def error(self) -> float:
        """Estimated error of the end, in weight units.

        On a set of kept outputs it is the sum over all steps, as if their errors pointed the same way along
        the set. At an isolated solution it is that of the last step: earlier errors leave no trace.
        """
        if keeps_outputs(self.optimality):
            return sum(station.error for station in self.stations)
        return self.end.error

    @property
    def is_complete(self) -> bool:
        """Whether the course reached the end that was asked for."""
        return self.reason is StopReason.END

    @property
    def smallest(self) -> float:
        """The smallest singular value or eigenvalue on the way; ``nan`` if none was computed."""
        seen = [station.smallest for station in self.stations if station.smallest == station.smallest]
        return min(seen, default=float("nan"))

    def at(self, place: float) -> Tensor:
        """Weights at a place of the course, by linear interpolation between its stations, ``(p,)``.

        Args:
            place: Place between those of the first and the last station.
        """
        places = torch.tensor([station.place for station in self.stations], dtype=torch.float64)
        last = int((places < place).sum())
        if last == 0 or last == len(places):
            return self.trail[min(last, len(places) - 1)]
        share = float((place - places[last - 1]) / (places[last] - places[last - 1]))
        return self.trail[last - 1] + share * (self.trail[last] - self.trail[last - 1])
