"""The largest generalized singular value ``sup_u ‖Cᵀu‖ / ‖Aᵀu‖``, on which every Lipschitz modulus stands.

The ratio does not change when rows of ``A`` and ``C`` are scaled alike. Rows of ``A`` are scaled to length
one before a rank is cut, so that none counts as zero for being short.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.linalg._operator import LinearOperator
from solset.linalg._spectrum import Spectrum, default_tolerance

ROUNDING = 20  # units of rounding, relative to rows of length one, that a product Aᵀu may be off
DENSE_MARGIN = 1e3  # units of rounding up to which the image of a kernel vector of a dense A counts as zero


@dataclass(frozen=True)
class LeftSide:
    """The combinations of rows of ``A`` that are orthonormal, and those that vanish; of one ``A`` or a batch.

    In a batch, whose ranks may differ, missing combinations are zeros.

    Attributes:
        half: Rows ``f`` with ``Aᵀf`` orthonormal, ``(*, rank, m)``; ``half.mT @ half`` is ``(AAᵀ)⁻¹`` at full
            row rank.
        kernel: Columns ``u`` with ``Aᵀu = 0``, ``(*, m, m - rank)``.
        scale: Factors that bring the rows of ``A`` to length one, ``(*, m)``.
        resolution: Relative size of ``‖Cᵀu‖`` against the scaled ``C`` up to which it counts as zero, for a
            column ``u`` of the kernel.
    """

    half: Tensor
    kernel: Tensor
    scale: Tensor
    resolution: float

    @classmethod
    def of_gram(cls, gram: Tensor, tolerance: float) -> "LeftSide":
        """From ``AAᵀ`` alone: singular values are resolved down to the root of the tolerance.

        Args:
            gram: Gram matrix ``AAᵀ`` in float64, ``(m, m)``, or a batch of them, ``(b, m, m)``.
            tolerance: Relative size up to which an eigenvalue counts as zero.
        """
        scale, scaled = equilibrated(gram)
        values, vectors = torch.linalg.eigh(scaled)
        counts = (values > tolerance * values.abs().amax(dim=-1, keepdim=True)) & (values > 0)
        roots = torch.where(counts, values, torch.ones_like(values)).rsqrt()
        half = (vectors * (roots * counts).unsqueeze(-2)).mT * scale.unsqueeze(-2)
        kernel = scale.unsqueeze(-1) * vectors * (~counts).unsqueeze(-2)
        if gram.ndim == 2:
            half, kernel = half[counts], kernel[:, ~counts]
        return cls(half, kernel, scale, tolerance**0.5)

    @classmethod
    def of_scaled_rows(cls, decomposition: Spectrum, scale: Tensor) -> "LeftSide":
        """From the spectrum of ``D AAᵀ D``, where ``D`` brings rows to length one.

        Args:
            decomposition: Eigenvalues and eigenvectors, from the rows themselves.
            scale: Diagonal of ``D``, ``(m,)``.
        """
        counts, values = decomposition.kept, decomposition.values
        half = (decomposition.vectors[:, counts] * values[counts].rsqrt()).T * scale
        kernel = scale.unsqueeze(1) * decomposition.kernel
        return cls(half, kernel, scale, DENSE_MARGIN * decomposition.tolerance**0.5)

    @classmethod
    def of_symmetric(cls, decomposition: Spectrum, blur: float = 0.0) -> "LeftSide":
        """From the spectrum of a symmetric ``A``.

        Args:
            decomposition: Eigenvalues and eigenvectors of the matrix.
            blur: Angle by which the kernel may be off; images of it that are as small count as zero.
        """
        counts, values = decomposition.kept, decomposition.values
        half = (decomposition.vectors[:, counts] / values[counts]).T
        resolution = max(decomposition.tolerance**0.5, blur)
        return cls(half, decomposition.kernel, torch.ones_like(values), resolution)

    @classmethod
    def of_rows(cls, rows: Tensor) -> "LeftSide":
        """From a dense ``A``, ``(m, p)``: singular values are resolved down to rounding."""
        scale = _factors(rows.norm(dim=1))
        left, values, _ = torch.linalg.svd(scale.unsqueeze(1) * rows)
        tolerance = default_tolerance((rows.shape[0], rows.shape[1]), rows.dtype)
        rank = int(((values > tolerance * values.max()) & (values > 0)).sum())
        half, kernel = (left[:, :rank] / values[:rank]).T * scale, scale.unsqueeze(1) * left[:, rank:]
        return cls(half, kernel, scale, DENSE_MARGIN * tolerance)

    def refined(self, rows: LinearOperator) -> "LeftSide":
        """The same with the kernel checked by products with ``A``, which resolve what its square cannot.

        Combinations that ``AAᵀ`` shows as zero and ``A`` does not (near-duplicates at a distance of 1e-6) are
        made orthogonal to the others and join them.

        Args:
            rows: Operator ``A``, ``(m, p)``; its dtype limits what is told from zero.

        Cost: three products with as many columns as the kernel has.
        """
        if self.kernel.shape[1] == 0:
            return self

        def pushed(columns: Tensor) -> Tensor:
            return (rows.T @ columns.to(rows.dtype)).to(columns.dtype)

        image = pushed(self.kernel)
        overlap = self.half @ (rows @ image.to(rows.dtype)).to(image.dtype)
        kernel, image = self.kernel - self.half.T @ overlap, image - pushed(self.half.T @ overlap)
        _, values, right = torch.linalg.svd(image, full_matrices=False)
        kernel = kernel @ right.T
        seen = values > ROUNDING * torch.finfo(rows.dtype).eps
        half = torch.cat([self.half, (kernel[:, seen] / values[seen]).T])
        return LeftSide(half, kernel[:, ~seen], self.scale, self.resolution)

    def at(self, rows: Tensor) -> "LeftSide":
        """The same combinations of one ``A``, seen at rows ``(k,)``, or at a batch of choices ``(b, k)``."""
        half = self.half[:, rows].movedim(0, -2)
        return LeftSide(half, self.kernel[rows], self.scale[rows], self.resolution)

    def solve(self, rhs: Tensor) -> Tensor:
        """``(AAᵀ)⁺ b`` on the rows at hand, for ``b`` of shape ``(*, m)``."""
        return (self.half.mT @ (self.half @ rhs.unsqueeze(-1))).squeeze(-1)

    @property
    def rank(self) -> int:
        """The rank of one ``A``; of a batch the largest that it could have."""
        return self.half.shape[-2]


def equilibrated(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal ``D`` that brings every row of ``A`` to length one, and ``D AAᵀ D``, from ``AAᵀ``.

    A row that is rounding against the longest one is left as it is.
    """
    scale = _factors(gram.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt())
    return scale, scale.unsqueeze(-1) * gram * scale.unsqueeze(-2)


