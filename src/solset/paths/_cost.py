"""Adds up cost by count: see :mod:`solset.operators._cost`."""

from dataclasses import dataclass


@dataclass
class Meter:
    """Adds up what was computed.

    Attributes:
        points: ``n``.
        gradients: Counted so far.
    """

    points: int
    gradients: float = 0.0

    def add(self, cost: int | float, *, times: int | float = 1.0) -> None:
        """Counts a sweep over all points.

        Args:
            cost: Of one, in gradients.
            times: How many.
        """
        self.gradients += cost * times

    def add_points(self, cost: int | float, count: int) -> None:
        """Counts work on single points.

        Args:
            cost: Per point, in gradients of that point.
            count: How many points or rows.
        """
        self.gradients += cost * count / self.points
