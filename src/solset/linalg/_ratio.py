"""The largest generalized singular value ``sup_u ‖Cᵀu‖ / ‖Aᵀu‖``, from a decomposition of ``AAᵀ``."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.linalg._operator import LinearOperator
from solset.linalg._spectrum import Spectrum, spectrum

ROUNDING = 20  # units of rounding, relative to rows of length one, that a product Aᵀu may be off


@dataclass(frozen=True)
class LeftSide:
    """What the ratio needs of ``A``: combinations of its rows that are orthonormal, and those that vanish.

    The ratio does not change when rows of ``A`` and ``C`` are scaled alike. Rows are scaled to length one
    before a rank is cut, so that none counts as zero for being short.

    Attributes:
        half: Rows ``f`` with ``Aᵀf`` orthonormal, ``(rank, m)``; ``half.T @ half`` is ``(AAᵀ)⁻¹`` at full row
            rank.
        kernel: Columns ``u`` with ``Aᵀu = 0``, ``(m, m - rank)``.
        scale: What rows were multiplied with, ``(m,)``.
        resolution: ``‖Cᵀu‖`` of a column of the kernel, relative to ``C``, up to which it counts as zero.
    """

    half: Tensor
    kernel: Tensor
    scale: Tensor
    resolution: float

    @classmethod
    def of_gram(cls, gram: Tensor, tolerance: float) -> "LeftSide":
        """From ``AAᵀ`` alone: singular values are resolved down to the root of the tolerance.

        Args:
            gram: ``AAᵀ`` in float64, ``(m, m)``.
            tolerance: Relative size below which one of its eigenvalues counts as zero.
        """
        scale, scaled = equilibrated(gram)
        found = spectrum(scaled, tolerance)
        kept = found.kept & (found.values > 0)
        half = (found.vectors[:, kept] / found.values[kept].sqrt()).T * scale
        return cls(half, scale.unsqueeze(1) * found.vectors[:, ~kept], scale, tolerance**0.5)

    @classmethod
    def of_symmetric(cls, found: Spectrum) -> "LeftSide":
        """From the spectrum of a symmetric ``A``.

        Args:
            found: The spectrum.
        """
        half = (found.vectors[:, found.kept] / found.values[found.kept]).T
        return cls(half, found.kernel, torch.ones_like(found.values), found.tolerance**0.5)

    def refined(self, rows: LinearOperator) -> "LeftSide":
        """With the kernel looked at by products with ``A`` itself, which resolve what its square cannot.

        Combinations that ``AAᵀ`` shows as zero and ``A`` does not (near-duplicates at a distance of 1e-6) are
        made orthogonal to the others and kept.

        Args:
            rows: ``A``, ``(m, p)``; what it can tell from zero depends on its dtype.

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

    @property
    def rank(self) -> int:
        """Of ``A``."""
        return len(self.half)


def equilibrated(gram: Tensor) -> tuple[Tensor, Tensor]:
    """``D`` that makes every row of ``A`` one long, as a diagonal, and ``D AAᵀ D``.

    A row that is rounding against the longest one is left as it is.

    Args:
        gram: ``AAᵀ``, ``(*, m, m)``.
    """
    lengths = gram.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    tall = lengths > torch.finfo(gram.dtype).eps * lengths.amax(dim=-1, keepdim=True)
    one = torch.ones_like(lengths)
    scale = torch.where(tall, 1 / torch.where(tall, lengths, one), one)
    return scale, scale.unsqueeze(-1) * gram * scale.unsqueeze(-2)


@dataclass(frozen=True)
class LargestRatio:
    """``sup_u ‖Cᵀu‖ / ‖Aᵀu‖`` with a vector that attains it.

    Attributes:
        value: Infinite if some ``u`` has ``Aᵀu = 0`` and ``Cᵀu ≠ 0``, 0 if ``C`` is zero.
        attained_at: ``u``, ``(m,)``, with ``‖Aᵀu‖ = 1``, or of unit length in the kernel.
        rank: Of ``A``.
        joint_rank: Of ``[A, C]``.
        participation: How much each row takes part in the ``u`` that make it infinite, ``(m,)``.
    """

    value: float
    attained_at: Tensor
    rank: int
    joint_rank: int
    participation: Tensor


def largest_ratio(side: LeftSide, root: Tensor, rows: Tensor) -> LargestRatio:
    """The largest generalized singular value of ``(Cᵀ, Aᵀ)``, which is ``‖A⁺C‖₂`` where it is finite.

    Args:
        side: Of ``A``, ``(m, p)``.
        root: ``L`` with ``CCᵀ = LLᵀ`` on those rows of ``C`` that are not zero, ``(k, r)``.
        rows: Which rows these are, ``(k,)``.

    Cost: ``O(m k r)`` operations.
    """
    zero = torch.zeros_like(side.scale)
    scaled = side.scale[rows].unsqueeze(1) * root
    size = float(torch.linalg.matrix_norm(scaled, 2)) if root.numel() else 0.0
    if size == 0.0:
        return LargestRatio(0.0, zero, side.rank, side.rank, zero)
    leaked = side.kernel[rows].T @ root
    values, left = _left(leaked)
    breaking = values > side.resolution * size
    joint_rank = side.rank + int(breaking.sum())
    if not bool(breaking.any()):
        value, vector = _largest(side.half[:, rows] @ root)
        return LargestRatio(value, side.half.T @ vector, side.rank, joint_rank, zero)
    span = side.kernel @ left[:, breaking]
    u = span[:, int(values[breaking].argmax())]
    taking_part = ((span / side.scale.unsqueeze(1)) ** 2).sum(dim=1)
    return LargestRatio(float("inf"), u / u.norm(), side.rank, joint_rank, taking_part)


def _largest(matrix: Tensor) -> tuple[float, Tensor]:
    """The largest singular value and its left vector, through the smaller Gram side."""
    if not matrix.numel():
        return 0.0, matrix.new_zeros(matrix.shape[0])
    if matrix.shape[0] <= matrix.shape[1]:
        values, vectors = torch.linalg.eigh(matrix @ matrix.T)
        return float(values[-1].clamp_min(0).sqrt()), vectors[:, -1]
    _, vectors = torch.linalg.eigh(matrix.T @ matrix)
    found = matrix @ vectors[:, -1]
    length = float(found.norm())
    return length, found / length if length > 0 else found


def _left(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and left vectors, none for an empty matrix."""
    if not matrix.numel():
        return matrix.new_zeros(0), matrix.new_zeros(matrix.shape[0], 0)
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return values, left
