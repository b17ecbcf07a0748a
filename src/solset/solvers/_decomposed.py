"""A Gram matrix: what is kept of it anywhere, and its decomposition in memory for any filter and rank."""

from abc import abstractmethod
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from solset.errors import Status
from solset.linalg import (
    CLOSE,
    ROUNDING,
    DenseOperator,
    KeptRows,
    LeftSide,
    LinearOperator,
    MaskedRows,
    NormalOperator,
    Product,
    Spectrum,
    default_tolerance,
    equilibrated,
    sharp_spectrum,
    spectrum,
    stacked,
)
from solset.solvers._base import Factor, Prepared, Solution, judge, relative_residual
from solset.solvers.filters import Filter, MinimumNorm, RankCut

HIDDEN = 1e-10  # relative eigenvalue of a Gram matrix whose inverse is off by a millionth
ROUNDED = 25  # units of rounding up to which a residual is that of the products with many columns
DRAWS = 8  # random combinations of rows that are close to zero in the Gram matrix


class GramPrepared(Prepared):
    """Rows ``A`` with what is kept of their Gram matrix ``AAᵀ``.

    Args:
        rows: The matrix ``A``, ``(m, p)``.
        tolerance: Relative size below which an eigenvalue counts as zero.
        tol: Relative residual up to which a system counts as consistent.
        is_equilibrated: Whether the tolerance is for rows scaled to length one.
    """

    def __init__(
        self, rows: LinearOperator, tolerance: float, tol: float, *, is_equilibrated: bool = False
    ) -> None:
        self.operator, self.tolerance, self.tol = rows, tolerance, tol
        self.is_equilibrated = is_equilibrated

    @property
    @abstractmethod
    def matrix(self) -> Tensor | LinearOperator:
        """The Gram matrix ``AAᵀ`` in float64, in memory or on the disk."""

    @property
    @abstractmethod
    def diagonal(self) -> Tensor:
        """The squared lengths of the rows, ``(m,)``."""

    @property
    @abstractmethod
    def smallest(self) -> float:
        """The smallest eigenvalue of the Gram matrix, of rows of length one where they are equilibrated."""

    @property
    def is_finite(self) -> bool:
        """Whether every row is finite: one that is not shows on the diagonal."""
        return bool(torch.isfinite(self.diagonal).all())

    @cached_property
    def scale(self) -> Tensor:
        """The factors that bring equilibrated rows to length one; else ones, ``(m,)``."""
        lengths = self.diagonal.sqrt()
        one = torch.ones_like(lengths)
        is_scaled = self.is_equilibrated & (lengths > 0)
        return torch.where(is_scaled, 1 / torch.where(is_scaled, lengths, one), one)

    def gram_side(self) -> "GramPrepared":
        """This object."""
        return self

    @abstractmethod
    def curvature(self, damping: float = 0.0) -> Prepared:
        """``AᵀA + λI`` through the same Gram matrix.

        Args:
            damping: Multiple ``λ`` of the identity, at least 0.
        """

    @abstractmethod
    def whitening(self) -> LinearOperator:
        """A matrix ``W`` such that the rows of ``W A`` are orthonormal, in the dtype of ``A``."""


