"""Finitely many linear inequalities."""

from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

from solset.errors import bad_value
from solset.sets._convex import ConvexSet, finite


@dataclass(frozen=True, eq=False, repr=False)
class Polyhedron(ConvexSet):
    """The polyhedron ``{x : A x ≤ b}``.

    The projection is the least-distance problem of Lawson & Hanson (*Solving Least Squares Problems*,
    chapter 23), solved by non-negative least squares, a finite active-set method, and polished on the active
    rows. It is computed in float64.

    Attributes:
        matrix: Coefficients ``A`` of the inequalities, ``(m, p)``.
        bounds: Right-hand sides ``b``, ``(m,)``; an entry may be ``+∞``.

    Raises:
        ValueError: If the polyhedron is empty or an entry is not a number.

    Cost: ``O(m p²)`` operations for each change of the active set.

    Example:
        >>> corner = Polyhedron(torch.eye(2), torch.zeros(2))
        >>> corner.project(torch.tensor([1.0, -2.0]))
        tensor([ 0., -2.])
    """

    matrix: Tensor
    bounds: Tensor

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.bounds.shape != self.matrix.shape[:1]:
            raise bad_value(
                "bounds",
                expected="one entry for each row of `matrix` (m, p)",
                got=f"shapes {tuple(self.matrix.shape)} and {tuple(self.bounds.shape)}",
                cure="Write one inequality a row.",
            )
        finite("matrix", self.matrix, tuple(self.matrix.shape))
        if bool(torch.isnan(self.bounds).any()):
            raise bad_value("bounds", expected="numbers", got="NaN", cure="Use +∞ for no bound.")
        rows, bounds = self._unit_rows()
        if bool((bounds == -torch.inf).any()) or _within_rounding(rows, bounds, 0.0) is None:
            raise bad_value(
                "bounds",
                expected="bounds of a non-empty polyhedron",
                got="inequalities that contradict each other",
                cure="Loosen a bound.",
            )

    @property
    def size(self) -> int:
        """Number of columns of the matrix."""
        return self.matrix.shape[1]

    def slack(self, point: Tensor) -> Tensor:
        """``b - A x`` with rows of unit length: the distance to each hyperplane, ``(m,)``.

        Args:
            point: Vector ``x`` whose slack is measured, ``(p,)``.
        """
        lengths = torch.linalg.vector_norm(self.matrix, dim=1)
        return (self.bounds - self.matrix @ point) / torch.where(lengths > 0, lengths, 1.0)

    def _unit_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The inequalities that some point violates, scaled to rows of unit length."""
        matrix = self.matrix.detach().to("cpu", torch.float64)
        bounds = self.bounds.detach().to("cpu", torch.float64)
        lengths = torch.linalg.vector_norm(matrix, dim=1)
        is_active = (bounds < torch.inf) & ((lengths > 0) | (bounds < 0))
        scale = torch.where(lengths > 0, lengths, 1.0)
        return (matrix / scale[:, None])[is_active].numpy(), (bounds / scale)[is_active].numpy()

    def _nearest(self, point: Tensor) -> Tensor:
        rows, bounds = self._unit_rows()
        start = point.detach().to("cpu", torch.float64).numpy()
        change = _within_rounding(rows, bounds - rows @ start, float(np.linalg.norm(start)))
        if change is None:
            raise bad_value(
                "point",
                expected="at a distance the polyhedron can resolve",
                got=f"a point of length {np.linalg.norm(start):.3g}",
                cure="The polyhedron is empty up to rounding at this scale; rescale it.",
            )
        return torch.from_numpy(start + change).to(point.device, point.dtype)


def _within_rounding(rows: np.ndarray, bounds: np.ndarray, size: float) -> np.ndarray | None:
    """The least-distance solution; bounds that contradict each other by rounding only are loosened."""
    exact = _least_distance(rows, bounds)
    if exact is not None:
        return exact
    return _least_distance(rows, bounds + 1e-13 * max(size, float(np.abs(bounds).max())))


def _least_distance(rows: np.ndarray, bounds: np.ndarray) -> np.ndarray | None:
    """The shortest ``z`` with ``rows @ z ≤ bounds`` (rows of unit length), or ``None`` if there is none."""
    shortest = np.zeros(rows.shape[1])
    scale = float(max(-bounds, default=0.0))
    if scale <= 0.0:
        return shortest
    # The residual of the least squares is 1 / √(1 + ‖z‖²/scale²). The first pass is scaled by the largest
    # violation, which may be far too small; the second pass at the length of its result is exact.
    goal = np.append(np.zeros(rows.shape[1]), 1.0)
    multipliers = np.zeros(len(rows))
    for _ in range(2):
        system = np.vstack([-rows.T, -bounds / scale])
        multipliers, size = scipy.optimize.nnls(system, goal)
        if size < 1e-9:
            return None
        residual = system @ multipliers - goal
        shortest = -scale * residual[:-1] / residual[-1]
        scale = max(scale, float(np.linalg.norm(shortest)))
    active = multipliers > 1e-12 * multipliers.max()
    polished = np.linalg.lstsq(rows[active], bounds[active], rcond=None)[0]
    is_better = max(rows @ polished - bounds) <= max(1e-14 * scale, *(rows @ shortest - bounds))
    return polished if is_better else shortest
