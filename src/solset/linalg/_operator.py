"""The abstract linear operator, a matrix at hand as one, and the space of its vectors."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from solset.errors import bad_type, bad_value

WIDTH = 8192  # columns of a panel of a matrix at hand


class LinearOperator(ABC):
    """A matrix ``A`` of shape ``(m, p)`` that is only ever multiplied.

    A subclass defines ``_apply`` on blocks of columns, and ``_apply_transposed`` unless it is symmetric.
    Callers write ``A @ v`` for a vector ``(p,)`` or a block ``(p, k)`` and ``A.T @ u`` for the adjoint.

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

    def _apply_transposed(self, block: Tensor) -> Tensor:
        """``Aᵀ`` times a block of columns ``(m, k)``, of shape ``(p, k)``; symmetric operators need none."""
        if not self.is_symmetric:
            raise bad_type(
                "operator",
                expected="one with a product with its transpose",
                got=f"{type(self).__name__}, which is not symmetric and defines none",
                cure="Define _apply_transposed, or set is_symmetric where the matrix equals its transpose.",
            )
        return self._apply(block)

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


class KeptRows(LinearOperator):
    """A matrix ``(m, p)`` whose entries are at hand."""

    @abstractmethod
    def panel(self, start: int, stop: int) -> Tensor:
        """Columns ``start`` to ``stop`` of all rows, where ``start`` is a multiple of :data:`WIDTH`."""

    @abstractmethod
    def part(self, start: int, stop: int) -> "KeptRows":
        """Rows ``start`` to ``stop``, not copied."""

    def panels(self) -> Iterator[tuple[slice, Tensor]]:
        """The columns of each panel and its entries ``(m, at most WIDTH)``, from left to right."""
        for start in range(0, self.shape[1], WIDTH):
            stop = min(start + WIDTH, self.shape[1])
            yield slice(start, stop), self.panel(start, stop)

    def _apply(self, block: Tensor) -> Tensor:
        total = block.new_zeros(self.shape[0], block.shape[1])
        for columns, entries in self.panels():
            total += entries @ block[columns]
        return total

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return torch.cat([entries.T @ block for _, entries in self.panels()])

    def rows(self, start: int, stop: int) -> Tensor:
        """The stored rows ``start`` to ``stop``; no others are read."""
        return torch.cat([entries for _, entries in self.part(start, stop).panels()], dim=1)


class DenseOperator(KeptRows):
    """A matrix in memory.

    Args:
        matrix: The entries, ``(m, p)``.

    Example:
        >>> A = DenseOperator(torch.tensor([[1.0, 2.0]]))
        >>> A @ torch.tensor([1.0, 1.0])
        tensor([3.])
    """

    def __init__(self, matrix: Tensor) -> None:
        super().__init__((matrix.shape[0], matrix.shape[1]), matrix.dtype, matrix.device)
        self.matrix = matrix
        square = matrix.shape[0] == matrix.shape[1]
        self.is_symmetric = square and bool(torch.equal(matrix, matrix.T))

    def _apply(self, block: Tensor) -> Tensor:
        return self.matrix @ block

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self.matrix.T @ block

    def rows(self, start: int, stop: int) -> Tensor:
        """The stored rows."""
        return self.matrix[start:stop]

    def panel(self, start: int, stop: int) -> Tensor:
        """The stored columns."""
        return self.matrix[:, start:stop]

    def part(self, start: int, stop: int) -> KeptRows:
        """The stored rows, not copied."""
        return DenseOperator(self.matrix[start:stop])


@dataclass(frozen=True)
class Space:
    """The shape, type and device of the tensors that stand for one flat vector.

    Attributes:
        name: Name of the argument in error messages.
        shape: Shape of the tensor; a flat vector of the same length is accepted too.
        dtype: Floating-point type of the tensor.
        device: Device of the tensor.
        cure: Sentence for a tensor of another shape that says what to do.

    Example:
        >>> space = Space("dx", (2, 3), torch.float32, torch.device("cpu"))
        >>> space.flatten(torch.zeros(2, 3)).shape
        torch.Size([6])
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    cure: str = "One block per point, in the order of `points`, each shaped like one input."

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return prod(self.shape)

    def flatten(self, value: Tensor) -> Tensor:
        """The flat vector of a tensor in this space.

        Args:
            value: Tensor of this space's shape, or already flat.

        Raises:
            TypeError: If it is not a tensor.
            ValueError: If shape, dtype or device differ or an entry is not finite.
        """
        if not isinstance(value, Tensor):
            got = type(value).__name__
            raise bad_type(self.name, expected="a tensor", got=got, cure="Use torch.as_tensor.")
        flat = (self.size,)
        if tuple(value.shape) not in {self.shape, flat}:
            expected = f"of shape {self.shape}" + ("" if self.shape == flat else f" or {flat}")
            raise bad_value(self.name, expected=expected, got=f"shape {tuple(value.shape)}", cure=self.cure)
        if value.dtype != self.dtype or value.device != self.device:
            raise bad_value(
                self.name,
                expected=f"{self.dtype} on {self.device}",
                got=f"{value.dtype} on {value.device}",
                cure=f"Use `{self.name}.to(device, dtype)`.",
            )
        if not bool(torch.isfinite(value).all()):
            cure = "Find their source; no estimate survives them."
            raise bad_value(self.name, expected="finite", got="NaN or infinite entries", cure=cure)
        return value.detach().reshape(-1)

    def unflatten(self, vector: Tensor) -> Tensor:
        """The tensor of this space's shape with the entries of a flat vector."""
        return vector.reshape(self.shape)