def _factors(lengths: Tensor) -> Tensor:
    tall = lengths > torch.finfo(lengths.dtype).eps * lengths.amax(dim=-1, keepdim=True)
    one = torch.ones_like(lengths)
    return torch.where(tall, 1 / torch.where(tall, lengths, one), one)


@dataclass(frozen=True)
class LargestRatios:
    """The ratios of a batch, with what attains each of them."""

    # Ratios, ``(*,)``; infinite if some ``u`` has ``Aᵀu = 0`` and ``Cᵀu ≠ 0``, and 0 for ``C = 0``
    value: Tensor
    size: Tensor  # Norm of ``C`` with its rows scaled as those of ``A``, ``(*,)``
    combination: Tensor  # Unit combination of the orthonormal rows that attains a finite ratio, ``(*, rank)``
    leaking: Tensor  # Combinations of the kernel's columns that ``C`` moves, most moved first, ``(*, q, l)``
    leaks: Tensor  # Flags of those that ``C`` moves by more than the resolution, ``(*, l)``

    def attained_at(self, side: LeftSide) -> Tensor:
        """The vector ``u`` that attains each ratio, ``(*, m)``, on its left side or the whole one."""
        finite = (side.half.mT @ self.combination.unsqueeze(-1)).squeeze(-1)
        if self.leaks.shape[-1] == 0:
            return finite
        return torch.where(self.leaks[..., :1], (side.kernel @ self.leaking[..., :1]).squeeze(-1), finite)


