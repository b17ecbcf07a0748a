"""Finitely many points: the nonconvex set one can enumerate."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from solset.checks import shaped
from solset.errors import bad_value
from solset.sets._convex import finite, slack_at


@dataclass(frozen=True, eq=False, repr=False)
class PointCloud:
    """The set of the rows of ``points``; without rows it is the empty set.

    Attributes:
        points: Matrix ``(k, p)`` with one point a row.

    Example:
        >>> corners = PointCloud(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        >>> corners
        PointCloud(2 points in R^2)
        >>> corners.distance(torch.tensor([3.0, 3.0]))
        1.0
        >>> PointCloud(torch.empty(0, 2)).distance(torch.zeros(2))
        inf
    """

    points: Tensor

    def __post_init__(self) -> None:
        shaped("points", self.points, (-1, -1), cure="Stack the points with torch.stack, one a row.")
        finite("points", self.points, tuple(self.points.shape))

    @property
    def size(self) -> int:
        """``p``, the length of each point."""
        return self.points.shape[1]

    @property
    def is_empty(self) -> bool:
        """Whether there is no point."""
        return len(self.points) == 0

    def nearest(self, point: Tensor) -> Tensor:
        """A nearest point of the cloud; the first one if several are equally near.

        Args:
            point: Vector from which distances are measured, ``(p,)``.

        Raises:
            ValueError: If the cloud is empty.
        """
        if self.is_empty:
            cure = "Ask for the distance, it is ∞."
            raise bad_value("points", expected="at least one", got="none", cure=cure)
        return self.points[int(self._distances(point).argmin())]

    def distance(self, point: Tensor) -> float:
        """``d(point, C)``, infinite for a cloud without points.

        Args:
            point: Vector whose distance is measured, ``(p,)``.
        """
        return inf if self.is_empty else float(self._distances(point).min())

    def contains(self, point: Tensor, *, distance_tol: float = 1e-8) -> bool:
        """Whether a point of the cloud is within ``distance_tol · max(1, ‖point‖)``.

        Args:
            point: Vector that is tested, ``(p,)``.
            distance_tol: Relative distance that counts as zero.
        """
        return self.distance(point) <= slack_at(point, distance_tol)

    def _distances(self, point: Tensor) -> Tensor:
        return torch.linalg.vector_norm(self.points - finite("point", point, (self.size,)), dim=1)

    def __repr__(self) -> str:
        count = len(self.points)
        return f"PointCloud({count} point{'' if count == 1 else 's'} in R^{self.size})"
