"""Where a course stands while it is followed, its losses, what it cost so far, and why it ended."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from solset.changes import Change
from solset.courses._course import Course, Station, StopReason
from solset.courses._multistep import Slopes
from solset.risk import EmpiricalRisk, Layout


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


def stated_losses(
    change: Change, start: EmpiricalRisk, there: EmpiricalRisk, losses: Tensor, points: Sequence[int]
) -> tuple[float, float]:
    """The mean loss of the points that change, and that of all points as they count, without weight decay.

    Points whose factors or labels change are watched as they were before, whatever they count by now.

    Args:
        change: Change of the training data that a course follows.
        start: Empirical risk before the change.
        there: Empirical risk of the station, at its weights.
        losses: Loss of each point of this risk times its factor, ``(n,)``.
        points: Indices of the points that change, in the risk of the station; none stands for all.

    Cost: a forward pass of the points, where factors or labels change.
    """
    watched = points or range(len(losses))
    of_moved = float(losses[watched].mean())
    if not change.moves_data(start):
        chosen, before = change.chosen(start), start.at(there.weights)
        if chosen or not points:
            of_moved = float((before.select(chosen) if chosen else before).losses().mean())
    return of_moved, float(losses.sum()) / float(there.total)
