"""Convex sets whose projection is a formula: ball, box, halfspace, simplex."""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from solset.checks import positive, within
from solset.errors import bad_value
from solset.sets._convex import ConvexSet, finite


@dataclass(frozen=True, eq=False, repr=False)
class Ball(ConvexSet):
    """The closed Euclidean ball ``{x : ‖x - center‖ ≤ radius}``.

    Attributes:
        center: Middle of the ball, ``(p,)``.
        radius: Largest distance from the center, 0 or more; 0 is the single point.

    Example:
        >>> Ball(torch.zeros(2), 1.0).project(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """

    center: Tensor
    radius: float

    def __post_init__(self) -> None:
        finite("center", self.center, (self.center.numel(),))
        within("radius", self.radius, 0, cure="Use 0 for one point.")

    @property
    def size(self) -> int:
        """Length of the center."""
        return len(self.center)

    def _nearest(self, point: Tensor) -> Tensor:
        offset = point - self.center
        length = float(torch.linalg.vector_norm(offset))
        return point.clone() if length <= self.radius else self.center + (self.radius / length) * offset


@dataclass(frozen=True, eq=False, repr=False)
class Box(ConvexSet):
    """The box ``{x : lower ≤ x ≤ upper}``, entry by entry; a bound may be infinite.

    Attributes:
        lower: Smallest value of each coordinate, ``(p,)``.
        upper: Largest value of each coordinate, ``(p,)``.

    Example:
        >>> pixels = Box(torch.zeros(3), torch.ones(3))
        >>> pixels.project(torch.tensor([-1.0, 0.5, 2.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        if self.lower.ndim != 1 or self.lower.shape != self.upper.shape:
            raise bad_value(
                "upper",
                expected="a flat vector as long as `lower`",
                got=f"shapes {tuple(self.lower.shape)} and {tuple(self.upper.shape)}",
                cure="Expand both to one entry per coordinate.",
            )
        possible = (self.lower <= self.upper) & (self.lower < torch.inf) & (self.upper > -torch.inf)
        if not bool(possible.all()):
            first = int((~possible).nonzero()[0])
            raise bad_value(
                "upper",
                expected="at least `lower` everywhere, without NaN",
                got=f"lower {float(self.lower[first])}, upper {float(self.upper[first])} at entry {first}",
                cure="An empty box has no nearest point; use infinite bounds for none.",
            )

    @property
    def size(self) -> int:
        """Length of the bounds."""
        return len(self.lower)

    def _nearest(self, point: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(point, self.lower), self.upper)


@dataclass(frozen=True, eq=False, repr=False)
class Halfspace(ConvexSet):
    """The halfspace ``{x : ⟨normal, x⟩ ≤ offset}``.

    Attributes:
        normal: Vector that points out of the set, ``(p,)``, not zero, of any length.
        offset: Bound of the inner product, in its units.

    Example:
        >>> Halfspace(torch.tensor([0.0, 2.0]), 2.0).project(torch.tensor([5.0, 3.0]))
        tensor([5., 1.])
    """

    normal: Tensor
    offset: float

    def __post_init__(self) -> None:
        finite("normal", self.normal, (self.normal.numel(),))
        if not bool((self.normal != 0).any()):
            raise bad_value("normal", expected="not zero", got="zero", cure="Give the halfspace a direction.")
        if not isfinite(self.offset):
            raise bad_value("offset", expected="finite", got=self.offset, cure="Drop the constraint.")

    @property
    def size(self) -> int:
        """Length of the normal."""
        return len(self.normal)

    def _nearest(self, point: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(self.normal)
        unit = self.normal / length
        excess = torch.clamp(unit @ point - self.offset / length, min=0.0)
        return point - excess * unit


@dataclass(frozen=True, eq=False, repr=False)
class Simplex(ConvexSet):
    """The simplex ``{x ≥ 0 : Σ x = total}``; probabilities for a total of 1.

    Attributes:
        coordinates: Number of coordinates ``p``, 1 or more.
        total: Sum of the coordinates, positive; 1 by default.

    Example:
        >>> Simplex(3).project(torch.tensor([0.5, 0.5, -3.0]))
        tensor([0.5000, 0.5000, 0.0000])
    """

    coordinates: int
    total: float = 1.0

    def __post_init__(self) -> None:
        within("coordinates", self.coordinates, 1, cure="Count them from 1.")
        positive("total", self.total, cure="Use 1 for probabilities.")

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return self.coordinates

    def _nearest(self, point: Tensor) -> Tensor:
        return drained(point, torch.ones_like(point, dtype=torch.bool), self.total)


def drained(point: Tensor, signed: Tensor, total: float) -> Tensor:
    """The nearest vector of sum ``total`` whose ``signed`` entries (a mask) are not negative.

    It is ``point - μ`` with the signed entries cut at zero; ``μ`` comes from sorting them (Held, Wolfe &
    Crowder 1974). The total must be positive if every entry is signed.
    """
    descending = torch.sort(point[signed], descending=True).values
    others = point[~signed]
    sums = torch.cat([descending.new_zeros(1), descending.cumsum(0)]) + others.sum() - total
    counts = torch.arange(len(descending) + 1, device=point.device) + len(others)
    levels = sums / counts.clamp(min=1)
    # The largest j entries stay positive, for the largest j such that entry j is above level j.
    stays = int((descending > levels[1:]).sum())
    moved = point - levels[stays]
    return torch.where(signed, moved.clamp(min=0.0), moved)
