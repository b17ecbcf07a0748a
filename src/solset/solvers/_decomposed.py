"""The Gram side by an eigen-decomposition in memory: any filter, any rank."""

from functools import cached_property

import torch
from torch import Tensor

from solset.linalg import (
    DenseOperator,
    LeftSide,
    LinearOperator,
    NormalOperator,
    Product,
    Spectrum,
    default_tolerance,
    spectrum,
)
from solset.solvers._base import Prepared, judge
from solset.solvers._gram_side import GramPrepared
from solset.solvers._solution import Solution
from solset.solvers.filters import Filter, MinimumNorm, RankCut


class DualPrepared(GramPrepared):
    """Rows ``A``, their Gram matrix and the spectrum of ``D AAᵀ D``, where ``D`` is one or equilibrates.

    Args:
        rows: ``A``.
        matrix: ``AAᵀ`` in float64.
        tolerance: Relative size below which an eigenvalue counts as zero.
        tol: Relative residual up to which a system counts as consistent.
        is_equilibrated: Whether ``D`` scales the rows to length one.
    """

    def __init__(
        self,
        rows: LinearOperator,
        matrix: Tensor,
        tolerance: float,
        tol: float,
        *,
        is_equilibrated: bool = False,
    ) -> None:
        self.operator = rows
        self._gram, self.tolerance, self.tol = matrix, tolerance, tol
        lengths = matrix.diagonal().sqrt()
        one = torch.ones_like(lengths)
        is_scaled = is_equilibrated & (lengths > 0)
        self.scale = torch.where(is_scaled, 1 / torch.where(is_scaled, lengths, one), one)
        self.is_equilibrated = is_equilibrated

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of the scaled Gram matrix."""
        return spectrum(self.scale.unsqueeze(1) * self.gram * self.scale, self.tolerance)

    @cached_property
    def plain(self) -> "DualPrepared":
        """The same rows without equilibration."""
        return (
            DualPrepared(self.operator, self.gram, self.tolerance, self.tol) if self.is_equilibrated else self
        )

    def function(self, phi: Tensor, rhs: Tensor) -> Tensor:
        """``D φ(D AAᵀ D) D b`` for eigenvalue factors ``phi``, in the dtype of ``b``."""
        vectors, scale = self.spectrum.vectors, self.scale.unsqueeze(1)
        block = scale * rhs.reshape(rhs.shape[0], -1).to(torch.float64)
        found = scale * (vectors @ (phi.unsqueeze(1) * (vectors.T @ block)))
        return found.to(rhs.dtype).reshape(rhs.shape)

    def solve(self, rhs: Tensor) -> Solution:
        """``Aᵀ (AAᵀ)⁺ b`` with one step of iterative refinement."""
        phi = MinimumNorm()(self.spectrum.values, self.spectrum.kept)
        value = self.operator.T @ self.function(phi, rhs)
        value = value + self.operator.T @ self.function(phi, rhs - self.operator @ value)
        return judge(self.operator, value, rhs, self.tol, 0, chosen=MinimumNorm())

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """``Aᵀ φ(AAᵀ) b``; a rank cut acts on the scaled rows, every other filter on the rows as they are."""
        if not isinstance(choice, MinimumNorm | RankCut) and self.is_equilibrated:
            return self.plain.filtered(choice, rhs)
        phi = choice(self.spectrum.values, self.spectrum.kept)
        value = self.operator.T @ self.function(phi, rhs)
        return judge(self.operator, value, rhs, self.tol, 0, chosen=choice)

    def solve_transposed(self, rhs: Tensor) -> Solution:
        """``(AAᵀ)⁺ A c``."""
        if self.is_equilibrated and self.rank < len(self.gram):
            # Of dependent rows the shortest answer is not the scaled one.
            return self.plain.solve_transposed(rhs)
        phi = MinimumNorm()(self.spectrum.values, self.spectrum.kept)
        value = self.function(phi, self.operator @ rhs)
        return judge(self.operator.T, value, rhs, self.tol, 0)

    def curvature(self, damping: float = 0.0) -> Prepared:
        """``AᵀA + λI`` through the same Gram matrix."""
        return NormalPrepared(NormalOperator(self.operator, damping), self.plain)

    @property
    def rank(self) -> int:
        """Eigenvalues above the tolerance."""
        return self.spectrum.rank

    def left_side(self) -> LeftSide:
        """The decomposition of the rows by their Gram matrix, refined by the rows themselves."""
        return LeftSide.of_gram(self.gram, self.tolerance).refined(self.operator)

    @property
    def conditioning(self) -> float:
        """The smallest eigenvalue relative to the largest."""
        values = self.spectrum.values
        return float(values[0] / values[-1]) if bool(values[-1] > 0) else 0.0

    @property
    def gram(self) -> Tensor:
        """The Gram matrix in memory."""
        return self._gram

    @property
    def matrix(self) -> Tensor:
        """In memory."""
        return self.gram

    @property
    def smallest(self) -> float:
        """As of the spectrum; rounding may leave it below zero, which counts as zero."""
        return max(float(self.spectrum.values[0]), 0.0)

    @property
    def is_finite(self) -> bool:
        """Of the matrix in memory."""
        return bool(torch.isfinite(self.gram).all())

    def whitening(self) -> LinearOperator:
        """``Λ^{-1/2} Vᵀ D`` on the eigenvalues that count."""
        kept, dtype = self.spectrum.kept, self.operator.dtype
        roots = self.spectrum.values[kept].rsqrt().unsqueeze(1)
        return DenseOperator((roots * self.spectrum.vectors[:, kept].T * self.scale).to(dtype))

    def weighted(self, weights: LinearOperator) -> Prepared:
        """``W A``, whose Gram matrix is ``W AAᵀ Wᵀ``: no row is computed again."""
        half = weights @ self.gram.to(weights.dtype)
        matrix = (weights @ half.T.contiguous()).to(torch.float64)
        rows = Product(weights, self.operator)
        noise = default_tolerance(rows.shape, weights.dtype) if weights.dtype != torch.float64 else 0.0
        return DualPrepared(rows, (matrix + matrix.T) / 2, max(self.tolerance, noise), self.tol)


class NormalPrepared(Prepared):
    """``(AᵀA + λI) v = b`` through the Gram matrix: ``φ(AᵀA + λ) = φ(λ) I + Aᵀ ψ(AAᵀ) A``.

    Args:
        operator: ``AᵀA + λI`` of the very rows that are prepared.
        dual: ``A``, prepared.
    """

    def __init__(self, operator: NormalOperator, dual: DualPrepared) -> None:
        self.operator, self.dual, self.damping = operator, dual, operator.damping

    def solve(self, rhs: Tensor) -> Solution:
        """The minimum-norm solution, with one step of iterative refinement."""
        value = self._function(MinimumNorm(), rhs)
        value = value + self._function(MinimumNorm(), rhs - self.operator @ value)
        return judge(self.operator, value, rhs, self.dual.tol, 0, chosen=MinimumNorm())

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """``φ(AᵀA + λI) b``."""
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
        """Itself."""
        return self

    @property
    def rank(self) -> int:
        """``p`` with damping; else that of the rows."""
        return self.operator.shape[0] if self.damping > 0 else self.dual.rank