class DualPrepared(GramPrepared):
    """Rows ``A``, their Gram matrix and the spectrum of ``D AAᵀ D``, where ``D`` is one or equilibrates.

    Attributes:
        is_independent: Whether the rows are known to be independent, as some of independent rows are.
    """

    def __init__(
        self,
        rows: LinearOperator,
        gram: Tensor,
        tolerance: float,
        tol: float,
        *,
        is_equilibrated: bool = False,
    ) -> None:
        super().__init__(rows, tolerance, tol, is_equilibrated=is_equilibrated)
        self._gram, self.is_independent = gram, False

    @property
    def gram(self) -> Tensor:
        """The Gram matrix in float64, in memory."""
        return self._gram

    @property
    def matrix(self) -> Tensor:
        """The same as :attr:`gram`."""
        return self.gram

    @property
    def diagonal(self) -> Tensor:
        """The squared lengths of the rows, ``(m,)``."""
        return self.gram.diagonal()

    @cached_property
    def spectrum(self) -> Spectrum:
        """The spectrum of the scaled Gram matrix, from the rows where that matrix would lose a part of it."""
        of_gram = spectrum(self.scale.unsqueeze(1) * self.gram * self.scale, self.tolerance)
        return self._sharpened(of_gram, self.scale) or of_gram

    def _sharpened(self, of_gram: Spectrum, scale: Tensor) -> Spectrum | None:
        """The spectrum from the rows, where it is needed, they are at hand, and no coarser cut was asked."""
        if not (self._hides_rows(of_gram) and isinstance(self.operator, KeptRows)):
            return None
        return sharp_spectrum(self.operator, scale)

    def _hides_rows(self, of_gram: Spectrum) -> bool:
        """Whether the Gram matrix, the square of the rows, may have lost some of them to rounding."""
        is_close = bool(of_gram.values[0] <= CLOSE * of_gram.values[-1]) and bool(of_gram.values[-1] > 0)
        return is_close and self.tolerance <= default_tolerance(self.operator.shape, torch.float64)

    @cached_property
    def doubt(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - a product has to be taken
        """Why the rank is not known: products with the rows see combinations that the Gram matrix does not.

        Cost: a product with eight columns where eigenvalues are close to zero, else none.
        """
        values = self.spectrum
        is_sharp = values.tolerance != self.tolerance
        if self.is_independent or self.operator.dtype != torch.float64 or is_sharp:
            return ""
        if not self._hides_rows(values):
            return ""
        close = values.values <= HIDDEN * values.values[-1]
        if not bool(close.any()):
            return ""
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(int(close.sum()), DRAWS, generator=generator, dtype=torch.float64)
        combined = self.scale.unsqueeze(1) * (values.vectors[:, close] @ draws.to(values.vectors))
        largest = float((self.operator.T @ combined.to(self.operator.dtype)).norm(dim=0).max())
        top = float(values.values[-1].sqrt())
        if largest <= DRAWS * ROUNDING * torch.finfo(torch.float64).eps * top * draws.shape[0] ** 0.5:
            return ""
        return (
            f"rows of J are nearly dependent, closer than a Gram matrix of {len(self.gram)} rows tells from "
            f"dependent: {int(close.sum())} of its eigenvalues are at most {HIDDEN:g} of the largest, so "
            f"that the rank is not known"
        )

    @cached_property
    def plain(self) -> "DualPrepared":
        """The same rows without equilibration."""
        if not self.is_equilibrated:
            return self
        return DualPrepared(self.operator, self.gram, self.tolerance, self.tol)

    def function(self, phi: Tensor, rhs: Tensor) -> Tensor:
        """``D φ(D AAᵀ D) D b`` for eigenvalue factors ``phi``, in the dtype of ``b``."""
        vectors, scale = self.spectrum.vectors, self.scale.unsqueeze(1)
        block = scale * rhs.reshape(rhs.shape[0], -1).to(torch.float64)
        image = scale * ((phi * (block.T @ vectors)) @ vectors.T).T  # rows are faster than few columns
        return image.to(rhs.dtype).reshape(rhs.shape)

    def keeping(self, mask: Tensor) -> "DualPrepared":
        """The same for some of the rows, whose inner products are known.

        Args:
            mask: Mask of the rows that stay, ``(m,)``; at least one.
        """
        stays = mask.to(self.gram.device)
        fewer = DualPrepared(
            _rows_kept(self.operator, mask),
            self.gram[stays][:, stays],
            self.tolerance,
            self.tol,
            is_equilibrated=self.is_equilibrated,
        )
        fewer.is_independent = self.is_independent or self.rank == len(self.gram)
        return fewer

    @cached_property
    def _reciprocals(self) -> Tensor:
        """The eigenvalues of the pseudo-inverse of the scaled Gram matrix, ``(m,)``."""
        return MinimumNorm()(self.spectrum.values, self.spectrum.kept)

    def inverse(self, rhs: Tensor) -> Tensor:
        """``(AAᵀ)⁺ b``, in the dtype of ``b``."""
        return self.function(self._reciprocals, rhs)

    def solve(self, rhs: Tensor) -> Solution:
        """``Aᵀ (AAᵀ)⁺ b`` with one step of iterative refinement, where more than rounding is left."""
        if not bool(rhs.any()):  # zero, without a decomposition
            return judge(self.operator, self.operator.T @ rhs, rhs, self.tol, 0)
        value = self.operator.T @ self.inverse(rhs)
        product = self.operator @ value
        difference, residual = relative_residual(self.operator, value, rhs, product)
        if not residual <= ROUNDED * torch.finfo(self.operator.dtype).eps:
            value, product = value - self.operator.T @ self.inverse(difference), None
        solution = judge(self.operator, value, rhs, self.tol, 0, chosen=MinimumNorm(), product=product)
        if solution.status is Status.INCONSISTENT and self.rank == len(self.gram):
            return replace(solution, status=Status.MAX_STEPS)  # independent rows contradict nothing
        return solution

    def reach(self, rhs: Tensor) -> float:
        """The length ``(yᵀ AAᵀ y)^{1/2}`` for ``y = (AAᵀ)⁺ b``, without a product with the rows."""
        inverse = self.inverse(rhs.to(torch.float64))
        return float((inverse @ (self.gram @ inverse)).clamp_min(0.0).sqrt())

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
        return judge(self.operator.T, self.inverse(self.operator @ rhs), rhs, self.tol, 0)

    def curvature(self, damping: float = 0.0) -> Prepared:
        """``AᵀA + λI`` through the same Gram matrix."""
        return NormalPrepared(NormalOperator(self.operator, damping), self.plain)

    @property
    def rank(self) -> int:
        """The number of eigenvalues above the tolerance."""
        return len(self.gram) if self.is_independent else self.spectrum.rank

    def left_side(self) -> LeftSide:
        """The decomposition of the rows by their Gram matrix, refined by the rows themselves."""
        scale, scaled = equilibrated(self.gram)
        sharp = self._sharpened(spectrum(scaled, self.tolerance), scale)
        if sharp is not None:
            return LeftSide.of_scaled_rows(sharp, scale)
        return LeftSide.of_gram(self.gram, self.tolerance).refined(self.operator)

    @property
    def conditioning(self) -> float:
        """The smallest eigenvalue relative to the largest."""
        values = self.spectrum.values
        return float(values[0] / values[-1]) if bool(values[-1] > 0) else 0.0

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue; one that rounding leaves below zero counts as zero."""
        return max(float(self.spectrum.values[0]), 0.0)

    def whitening(self) -> LinearOperator:
        """``Λ^{-1/2} Vᵀ D`` on the eigenvalues that count as non-zero."""
        is_nonzero, dtype = self.spectrum.kept, self.operator.dtype
        roots = self.spectrum.values[is_nonzero].rsqrt().unsqueeze(1)
        return DenseOperator((roots * self.spectrum.vectors[:, is_nonzero].T * self.scale).to(dtype))

    def weighted(self, weights: LinearOperator) -> Prepared:
        """``W A``, whose Gram matrix is ``W AAᵀ Wᵀ``: no row is computed again."""
        half = weights @ self.gram.to(weights.dtype)
        matrix = (weights @ half.T.contiguous()).to(torch.float64)
        rows = Product(weights, self.operator)
        noise = default_tolerance(rows.shape, weights.dtype) if weights.dtype != torch.float64 else 0.0
        return DualPrepared(rows, (matrix + matrix.T) / 2, max(self.tolerance, noise), self.tol)


def _rows_kept(rows: LinearOperator, mask: Tensor) -> LinearOperator:
    """The rows of a mask: those at hand are not copied, and others are computed again at each use."""
    if not isinstance(rows, KeptRows):
        return MaskedRows(rows, mask)
    places = torch.cat([torch.tensor([False]), mask.cpu(), torch.tensor([False])]).int().diff()
    runs = zip(
        (places > 0).nonzero().flatten().tolist(), (places < 0).nonzero().flatten().tolist(), strict=True
    )
    return stacked([rows.part(start, stop) for start, stop in runs])


class NormalPrepared(Prepared):
    """``(AᵀA + λI) v = b`` through the Gram matrix: ``φ(AᵀA + λ) = φ(λ) I + Aᵀ ψ(AAᵀ) A``."""

    def __init__(self, operator: NormalOperator, dual: DualPrepared) -> None:
        self.operator, self.dual, self.damping = operator, dual, operator.damping

    def solve(self, rhs: Tensor) -> Solution:
        """The minimum-norm solution, with one step of iterative refinement."""
        value = self._function(MinimumNorm(), rhs)
        value = value + self._function(MinimumNorm(), rhs - self.operator @ value)
        return judge(self.operator, value, rhs, self.dual.tol, 0, chosen=MinimumNorm())

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """``φ(AᵀA + λI) b``."""
        return judge(self.operator, self._function(choice, rhs), rhs, self.dual.tol, 0, chosen=choice)

    def _function(self, choice: Filter, rhs: Tensor) -> Tensor:
        s = self.dual.spectrum
        shifted_values = torch.cat([s.values.new_zeros(1), s.values]) + self.damping
        is_nonzero = torch.cat([s.kept.new_zeros(1), s.kept]) | (self.damping > 0)
        phi_zero, phi = choice(shifted_values, is_nonzero).split([1, len(s.values)])
        safe = torch.where(s.kept, s.values, torch.ones_like(s.values))
        psi = torch.where(s.kept, (phi - phi_zero) / safe, torch.zeros_like(phi))
        rows = self.dual.operator
        return float(phi_zero) * rhs + rows.T @ self.dual.function(psi, rows @ rhs)

    def factor(self) -> Factor | None:
        """Functions of the matrix by its Gram matrix, where the rows are at hand too."""
        if not isinstance(self.dual.operator, KeptRows):
            return None
        dtype, values = self.operator.dtype, self.dual.spectrum.values + self.damping

        def function(choice: Filter, block: Tensor) -> Tensor:
            return self._function(choice, block.to(dtype)).to(torch.float64)

        return Factor(function, self.rank, float(values[0]), float(values[-1]), self.dual.tol)

    def curvature(self) -> Prepared:
        """The system itself, which is symmetric."""
        return self

    @property
    def amplification(self) -> float | None:
        """The root mean square of the inverse eigenvalues; ``None`` without damping."""
        if self.damping <= 0:
            return None
        of_rows = (self.dual.spectrum.values.clamp_min(0.0) + self.damping).reciprocal().square().sum()
        beside = max(self.operator.shape[0] - len(self.dual.spectrum.values), 0) / self.damping**2
        return ((float(of_rows) + beside) / self.operator.shape[0]) ** 0.5

    @property
    def rank(self) -> int:
        """The rank ``p`` with damping; else that of the rows."""
        return self.operator.shape[0] if self.damping > 0 else self.dual.rank
