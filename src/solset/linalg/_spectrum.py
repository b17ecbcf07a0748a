"""Eigen-decompositions with a stated numerical rank, and Gram matrices."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset import comm
from solset.errors import bad_value
from solset.linalg._operator import KeptRows, LinearOperator, SpreadRows, Stacked

CLOSE = 1e-8  # smallest eigenvalue of a Gram matrix, relative to the largest, that rounding leaves as it is
MOST_SHARP = 2000  # rows of which a spectrum is computed from themselves
SHARP = 1e-12  # singular value, relative to the largest, below which rounding of the rows themselves hides it
STRIP = 96  # columns at a time: narrow strips leave nearly half of a symmetric product uncomputed


@dataclass(frozen=True)
class Spectrum:
    """``A = U diag(s) Uᵀ`` of a symmetric matrix, kept in float64 where the device allows.

    Attributes:
        values: Eigenvalues in ascending order, ``(m,)``.
        vectors: Orthonormal eigenvectors as columns, ``(m, m)``.
        tolerance: Relative size: eigenvalues of magnitude at most ``tolerance · max|s|`` count as zero.
    """

    values: Tensor
    vectors: Tensor
    tolerance: float

    @property
    def kept(self) -> Tensor:
        """The mask of eigenvalues that count as non-zero, ``(m,)`` boolean."""
        return self.values.abs() > self.tolerance * self.values.abs().max()

    @property
    def rank(self) -> int:
        """The numerical rank under the stated tolerance."""
        return int(self.kept.sum())

    @property
    def kernel(self) -> Tensor:
        """An orthonormal basis of the numerical kernel, ``(m, m - rank)``."""
        return self.vectors[:, ~self.kept]

    def deflated(self, basis: Tensor) -> "Spectrum":
        """The spectrum of ``P A P``, where ``P`` projects orthogonally to given directions.

        Args:
            basis: Orthonormal columns that become the kernel, ``(m, k)``.

        Cost: two decompositions, ``O(m³)`` operations.
        """
        k = basis.shape[1]
        if k == 0:
            return self
        complement = torch.linalg.qr(basis.to(self.vectors), mode="complete").Q[:, k:]
        inside = self.vectors.T @ complement
        matrix = inside.T @ (self.values.unsqueeze(1) * inside)
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        values = torch.cat([values, values.new_zeros(k)])
        order = values.argsort()
        joined = torch.cat([complement @ vectors, basis.to(self.vectors)], dim=1)
        return Spectrum(values[order], joined[:, order], self.tolerance)


def default_tolerance(shape: tuple[int, int], dtype: torch.dtype) -> float:
    """The usual relative rank tolerance: the larger side times the rounding unit."""
    return max(shape) * torch.finfo(dtype).eps


def spectrum(matrix: Tensor, tolerance: float) -> Spectrum:
    """The eigen-decomposition of a symmetric matrix ``(m, m)``, computed in float64."""
    if not bool(torch.isfinite(matrix).all()):  # else the decomposition fails in words of its own
        raise bad_value(
            "matrix",
            expected="finite",
            got="entries that are not finite",
            cure="A second derivative of the model or the loss is not a number; look for the function.",
        )
    values, vectors = torch.linalg.eigh(matrix.to(torch.float64))
    return Spectrum(values, vectors, tolerance)


def sharp_spectrum(rows: KeptRows, scale: Tensor) -> Spectrum | None:
    """The spectrum of ``D AAᵀ D`` from the rows, whose singular values are resolved down to rounding.

    A Gram matrix holds the squares of singular values: those below 1e-5 of the largest are off in it, and
    those below 1e-8 are lost. Here an orthogonal triangularisation of ``Aᵀ`` (Golub & Van Loan, section 5.2)
    keeps them, panel by panel.

    Args:
        rows: Matrix ``A``, ``(m, p)``.
        scale: Diagonal of ``D``, ``(m,)``.

    Returns:
        The spectrum, in which a singular value of at most ``SHARP`` counts as zero; ``None`` for rows that
        are not in float64 or too many, or of which each process has its share of the columns.

    Cost: one pass over the rows, ``2m²p`` operations.
    """
    if rows.dtype != torch.float64 or rows.shape[0] > MOST_SHARP or isinstance(rows, SpreadRows):
        return None
    factor = scale.new_zeros(0, rows.shape[0])
    for _, entries in rows.panels():
        factor = torch.linalg.qr(torch.cat([factor, (scale.unsqueeze(1) * entries).T]), mode="r").R
    left, singular, _ = torch.linalg.svd(factor.T)
    values = scale.new_zeros(rows.shape[0])
    values[: len(singular)] = singular.square()
    return Spectrum(values.flip(0), left.flip(1), SHARP**2)


def gram(operator: LinearOperator, memory_budget: int) -> Tensor:
    """The Gram matrix ``AAᵀ`` in float64, ``(m, m)``.

    Args:
        operator: The matrix ``A``, ``(m, p)``.
        memory_budget: Bytes for the result and the rows at hand while it is computed. Rows that are not kept
            are computed again, block by block, if they do not all fit.

    Raises:
        ValueError: If the result and two blocks of one row do not fit the budget.

    Cost: one pass over kept rows; otherwise all rows once if they fit, else ``m / block`` times.
    """
    if isinstance(operator, KeptRows):
        return cross_gram(operator, operator)
    m = operator.shape[0]
    block = gram_block(operator.shape, operator.dtype, memory_budget)
    starts = range(0, m, block)
    result = torch.empty(m, m, dtype=torch.float64, device=operator.device)
    for i in starts:
        rows = operator.rows(i, min(i + block, m)).to(torch.float64)
        for j in starts:
            if j > i:
                continue
            others = rows if j == i else operator.rows(j, min(j + block, m)).to(torch.float64)
            product = _shared_product(rows, others)
            result[i : i + block, j : j + block] = product
            result[j : j + block, i : i + block] = product.T
    return result


def _shared_product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T``, summed over columns, of which each process takes its share."""
    share = comm.share(left.shape[1])
    return comm.total(left[:, share.start : share.stop] @ right[:, share.start : share.stop].T)


