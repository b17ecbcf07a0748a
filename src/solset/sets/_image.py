"""The image ``{x₀ + M z}`` of a linear map, written as an :class:`AffineSet`."""

import torch
from torch import Tensor

from solset.errors import Status
from solset.linalg import Identity, LinearOperator
from solset.sets._affine import AffineSet
from solset.solvers import LSMR, Prepared, Solution
from solset.solvers.filters import Filter

MAX_DENSE = 500  # rows or columns of a matrix that is written out


class _OffRange(LinearOperator):
    """``x ↦ x - M M⁺ x``, the orthogonal projector whose kernel is ``range M``."""

    is_symmetric = True

    def __init__(self, generators: LinearOperator, solver: LSMR) -> None:
        q = generators.shape[0]
        super().__init__((q, q), generators.dtype, generators.device)
        self._prepared = solver.prepare(generators)

    def _apply(self, block: Tensor) -> Tensor:
        return block - self._prepared.operator @ self._prepared.solve(block).value


class _OffColumns(LinearOperator):
    """``x ↦ x - U Uᵀ x`` with an orthonormal basis ``U`` of the range, ``(q, r)``."""

    is_symmetric = True

    def __init__(self, basis: Tensor) -> None:
        super().__init__((len(basis), len(basis)), basis.dtype, basis.device)
        self._basis = basis

    def _apply(self, block: Tensor) -> Tensor:
        return block - self._basis @ (self._basis.T @ block)


def _off_range(generators: LinearOperator) -> tuple[LinearOperator, int | None]:
    """The projector off the range of ``M``, and its rank where a decomposition shows it.

    Products with ``M`` carry rounding of solves, which an iteration would take for a part of the range.
    """
    q, r = generators.shape
    if max(q, r) > MAX_DENSE:
        return _OffRange(generators, LSMR(tol=1e-12)), None
    left, values, _ = torch.linalg.svd(generators.to_dense(), full_matrices=False)
    rounding = torch.finfo(values.dtype).eps ** 0.5
    basis = left[:, values > rounding * values.max()]
    return _OffColumns(basis), q - basis.shape[1]


class _Projector(Prepared):
    """A projector is its own pseudo-inverse."""

    def __init__(self, operator: LinearOperator, rank: int | None) -> None:
        self.operator, self._rank = operator, rank

    def solve(self, rhs: Tensor) -> Solution:
        return Solution(self.operator @ rhs, Status.CONVERGED, 0.0, 0)

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        ones = torch.ones(1, dtype=torch.float64)
        return self.solve(rhs).with_value(float(choice(ones, ones > 0)) * (self.operator @ rhs))

    def curvature(self) -> Prepared:
        return self

    @property
    def rank(self) -> int | None:
        return self._rank


def affine_image(point: Tensor, generators: LinearOperator | None, *, defect: float = 0.0) -> AffineSet:
    """The set ``{point + M z : z}`` as an :class:`AffineSet`.

    Args:
        point: Point ``x₀`` of the set, ``(q,)``.
        generators: Matrix ``M``, ``(q, r)``; ``None`` for the single point.
        defect: Relative residual of the system that gave ``x₀``; above the tolerance the set is empty.

    Cost: one decomposition of ``M`` where both of its sides are at most 500; else nothing here, and an inner
    solve by LSMR at each projection.
    """
    if generators is None:
        system: Prepared = _Projector(Identity(len(point), point.dtype, point.device), len(point))
        return AffineSet(system, point, torch.zeros_like(point), defect=defect)
    system = _Projector(*_off_range(generators))
    return AffineSet(system, system.operator @ point, torch.zeros_like(point), defect=defect)
