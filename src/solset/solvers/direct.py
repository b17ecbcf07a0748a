"""Solvers that see the spectrum: the dense pseudo-inverse and the Gram matrix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.errors import bad_type, bad_value
from solset.linalg import (
    DenseOperator,
    LinearOperator,
    NormalOperator,
    Product,
    Spectrum,
    default_tolerance,
    gram,
    spectrum,
)
from solset.solvers.base import Prepared, Solver, judge
from solset.solvers.filters import Filter, MinimumNorm
from solset.solvers.solution import Solution


@dataclass(frozen=True)
class Dense(Solver):
    """The pseudo-inverse of the matrix written out, with a stated rank cut.

    Attributes:
        rank_tolerance: Relative size below which an eigenvalue (singular value) counts as zero;
            ``None`` takes the larger side times the rounding unit.
        tol: Relative residual up to which the system counts as consistent.
        memory_budget: Bytes the matrix and its decomposition may take.

    Cost: ``min(m, p)`` products, then ``O(min(m, p)² max(m, p))`` operations and ``3·8·m·p`` bytes.
    """

    rank_tolerance: float | None = None
    tol: float = 1e-8
    memory_budget: int = 4 * 2**30

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The eigen-decomposition of a symmetric operator, or that of the smaller Gram side.

        Args:
            operator: The matrix ``A``.

        Raises:
            ValueError: If the matrix does not fit the memory budget.
        """
        m, p = operator.shape
        need = 3 * 8 * m * p
        if need > self.memory_budget:
            raise bad_value(
                "memory_budget",
                expected=f"at least {need} bytes for a dense {m} x {p} matrix",
                got=self.memory_budget,
                cure="Raise it, or take Dual, LSMR or MINRES.",
            )
        tolerance = self.rank_tolerance
        if tolerance is None:
            tolerance = default_tolerance(operator.shape, operator.dtype)
        matrix = operator.to_dense().to(torch.float64)
        if operator.is_symmetric:
            return _SymmetricPrepared(operator, spectrum((matrix + matrix.T) / 2, tolerance), self.tol)
        return _SingularPrepared(operator, matrix, tolerance, self.tol)


class _SymmetricPrepared(Prepared):
    """``A = U diag(s) Uᵀ``."""

    def __init__(self, operator: LinearOperator, decomposition: Spectrum, tol: float) -> None:
        self.operator = operator
        self.spectrum, self.tol = decomposition, tol

    def solve(self, rhs: Tensor) -> Solution:
        return self.filtered(MinimumNorm(), rhs)

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        s = self.spectrum
        phi = choice(s.values, s.kept).unsqueeze(1)
        block = rhs.reshape(rhs.shape[0], -1).to(torch.float64)
        value = (s.vectors @ (phi * (s.vectors.T @ block))).to(rhs.dtype).reshape(rhs.shape)
        return judge(self.operator, value, rhs, self.tol, 0, chosen=choice)

    def curvature(self) -> Prepared:
        return self

    @property
    def rank(self) -> int:
        return self.spectrum.rank


class _SingularPrepared(Prepared):
    """``A = U diag(σ) Vᵀ``; filters act on ``σ²``."""

    def __init__(self, operator: LinearOperator, matrix: Tensor, tolerance: float, tol: float) -> None:
        self.operator = operator
        self.left, self.singular, self.right = torch.linalg.svd(matrix, full_matrices=False)
        self.kept = self.singular > tolerance * self.singular.max()
        self.matrix, self.tolerance, self.tol = matrix, tolerance, tol

    def solve(self, rhs: Tensor) -> Solution:
        inverse = MinimumNorm()(self.singular, self.kept)
        return self._finish(MinimumNorm(), inverse, rhs)

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        return self._finish(choice, self.singular * choice(self.singular**2, self.kept), rhs)

    def _finish(self, choice: Filter, factors: Tensor, rhs: Tensor) -> Solution:
        block = rhs.reshape(rhs.shape[0], -1).to(torch.float64)
        value = self.right.T @ (factors.unsqueeze(1) * (self.left.T @ block))
        value = value.to(rhs.dtype).reshape(-1, *rhs.shape[1:])
        return judge(self.operator, value, rhs, self.tol, 0, chosen=choice)

    def solve_transposed(self, rhs: Tensor) -> Solution:
        inverse = MinimumNorm()(self.singular, self.kept)
        value = (self.left @ (inverse * (self.right @ rhs.to(torch.float64)))).to(rhs.dtype)
        return judge(self.operator.T, value, rhs, self.tol, 0)

    def curvature(self) -> Prepared:
        square = spectrum(self.matrix.T @ self.matrix, self.tolerance)
        return _SymmetricPrepared(NormalOperator(self.operator), square, self.tol)

    @property
    def rank(self) -> int:
        return int(self.kept.sum())


