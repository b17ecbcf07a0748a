"""Eigen-decompositions with a stated numerical rank, and Gram matrices."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.errors import bad_value
from solset.linalg.operator import LinearOperator


@dataclass(frozen=True)
class Spectrum:
    """``A = U diag(s) Uᵀ`` of a symmetric matrix, kept in float64 where the device allows.

    Attributes:
        values: Eigenvalues, ascending, ``(m,)``.
        vectors: Orthonormal eigenvectors as columns, ``(m, m)``.
        tolerance: Eigenvalues of magnitude at most ``tolerance · max|s|`` count as zero.
    """

    values: Tensor
    vectors: Tensor
    tolerance: float

    @property
    def kept(self) -> Tensor:
        """Which eigenvalues count as non-zero, ``(m,)`` boolean."""
        return self.values.abs() > self.tolerance * self.values.abs().max()

    @property
    def rank(self) -> int:
        """The numerical rank under the stated tolerance."""
        return int(self.kept.sum())

    @property
    def kernel(self) -> Tensor:
        """An orthonormal basis of the numerical kernel, ``(m, m - rank)``."""
        return self.vectors[:, ~self.kept]


def default_tolerance(shape: tuple[int, int], dtype: torch.dtype) -> float:
    """The usual relative rank tolerance: the larger side times the rounding unit."""
    return max(shape) * torch.finfo(dtype).eps


def spectrum(matrix: Tensor, tolerance: float) -> Spectrum:
    """The eigen-decomposition of a symmetric matrix, computed in float64.

    Args:
        matrix: A symmetric ``(m, m)`` matrix.
        tolerance: Relative size below which an eigenvalue counts as zero.
    """
    values, vectors = torch.linalg.eigh(matrix.to(torch.float64))
    return Spectrum(values, vectors, tolerance)


def gram(operator: LinearOperator, memory_budget: int) -> Tensor:
    """The Gram matrix ``AAᵀ`` in float64, ``(m, m)``.

    Args:
        operator: ``A``, of shape ``(m, p)``.
        memory_budget: Bytes that rows and result may take; rows are recomputed block by block
            when they do not all fit.

    Raises:
        ValueError: If the result and two blocks of one row do not fit the budget.

    Cost: all rows once if they fit, otherwise ``m / block`` times.
    """
    m, p = operator.shape
    row_bytes = p * (8 + operator.dtype.itemsize)
    left = memory_budget - 8 * m * m
    if left < 2 * row_bytes:
        raise bad_value(
            "memory_budget",
            expected=f"at least {8 * m * m + 2 * row_bytes} bytes for a Gram matrix of {m} rows",
            got=memory_budget,
            cure="Raise it, use fewer rows, or take a matrix-free solver such as LSMR.",
        )
    block = min(m, left // (2 * row_bytes))
    starts = range(0, m, block)
    result = torch.empty(m, m, dtype=torch.float64, device=operator.device)
    for i in starts:
        rows = operator.rows(i, min(i + block, m)).to(torch.float64)
        for j in starts:
            if j > i:
                continue
            others = rows if j == i else operator.rows(j, min(j + block, m)).to(torch.float64)
            product = rows @ others.T
            result[i : i + block, j : j + block] = product
            result[j : j + block, i : i + block] = product.T
    return result
