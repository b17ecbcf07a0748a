"""What a closed convex set must do, and the checks that all of them share."""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from solset.errors import bad_value


@runtime_checkable
class ClosedSet(Protocol):
    """Any closed set that can say how far a point is from it, convex or not."""

    def distance(self, point: Tensor) -> float:
        """``d(point, C)``, infinite if the set is empty."""
        ...

    def contains(self, point: Tensor, *, tol: float = 1e-8) -> bool:
        """Whether the point lies in the set up to ``tol``."""
        ...


class ConvexSet(ABC):
    """A non-empty closed convex set of vectors ``(p,)``, known by its projection.

    A subclass gives ``size`` and ``_nearest``; points keep their dtype.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """``p``, the length of its vectors."""

    @abstractmethod
    def _nearest(self, point: Tensor) -> Tensor:
        """The projection of a finite point ``(p,)``."""

    def project(self, point: Tensor) -> Tensor:
        """The one nearest point of the set.

        Args:
            point: ``(p,)``.

        Raises:
            ValueError: If the point has another shape or is not finite.
        """
        return self._nearest(finite("point", point, (self.size,)))

    def distance(self, point: Tensor) -> float:
        """``d(point, C)``.

        Args:
            point: ``(p,)``.
        """
        return float(torch.linalg.vector_norm(point - self.project(point)))

    def contains(self, point: Tensor, *, tol: float = 1e-8) -> bool:
        """Whether ``d(point, C) ≤ tol · max(1, ‖point‖)``.

        Args:
            point: ``(p,)``.
            tol: Relative tolerance; float32 points need about 1e-6.
        """
        return self.distance(point) <= tol * max(1.0, float(torch.linalg.vector_norm(point)))


def finite(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The value, once it has the shape and only finite entries.

    Args:
        name: The argument's name.
        value: What came.
        shape: What it must look like.

    Raises:
        ValueError: If shape or entries are wrong.
    """
    if tuple(value.shape) != shape:
        raise bad_value(
            name, expected=f"of shape {shape}", got=f"shape {tuple(value.shape)}", cure="Pass a flat vector."
        )
    if not bool(torch.isfinite(value).all()):
        raise bad_value(
            name, expected="finite", got="NaN or infinite entries", cure="Find where they come from."
        )
    return value
