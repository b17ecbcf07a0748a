"""Matrices of many columns whose entries are at hand, and are read panel by panel.

A panel is all rows of a few thousand columns. One pass over the panels gives a product, its adjoint or the
Gram matrix, so a matrix that does not fit the memory is read once for each. Of several processes each keeps,
and multiplies, some columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from solset import comm
from solset.linalg._operator import WIDTH, KeptRows


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
