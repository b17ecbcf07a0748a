"""What a closed set can do, and the base of all convex sets."""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from solset.checks import shaped
from solset.errors import bad_value


@runtime_checkable
class ClosedSet(Protocol):
    """A closed set, convex or not, that can say how far a point is from it."""

    def distance(self, point: Tensor) -> float:
        """``d(point, C)``, infinite if the set is empty."""
        ...

    def contains(self, point: Tensor, *, distance_tol: float = 1e-8) -> bool:
        """Whether the point lies in the set, up to a relative distance of ``distance_tol``."""
        ...


class ConvexSet(ABC):
    """A non-empty closed convex set of vectors ``(p,)``, known by its projection.

    A subclass defines ``size`` and ``_nearest``; points keep their dtype.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """``p``, the length of the vectors in the set."""

    @abstractmethod
    def _nearest(self, point: Tensor) -> Tensor:
        """The projection of a finite point ``(p,)``."""

    def project(self, point: Tensor) -> Tensor:
        """The one nearest point of the set.

        Args:
            point: Finite vector that is projected, ``(p,)``.

        Raises:
            ValueError: If the point has another shape or is not finite.
        """
        return self._nearest(finite("point", point, (self.size,)))

    def distance(self, point: Tensor) -> float:
        """``d(point, C)``.

        Args:
            point: Vector whose distance is measured, ``(p,)``.
        """
        return float(torch.linalg.vector_norm(point - self.project(point)))

    def contains(self, point: Tensor, *, distance_tol: float = 1e-8) -> bool:
        """Whether ``d(point, C) ≤ distance_tol · max(1, ‖point‖)``.

        Args:
            point: Vector that is tested, ``(p,)``.
            distance_tol: Relative distance that counts as zero; float32 points need about 1e-6.
        """
        return self.distance(point) <= slack_at(point, distance_tol)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(in R^{self.size})"


def slack_at(point: Tensor, distance_tol: float) -> float:
    """The absolute distance that counts as zero at a point."""
    return distance_tol * max(1.0, float(torch.linalg.vector_norm(point)))


def finite(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The value, refused if it has another shape or an entry that is not finite."""
    shaped(name, value, shape, cure="Pass a tensor of that shape.")
    if not bool(torch.isfinite(value).all()):
        got = "NaN or infinite entries"
        raise bad_value(name, expected="finite", got=got, cure="Find where they come from.")
    return value
