"""Cost by count: one unit is a gradient of the risk over all points."""

from dataclasses import dataclass

FORWARD = 1 / 3  # a gradient is a forward pass and a backward pass of twice its work
HESSIAN_PRODUCT = 2.0
JACOBIAN_PRODUCT = 1.0
INPUT_JACOBIAN = 1.5  # graph, and a sweep through it, of the points concerned
ROW = 1.0  # one backward pass of one point, with its share of the forward pass
FACTOR_ROW = 1.5  # the same with its part of the p × p matrix of inner products


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
