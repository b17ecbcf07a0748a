"""Where a course stands while it is followed, what it cost so far, and why it ended."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from solset.courses._course import Course, Station, StopReason
from solset.courses._multistep import Slopes
from solset.risk import Layout


@dataclass
class Meter:
    """Adds up the cost of what was computed; the units are those of :mod:`solset.operators`.

    Attributes:
        points: Number ``n`` of training points.
        gradients: Cost so far, in gradients of all points.
    """

    points: int
    gradients: float = 0.0

    def add(self, cost: int | float, *, times: int | float = 1.0) -> None:
        """Adds a number of sweeps over all points, each of a cost in gradients."""
        self.gradients += cost * times

    def add_points(self, cost: int | float, count: int) -> None:
        """Adds work on single points or rows, each of a cost in gradients of its point."""
        self.gradients += cost * count / self.points


@dataclass(frozen=True)
class State:
    """Everything that the next step of a path depends on.

    Attributes:
        weights: Weights at the present station, ``(p,)``.
        station: Numbers at the present station.
        step: Length ``Δτ`` of the step to try next.
        slopes: Slopes ``dw/dτ`` at this station and at the one before.
        reference: Smallest singular value or eigenvalue at the first station, and length of the slope there.
        pairs: Unit vectors and their products with the Hessian, ``(2, p, k)``; ``None`` without a Hessian.
        held: Indices of the activations that the path holds at their kinks.
    """

    weights: Tensor
    station: Station
    step: float
    slopes: Slopes
    reference: tuple[float, float]
    pairs: Tensor | None = None
    held: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ending:
    """Why a path ended.

    Attributes:
        reason: Kind of the end.
        message: Sentence that says the same with the place.
    """

    reason: StopReason
    message: str


def course_of(states: Sequence[State], ending: Ending, optimality: str, layout: Layout) -> Course:
    """The result of a course that ended.

    Args:
        states: States at all stations, in order.
        ending: Reason and message of the end.
        optimality: Map whose set was followed, or ``"retraining"``.
        layout: Names and shapes of the weights.
    """
    return Course(
        stations=tuple(state.station for state in states),
        trail=torch.stack([state.weights for state in states]),
        reason=ending.reason,
        message=ending.message,
        optimality=optimality,
        layout=layout,
    )