@dataclass(frozen=True)
class Dual(Solver):
    """The minimum-norm solution through the Gram matrix ``AAᵀ`` of the rows, factorised once.

    For a wide ``A`` (fewer rows than weights) this is the cheap side: after one pass for the rows, each
    further right-hand side, filter or projection costs two products. A :class:`NormalOperator`
    ``AᵀA + λI`` is solved through the same Gram matrix.

    Attributes:
        rank_tolerance: Relative size below which an eigenvalue of ``AAᵀ`` counts as zero (singular
            values of ``A`` are resolved down to its square root); ``None`` takes the larger side times
            the rounding unit.
        tol: Relative residual up to which the system counts as consistent.
        memory_budget: Bytes that rows and Gram matrix may take. Rows that fit are kept.

    Cost: ``m`` rows, ``O(m² p + m³)`` operations; ``8(2m² + mp)`` bytes if rows are kept.
    """

    rank_tolerance: float | None = None
    tol: float = 1e-8
    memory_budget: int = 4 * 2**30

    def takes(self, operator: LinearOperator) -> bool:
        """Whether it has rows: rectangular, or symmetric with a known factor."""
        return not operator.is_symmetric or isinstance(operator, NormalOperator)

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The eigen-decomposition of the Gram matrix of the rows.

        Args:
            operator: A rectangular ``A``, or ``AᵀA + λI`` as a :class:`NormalOperator`.

        Raises:
            TypeError: If the operator is symmetric and its factor is not known.
            ValueError: If the Gram matrix does not fit the memory budget.
        """
        if isinstance(operator, NormalOperator):
            return _NormalPrepared(operator, self._gram_side(operator.factor))
        if operator.is_symmetric:
            raise bad_type(
                "operator",
                expected="rectangular rows, or a NormalOperator",
                got=f"a symmetric {type(operator).__name__}",
                cure="Use Dense, CG or MINRES for a full Hessian.",
            )
        return self._gram_side(operator)

    def _gram_side(self, rows: LinearOperator) -> "_DualPrepared":
        m, p = rows.shape
        kept_bytes = m * p * rows.dtype.itemsize
        if kept_bytes + 8 * m * (p + 2 * m) <= self.memory_budget and not isinstance(rows, DenseOperator):
            rows = DenseOperator(rows.to_dense())
        tolerance = self.rank_tolerance
        if tolerance is None:
            tolerance = default_tolerance(rows.shape, rows.dtype)
        matrix = gram(rows, self.memory_budget)
        return _DualPrepared(rows, matrix, tolerance, self.tol)


class _DualPrepared(Prepared):
    """Rows ``A``, their Gram matrix and its spectrum."""

    def __init__(self, rows: LinearOperator, matrix: Tensor, tolerance: float, tol: float) -> None:
        self.operator = rows
        self.gram, self.tol = matrix, tol
        self.spectrum = spectrum(matrix, tolerance)

    def function(self, phi: Tensor, rhs: Tensor) -> Tensor:
        """``φ(AAᵀ) b`` for eigenvalue factors ``phi``, in the dtype of ``b``."""
        vectors = self.spectrum.vectors
        block = rhs.reshape(rhs.shape[0], -1).to(torch.float64)
        return (vectors @ (phi.unsqueeze(1) * (vectors.T @ block))).to(rhs.dtype).reshape(rhs.shape)

    def solve(self, rhs: Tensor) -> Solution:
        """``Aᵀ (AAᵀ)⁺ b`` with one step of iterative refinement."""
        phi = MinimumNorm()(self.spectrum.values, self.spectrum.kept)
        value = self.operator.T @ self.function(phi, rhs)
        value = value + self.operator.T @ self.function(phi, rhs - self.operator @ value)
        return judge(self.operator, value, rhs, self.tol, 0, chosen=MinimumNorm())

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        phi = choice(self.spectrum.values, self.spectrum.kept)
        value = self.operator.T @ self.function(phi, rhs)
        return judge(self.operator, value, rhs, self.tol, 0, chosen=choice)

    def solve_transposed(self, rhs: Tensor) -> Solution:
        """``(AAᵀ)⁺ A c``."""
        phi = MinimumNorm()(self.spectrum.values, self.spectrum.kept)
        value = self.function(phi, self.operator @ rhs)
        return judge(self.operator.T, value, rhs, self.tol, 0)

    def curvature(self) -> Prepared:
        return _NormalPrepared(NormalOperator(self.operator), self)

    @property
    def rank(self) -> int:
        return self.spectrum.rank

    def weighted(self, weights: LinearOperator) -> Prepared:
        half = weights @ self.gram.to(weights.dtype)
        matrix = (weights @ half.T.contiguous()).to(torch.float64)
        rows = Product(weights, self.operator)
        return _DualPrepared(rows, (matrix + matrix.T) / 2, self.spectrum.tolerance, self.tol)


class _NormalPrepared(Prepared):
    """``(AᵀA + λI) v = b`` through the Gram matrix: ``φ(AᵀA + λ) = φ(λ) I + Aᵀ ψ(AAᵀ) A``."""

    def __init__(self, operator: NormalOperator, dual: _DualPrepared) -> None:
        self.operator = NormalOperator(dual.operator, operator.damping)
        self.dual, self.damping = dual, operator.damping

    def solve(self, rhs: Tensor) -> Solution:
        value = self._function(MinimumNorm(), rhs)
        value = value + self._function(MinimumNorm(), rhs - self.operator @ value)
        return judge(self.operator, value, rhs, self.dual.tol, 0, chosen=MinimumNorm())

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        value = self._function(choice, rhs)
        return judge(self.operator, value, rhs, self.dual.tol, 0, chosen=choice)

    def _function(self, choice: Filter, rhs: Tensor) -> Tensor:
        s = self.dual.spectrum
        shifted_values = torch.cat([s.values.new_zeros(1), s.values]) + self.damping
        kept = torch.cat([s.kept.new_zeros(1), s.kept]) | (self.damping > 0)
        phi_zero, phi = choice(shifted_values, kept).split([1, len(s.values)])
        safe = torch.where(s.kept, s.values, torch.ones_like(s.values))
        psi = torch.where(s.kept, (phi - phi_zero) / safe, torch.zeros_like(phi))
        rows = self.dual.operator
        return float(phi_zero) * rhs + rows.T @ self.dual.function(psi, rows @ rhs)

    def curvature(self) -> Prepared:
        return self

    @property
    def rank(self) -> int:
        return self.operator.shape[0] if self.damping > 0 else self.dual.rank
