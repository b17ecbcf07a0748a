"""The base of what is kept about a Gram matrix, in memory or on the disk."""

from abc import abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from solset.linalg import LinearOperator
from solset.solvers._base import Prepared


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