def largest_ratios(side: LeftSide, data: Tensor) -> LargestRatios:
    """``sup_u ‖Cᵀu‖ / ‖Aᵀu‖`` for every pair of a batch, which is ``‖A⁺C‖₂`` where it is finite.

    Args:
        side: Left side of ``A``, seen at the rows of ``C``.
        data: Matrix ``C`` in the dtype of the left side, or ``L`` with ``LLᵀ = CCᵀ``, ``(*, k, r)``.
    """
    scaled = side.scale.unsqueeze(-1) * data
    size = torch.linalg.matrix_norm(scaled, 2) if data.numel() else scaled.sum(dim=(-2, -1))
    leaking, sizes, _ = torch.linalg.svd(side.kernel.mT @ data, full_matrices=False)
    leaks = sizes > side.resolution * size.unsqueeze(-1)
    is_infinite = leaks.any(dim=-1)
    if bool(is_infinite.all()):  # the finite part, a decomposition of its own, answers nothing
        value, combination = torch.zeros_like(size), torch.zeros_like(side.half[..., 0])
    else:
        value, combination = largest_singular(side.half @ data)
    value = torch.where(is_infinite, torch.full_like(value, float("inf")), value)
    return LargestRatios(value, size, combination, leaking, leaks)


def largest_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The largest singular value of ``(*, m, n)`` and its left vector, through the smaller Gram side."""
    m, n = matrix.shape[-2:]
    if min(m, n) == 0:
        empty = matrix.sum(dim=-1)
        return empty.sum(dim=-1), empty
    if m <= n:
        values, vectors = torch.linalg.eigh(matrix @ matrix.mT)
        return values[..., -1].clamp_min(0).sqrt(), vectors[..., -1]
    _, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    image = (matrix @ vectors[..., -1:]).squeeze(-1)
    length = image.norm(dim=-1)
    return length, image / length.clamp_min(torch.finfo(length.dtype).tiny).unsqueeze(-1)


@dataclass(frozen=True)
class LargestRatio:
    """``sup_u ‖Cᵀu‖ / ‖Aᵀu‖`` of one pair, with a vector that attains it.

    Attributes:
        value: Infinite if some ``u`` has ``Aᵀu = 0`` and ``Cᵀu ≠ 0``; 0 for ``C = 0``, with any ``A``.
        attained_at: Vector ``u``, ``(m,)``, with ``‖Aᵀu‖ = 1``, or of unit length in the kernel.
        rank: Numerical rank of ``A``.
        joint_rank: Numerical rank of ``[A, C]``.
        participation: Weight of each row in the ``u`` that make the ratio infinite, ``(m,)``.
    """

    value: float
    attained_at: Tensor
    rank: int
    joint_rank: int
    participation: Tensor


def largest_ratio(side: LeftSide, root: Tensor, rows: Tensor | None = None) -> LargestRatio:
    """``sup_u ‖Cᵀu‖ / ‖Aᵀu‖`` of one pair with ranks, ``u`` and the rows that take part.

    Args:
        side: Left side of ``A``, ``(m, p)``.
        root: Matrix ``L`` with ``CCᵀ = LLᵀ`` on those rows of ``C`` that are not zero, ``(k, r)``.
        rows: Indices of these rows, ``(k,)``; all by default.

    Cost: ``O(m k r)`` operations.
    """
    ratios = largest_ratios(side if rows is None else side.at(rows), root)
    value, leaks = float(ratios.value), ratios.leaks
    joint_rank, zero = side.rank + int(leaks.sum()), torch.zeros_like(side.scale)
    u = ratios.attained_at(side) if value > 0 else zero
    if value < float("inf"):
        return LargestRatio(value, u, side.rank, joint_rank, zero)
    span = side.kernel @ ratios.leaking[:, leaks]
    participation = (span / side.scale.unsqueeze(1)).square().sum(dim=1)
    return LargestRatio(value, u / u.norm(), side.rank, joint_rank, participation)
