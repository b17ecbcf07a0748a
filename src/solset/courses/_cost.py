"""Adds up the cost of a computation, counted in gradients of the whole training set."""

from dataclasses import dataclass


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