def gram_block(shape: tuple[int, int], dtype: torch.dtype, memory_budget: int) -> int:
    """The number of rows of a matrix that fit the budget in bytes twice, beside its Gram matrix.

    Raises:
        ValueError: If not even two rows fit; names the smallest budget that works.
    """
    m, p = shape
    row_bytes = p * (8 + dtype.itemsize)
    left = memory_budget - 8 * m * m
    if left < 2 * row_bytes:
        raise bad_value(
            "memory_budget",
            expected=f"at least {8 * m * m + 2 * row_bytes} bytes for a Gram matrix of {m} rows",
            got=memory_budget,
            cure="Raise it, use fewer rows, or take a matrix-free solver such as LSMR.",
        )
    return min(m, left // (2 * row_bytes))


def gram_by_parts(rows: KeptRows, step: int) -> Tensor:
    """The Gram matrix of kept rows in float64, from the products of parts of ``step`` rows.

    Cost: every pair of parts is read; two of their panels are in memory beside the result.
    """
    m = rows.shape[0]
    spans = [slice(start, min(start + step, m)) for start in range(0, m, step)]
    parts = [rows.part(span.start, span.stop) for span in spans]
    result = torch.empty(m, m, dtype=torch.float64, device=rows.device)
    for i, left in enumerate(parts):
        for j, right in enumerate(parts[: i + 1]):
            product = cross_gram(left, right)
            result[spans[i], spans[j]] = product
            result[spans[j], spans[i]] = product.T
    return result


def cross_gram(left: KeptRows, right: KeptRows, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """``A Bᵀ`` in float64 for kept rows, in one pass over their panels.

    Args:
        left: The matrix ``A``, ``(m, p)``.
        right: The matrix ``B``, ``(k, p)``; if it is ``left``, half of the products are saved.
        dtype: Floating-point type of the products of single panels, which are summed in float64. In float32
            they take half the time, and an entry is off by less than a unit of float32 rounding of the rows'
            lengths; the diagonal is in float64 all the same.
    """
    if isinstance(left, SpreadRows) and isinstance(right, SpreadRows):
        same = left.own if right is left else right.own
        return comm.total(cross_gram(left.own, same, dtype=dtype))
    if isinstance(right, Stacked) and right is not left:  # its panels would be copies
        return torch.cat([cross_gram(left, part, dtype=dtype) for part in right.parts], dim=1)
    m, k = left.shape[0], right.shape[0]
    squares = torch.zeros(m, dtype=torch.float64, device=left.device)
    total = torch.zeros(m, k, dtype=torch.float64, device=left.device)
    # Strips of a symmetric product need only what lies below them: nearly half of the work.
    strips = [slice(s, min(s + STRIP, k)) for s in range(0, k, STRIP)] if right is left else [slice(0, k)]
    for columns, entries in left.panels():
        tall = entries.to(dtype)
        if right is left and dtype != torch.float64:
            squares += torch.linalg.vector_norm(entries, dim=1, dtype=torch.float64).square()
        other = tall if right is left else right.panel(columns.start, columns.stop).to(dtype)
        for strip in strips:
            below = slice(strip.start if right is left else 0, m)
            total[below, strip] += tall[below] @ other[strip].T
        del entries, tall, other  # or the next ones would be read beside them
    if right is not left:
        return total
    below = torch.tril(total, -1)
    # In float64 the diagonal must be rounded as the rest is: dependent rows are told by what cancels.
    return below + below.T + torch.diag(total.diagonal() if dtype == torch.float64 else squares)
