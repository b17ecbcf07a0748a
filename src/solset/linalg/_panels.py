"""Matrices of many columns whose entries are at hand, and are read panel by panel.

A panel is all rows of a few thousand columns. One pass over the panels gives a product, its adjoint or the
Gram matrix, so a matrix that does not fit the memory is read once for each.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from solset.linalg._operator import LinearOperator

WIDTH = 8192


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


class Stacked(KeptRows):
    """Kept rows below one another.

    Args:
        parts: Matrices with the same columns, at least one.
    """

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
