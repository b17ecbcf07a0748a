"""What every Gram side offers, wherever its matrix is."""

from abc import abstractmethod

from torch import Tensor

from solset.linalg import LinearOperator
from solset.solvers._base import Prepared


class GramPrepared(Prepared):
    """Rows ``A`` with what is kept of their Gram matrix ``AAᵀ``.

    Attributes:
        operator: ``A``.
        tolerance: Relative size below which an eigenvalue counts as zero.
        tol: Relative residual up to which a system counts as consistent.
    """

    tolerance: float
    tol: float

    @property
    @abstractmethod
    def matrix(self) -> Tensor | LinearOperator:
        """``AAᵀ`` in float64, in memory or on the disk."""

    @property
    @abstractmethod
    def smallest(self) -> float:
        """The smallest eigenvalue of the Gram matrix, of rows of length one where they are equilibrated."""

    @property
    @abstractmethod
    def is_finite(self) -> bool:
        """Whether every inner product is."""

    def gram_side(self) -> "GramPrepared":
        """This object."""
        return self

    @abstractmethod
    def curvature(self, damping: float = 0.0) -> Prepared:
        """``AᵀA + λI`` through the same Gram matrix.

        Args:
            damping: ``λ``.
        """

    @abstractmethod
    def whitening(self) -> LinearOperator:
        """A ``W`` for which those of ``W A`` are orthonormal, of independent rows, in the dtype of ``A``."""
