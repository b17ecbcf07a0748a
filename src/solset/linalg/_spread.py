"""Kept rows whose columns are spread over the processes: each keeps, and multiplies, its own columns."""

from collections.abc import Sequence

import torch
from torch import Tensor

from solset import comm
from solset.linalg._panels import WIDTH, KeptRows, Stacked


class SpreadRows(KeptRows):
    """All rows of a matrix, this process's columns of which are at hand, ``(m, p)``.

    A Gram matrix is the sum of those of the columns, and so is a product; memory and work fall with the
    number of processes.

    Args:
        own: The columns ``comm.share(p)``, ``(m, p_own)``.
        columns: ``p``.
    """

    def __init__(self, own: KeptRows, columns: int) -> None:
        super().__init__((own.shape[0], columns), own.dtype, own.device)
        self.own, self._share = own, comm.share(columns)

    def panel(self, start: int, stop: int) -> Tensor:
        """Put together from the processes that have some of it."""
        first, last = max(start, self._share.start), min(stop, self._share.stop)
        part = (
            self._own_columns(first - self._share.start, last - self._share.start) if first < last else None
        )
        return comm.join(None if part is None else part.T.contiguous(), device=self.device).T

    def part(self, start: int, stop: int) -> KeptRows:
        """The rows, spread as all are."""
        return SpreadRows(self.own.part(start, stop), self.shape[1])

    def _own_columns(self, start: int, stop: int) -> Tensor:
        """Columns by their place among this process's own."""
        first, end = start // WIDTH * WIDTH, self.own.shape[1]
        panels = [self.own.panel(s, min(s + WIDTH, end)) for s in range(first, stop, WIDTH)]
        return torch.cat(panels, dim=1)[:, start - first : stop - first]

    def _apply(self, block: Tensor) -> Tensor:
        return comm.total(self.own @ block[self._share.start : self._share.stop])

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return comm.join(self.own.T @ block, device=self.device)


def own_columns(columns: int) -> range:
    """Which of the columns of kept rows this process keeps: all of them if it is alone.

    Args:
        columns: ``p``.
    """
    return comm.share(columns)


def most_columns(columns: int) -> int:
    """How many of the columns any process keeps at most: plans are to be the same in all.

    Args:
        columns: ``p``.
    """
    return -(-columns // comm.size())


def spread(own: KeptRows, columns: int) -> KeptRows:
    """The whole matrix of which this process keeps :func:`own_columns`.

    Args:
        own: Those.
        columns: ``p``.
    """
    return own if comm.size() == 1 else SpreadRows(own, columns)


def own_part(rows: KeptRows) -> KeptRows:
    """What this process keeps of the rows.

    Args:
        rows: Spread or not.
    """
    return rows.own if isinstance(rows, SpreadRows) else rows


def in_parts(rows: KeptRows, step: int) -> KeptRows:
    """The same rows, so that a product reads so many of them at a time.

    Args:
        rows: Kept, spread or not.
        step: How many.
    """
    m = rows.shape[0]
    return stacked([rows.part(start, min(start + step, m)) for start in range(0, m, step)])


def stacked(parts: Sequence[KeptRows]) -> KeptRows:
    """Kept rows below one another, spread as they are.

    Args:
        parts: At least one, all with the same columns, and all spread or none.
    """
    return spread(Stacked([own_part(part) for part in parts]), parts[0].shape[1])
