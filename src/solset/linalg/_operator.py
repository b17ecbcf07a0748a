"""The abstract linear operator, matrices at hand as one, panel by panel, and the space of its vectors."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from solset import comm
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


class Stacked(KeptRows):
    """At least one matrix of kept rows, below one another."""

    def __init__(self, parts: Sequence[KeptRows]) -> None:
        first = parts[0]
        super().__init__((sum(part.shape[0] for part in parts), first.shape[1]), first.dtype, first.device)
        self.parts = tuple(parts)

    def panel(self, start: int, stop: int) -> Tensor:
        """The panels of the parts below one another."""
        return torch.cat([part.panel(start, stop) for part in self.parts])

    def part(self, start: int, stop: int) -> KeptRows:
        """Consecutive rows, taken from the parts that have some of them."""
        inner, before = [], 0
        for part in self.parts:
            first, last = max(start - before, 0), min(stop - before, part.shape[0])
            if first < last:
                inner.append(part.part(first, last))
            before += part.shape[0]
        return inner[0] if len(inner) == 1 else Stacked(inner)

    def _apply(self, block: Tensor) -> Tensor:
        return torch.cat([part @ block for part in self.parts])

    def _apply_transposed(self, block: Tensor) -> Tensor:
        shares = block.split([part.shape[0] for part in self.parts])
        total = self.parts[0].T @ shares[0]
        for part, share in zip(self.parts[1:], shares[1:], strict=True):
            total = total + part.T @ share
        return total


class SpreadRows(KeptRows):
    """All rows of a matrix ``(m, p)``, of which this process has some columns at hand.

    A Gram matrix is the sum of those of the columns, and so is a product; memory and work fall with the
    number of processes.

    Args:
        part_here: Columns ``comm.share(p)`` of the matrix, ``(m, p / processes)``.
        columns: Number ``p`` of all columns.
    """

    def __init__(self, part_here: KeptRows, columns: int) -> None:
        super().__init__((part_here.shape[0], columns), part_here.dtype, part_here.device)
        self.own, self._share = part_here, comm.share(columns)

    def panel(self, start: int, stop: int) -> Tensor:
        """Columns ``start`` to ``stop``, joined from the processes that have some of them."""
        first, last = max(start, self._share.start), min(stop, self._share.stop)
        part = None
        if first < last:
            part = self._columns_here(first - self._share.start, last - self._share.start).T.contiguous()
        return comm.join(part, device=self.device).T

    def part(self, start: int, stop: int) -> KeptRows:
        """Consecutive rows, spread as all are."""
        return SpreadRows(self.own.part(start, stop), self.shape[1])

    def _columns_here(self, start: int, stop: int) -> Tensor:
        """Columns by their index among those of this process."""
        first, end = start // WIDTH * WIDTH, self.own.shape[1]
        panels = [self.own.panel(s, min(s + WIDTH, end)) for s in range(first, stop, WIDTH)]
        return torch.cat(panels, dim=1)[:, start - first : stop - first]

    def _apply(self, block: Tensor) -> Tensor:
        return comm.total(self.own @ block[self._share.start : self._share.stop])

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return comm.join(self.own.T @ block, device=self.device)


def own_columns(columns: int) -> range:
    """The columns of kept rows that this process keeps, of ``columns``; all if there is one process."""
    return comm.share(columns)


def most_columns(columns: int) -> int:
    """The largest number of columns that any process keeps, of ``columns``; the same in all processes."""
    return -(-columns // comm.size())


def spread(part_here: KeptRows, columns: int) -> KeptRows:
    """The whole matrix with ``columns`` columns, of which this process keeps :func:`own_columns`."""
    return part_here if comm.size() == 1 else SpreadRows(part_here, columns)


def own_part(rows: KeptRows) -> KeptRows:
    """The part of the rows, spread or not, that this process keeps."""
    return rows.own if isinstance(rows, SpreadRows) else rows


def in_parts(rows: KeptRows, step: int) -> KeptRows:
    """The same rows, such that a product reads ``step`` of them at a time."""
    m = rows.shape[0]
    return stacked([rows.part(start, min(start + step, m)) for start in range(0, m, step)])


def stacked(parts: Sequence[KeptRows]) -> KeptRows:
    """Kept rows below one another; all or none of the parts are spread."""
    return spread(Stacked([own_part(part) for part in parts]), parts[0].shape[1])
