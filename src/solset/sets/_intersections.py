"""A box cut by a ball or by a halfspace: each projection is a search for one number."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from solset.errors import bad_value
from solset.sets._bodies import Ball, Box, Halfspace
from solset.sets._convex import ConvexSet, finite


@dataclass(frozen=True, eq=False, repr=False)
class BoxedBall(ConvexSet):
    """The points of a ball that also lie in a box: a norm budget within valid features.

    The projection of ``z`` is ``clamp(c + t(z - c))`` for the largest ``t`` in ``[0, 1]`` that stays in the
    ball (the Lagrangian of the ball's constraint separates over the coordinates). A bisection from the inside
    finds it, so that the norm of the result never exceeds the radius.

    Attributes:
        box: Bounds of each coordinate, ``lower ≤ x ≤ upper``.
        ball: Bound of the distance from a center, ``‖x - c‖ ≤ r``.

    Raises:
        ValueError: If the sizes differ, or no point of the box is in the ball.

    Example:
        >>> pixels = Box(torch.zeros(2), torch.ones(2))
        >>> BoxedBall(pixels, Ball(torch.zeros(2), 0.5)).project(torch.tensor([-3.0, 4.0]))
        tensor([0.0000, 0.5000])
    """

    box: Box
    ball: Ball

    def __post_init__(self) -> None:
        if self.box.size != self.ball.size:
            expected, cure = f"of size {self.box.size}, like the box", "Give one center entry per coordinate."
            raise bad_value("ball", expected=expected, got=self.ball.size, cure=cure)
        closest = self.box.distance(self.ball.center)
        if closest > self.ball.radius:
            raise bad_value(
                "ball",
                expected="one that meets the box",
                got=f"radius {self.ball.radius:g} around a center {closest:g} away from it",
                cure="The set is empty: enlarge the radius or the box.",
            )

    @property
    def size(self) -> int:
        """Length of the vectors."""
        return self.box.size

    def farthest(self, direction: Tensor) -> Tensor:
        """A point of the set that is farthest along a direction, ``argmax ⟨d, x⟩``.

        Args:
            direction: Vector ``d``, ``(p,)``; a coordinate with entry 0 stays nearest to the center.
        """
        finite("direction", direction, (self.size,))
        closest = self.box.project(self.ball.center)
        sides = torch.where(direction > 0, self.box.upper, self.box.lower)
        corner = torch.where(direction == 0, closest, sides)
        if self._is_inside(corner):
            return corner
        unit, reach = direction / direction.abs().max(), 1.0
        while self._holds(unit, reach):
            reach *= 2
        return self._along(unit, _last_inside(lambda t: self._holds(unit, t), 0.0, reach))

    def _nearest(self, point: Tensor) -> Tensor:
        direct = self.box.project(point)
        if self._is_inside(direct):
            return direct
        offset = point - self.ball.center
        length = _last_inside(lambda t: self._holds(offset, t), 0.0, 1.0)
        return self._along(offset, length)

    def _along(self, offset: Tensor, length: float) -> Tensor:
        return self.box.project(self.ball.center + length * offset)

    def _holds(self, offset: Tensor, length: float) -> bool:
        return self._is_inside(self._along(offset, length))

    def _is_inside(self, point: Tensor) -> bool:
        return float(torch.linalg.vector_norm(point - self.ball.center)) <= self.ball.radius


@dataclass(frozen=True, eq=False, repr=False)
class BoxedCone(ConvexSet):
    """The intersection of a box's tangent cone with a halfspace through 0.

    It is the tangent cone of a :class:`BoxedBall` where both bounds are active: the cone of an intersection
    is the intersection of the cones if the set has an interior (Rockafellar & Wets, theorem 6.42).
    """

    box: Box  # Tangent cone of the box, with bounds 0 or infinite
    halfspace: Halfspace  # Tangent cone of the ball, ``⟨n, v⟩ ≤ 0``

    @property
    def size(self) -> int:
        """Length of the vectors."""
        return self.box.size

    def _nearest(self, point: Tensor) -> Tensor:
        normal = self.halfspace.normal / torch.linalg.vector_norm(self.halfspace.normal)

        def along(length: float) -> Tensor:
            return self.box.project(point - length * normal)

        def is_outside(length: float) -> bool:
            return float(normal @ along(length)) > 0.0

        if not is_outside(0.0):
            return along(0.0)
        reach = max(float(torch.linalg.vector_norm(point)), torch.finfo(point.dtype).tiny)
        while is_outside(reach):
            reach *= 2
        return along(_last_inside(is_outside, 0.0, reach))


def _last_inside(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest number at which ``holds`` is true, up to rounding; true at ``low``, false at ``high``."""
    for _ in range(400):
        middle = sqrt(low * high) if low > 0.0 else (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
