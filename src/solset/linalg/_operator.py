"""The abstract linear operator: a matrix that is defined by its products."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from solset.errors import bad_type, bad_value


class LinearOperator(ABC):
    """A matrix ``A`` of shape ``(m, p)`` that is only ever multiplied.

    A subclass defines ``_apply`` and ``_apply_transposed`` on blocks of columns. Callers write ``A @ v``
    for a vector ``(p,)`` or a block ``(p, k)`` and ``A.T @ u`` for the adjoint.

    Attributes:
        shape: Numbers ``(m, p)`` of rows and columns.
        dtype: Floating-point type of the products.
        device: Device on which products are computed.
        is_symmetric: Whether ``A`` equals its transpose (never guessed, always declared).
    """

    is_symmetric: bool = False

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = device

    @abstractmethod
    def _apply(self, block: Tensor) -> Tensor:
        """``A`` times a block of columns ``(p, k)``, of shape ``(m, k)``."""

    @abstractmethod
    def _apply_transposed(self, block: Tensor) -> Tensor:
        """``Aᵀ`` times a block of columns ``(m, k)``, of shape ``(p, k)``."""

    @property
    def T(self) -> "LinearOperator":  # noqa: N802 - the matrix notation everyone reads
        """The adjoint operator, of shape ``(p, m)``."""
        return self if self.is_symmetric else Transposed(self)

    def __matmul__(self, other: Tensor) -> Tensor:
        """``A`` times a vector ``(p,)`` or a block ``(p, k)``."""
        return self._apply(self._columns(other)).reshape(self.shape[0], *other.shape[1:])

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` as a dense ``(stop - start, p)`` matrix.

        Cost: one transposed product per row unless a subclass knows better.
        """
        unit = torch.zeros(self.shape[0], stop - start, dtype=self.dtype, device=self.device)
        unit[torch.arange(start, stop), torch.arange(stop - start)] = 1.0
        return (self.T @ unit).T

    def to_dense(self, chunk: int = 64) -> Tensor:
        """The whole matrix, ``(m, p)``, built ``chunk`` rows (or columns, if fewer) at a time."""
        m, p = self.shape
        if m <= p:
            return torch.cat([self.rows(i, min(i + chunk, m)) for i in range(0, m, chunk)])
        columns = self.T
        return torch.cat([columns.rows(i, min(i + chunk, p)) for i in range(0, p, chunk)]).T.contiguous()

    def _columns(self, other: Tensor) -> Tensor:
        if not isinstance(other, Tensor):
            got = type(other).__name__
            raise bad_type("other", expected="a tensor", got=got, cure="Convert it with torch.as_tensor.")
        if other.ndim not in {1, 2} or other.shape[0] != self.shape[1]:
            raise bad_value(
                "other",
                expected=f"a vector ({self.shape[1]},) or a block ({self.shape[1]}, k)",
                got=f"shape {tuple(other.shape)}",
                cure="Flatten it or check which space it lives in.",
            )
        if other.dtype != self.dtype or other.device != self.device:
            raise bad_value(
                "other",
                expected=f"{self.dtype} on {self.device}",
                got=f"{other.dtype} on {other.device}",
                cure="Move it with Tensor.to.",
            )
        return other.reshape(other.shape[0], -1)


class Transposed(LinearOperator):
    """The adjoint of an operator; made by ``A.T``."""

    def __init__(self, inner: LinearOperator) -> None:
        super().__init__((inner.shape[1], inner.shape[0]), inner.dtype, inner.device)
        self.inner = inner

    @property
    def T(self) -> LinearOperator:  # noqa: N802
        """The operator itself: ``(Aᵀ)ᵀ = A``."""
        return self.inner

    def _apply(self, block: Tensor) -> Tensor:
        return self.inner._apply_transposed(block)

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self.inner._apply(block)
