"""Finitely many points: the nonconvex set one can enumerate."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from solset.errors import bad_value
from solset.sets._convex import finite


@dataclass(frozen=True, eq=False)
class PointCloud:
    """The set of the rows of ``points``; without rows it is the empty set.

    Attributes:
        points: ``(k, p)``.

    Example:
        >>> corners = PointCloud(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        >>> corners.distance(torch.tensor([3.0, 3.0]))
        1.0
        >>> PointCloud(torch.empty(0, 2)).distance(torch.zeros(2))
        inf
    """

    points: Tensor

    def __post_init__(self) -> None:
        if self.points.ndim != 2:
            raise bad_value(
                "points",
                expected="a matrix (k, p) with one point a row",
                got=f"shape {tuple(self.points.shape)}",
                cure="Stack the points with torch.stack.",
            )
        finite("points", self.points, tuple(self.points.shape))

    @property
    def size(self) -> int:
        """``p``, the length of its points."""
        return self.points.shape[1]

    @property
    def is_empty(self) -> bool:
        """Whether there is no point."""
        return len(self.points) == 0

    def nearest(self, point: Tensor) -> Tensor:
        """A nearest point of the cloud, the first of them where several are.

        Args:
            point: ``(p,)``.

        Raises:
            ValueError: If the cloud is empty.
        """
        if self.is_empty:
            raise bad_value(
                "points", expected="at least one", got="none", cure="Ask for the distance, it is ∞."
            )
        return self.points[int(self._distances(point).argmin())]

    def distance(self, point: Tensor) -> float:
        """``d(point, C)``, infinite for no points.

        Args:
            point: ``(p,)``.
        """
        return inf if self.is_empty else float(self._distances(point).min())

    def contains(self, point: Tensor, *, tol: float = 1e-8) -> bool:
        """Whether a point of the cloud is within ``tol · max(1, ‖point‖)``.

        Args:
            point: ``(p,)``.
            tol: Relative tolerance.
        """
        return self.distance(point) <= tol * max(1.0, float(torch.linalg.vector_norm(point)))

    def _distances(self, point: Tensor) -> Tensor:
        return torch.linalg.vector_norm(self.points - finite("point", point, (self.size,)), dim=1)
