"""Rows of a matrix in one file, panel after panel, and the room that the disk has for them."""

import shutil
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from solset import comm
from solset.linalg import WIDTH, KeptRows
from solset.outofcore._array_file import ArrayFile


class StoredRows(KeptRows):
    """Rows in one ``.npy`` file, panel after panel; NumPy reads it as an array ``(panels, m, width)``.

    The width of a panel is :data:`WIDTH`, or all columns where they are fewer.

    Args:
        path: The file, made by :meth:`create`.
        shape: ``(m, p)``.
        dtype: Of the entries.
        device: Where products are computed.

    Raises:
        ValueError: If the file is not of this shape and dtype, or not whole.

    Cost: a product reads the file once; ``m · WIDTH`` numbers of memory.
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(shape, dtype, device)
        self.path = path
        self._width = min(shape[1], WIDTH)
        self._file = ArrayFile(path, self._layout(shape), dtype)

    @staticmethod
    def _layout(shape: tuple[int, int]) -> tuple[int, int, int]:
        return (-(-shape[1] // WIDTH), shape[0], min(shape[1], WIDTH))

    @staticmethod
    def bytes_for(shape: tuple[int, int], dtype: torch.dtype) -> int:
        """Bytes of the entries in the file; its last panel is filled up with zeros."""
        return prod(StoredRows._layout(shape)) * dtype.itemsize

    @classmethod
    def create(
        cls, path: Path, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
    ) -> "StoredRows":
        """A file of zeros with all its room reserved, to be filled by :meth:`write`.

        Args:
            path: Where; an earlier file there is replaced.
            shape: ``(m, p)``.
            dtype: Of the entries.
            device: Where products will be computed.

        Raises:
            OSError: If the disk has no room for it; nothing is left behind.
        """
        ArrayFile.create(path, cls._layout(shape), dtype)
        return cls(path, shape, dtype, device)

    def write(self, start: int, rows: Tensor) -> None:
        """Puts rows ``(k, p)`` in place from row ``start`` on.

        Args:
            start: Index of the first.
            rows: In the operator's dtype.

        Raises:
            OSError: If the disk is full.
        """
        for index, first in enumerate(range(0, self.shape[1], WIDTH)):
            part = rows[:, first : first + WIDTH].detach()
            padded = torch.nn.functional.pad(part, (0, self._width - part.shape[1]))
            self._file.write((index * self.shape[0] + start) * self._width, padded)

    def panel(self, start: int, stop: int) -> Tensor:
        """As read from the file."""
        return self.read(start, stop, range(self.shape[0]))

    def read(self, start: int, stop: int, rows: range) -> Tensor:
        """The columns of :meth:`panel` in some rows that follow one another.

        Args:
            start: First column.
            stop: End of the columns.
            rows: Which.
        """
        place = (start // WIDTH * self.shape[0] + rows.start) * self._width
        entries = self._file.read(place, len(rows) * self._width)
        return entries.reshape(-1, self._width)[:, : stop - start].to(self.device)

    def part(self, start: int, stop: int) -> KeptRows:
        """Rows of the file, read by themselves."""
        return _PartOfFile(self, range(start, stop))


class _PartOfFile(KeptRows):
    """Rows of a file that follow one another; the file is there for as long as they are."""

    def __init__(self, whole: StoredRows, rows: range) -> None:
        super().__init__((len(rows), whole.shape[1]), whole.dtype, whole.device)
        self._whole, self._rows = whole, rows

    def panel(self, start: int, stop: int) -> Tensor:
        return self._whole.read(start, stop, self._rows)

    def part(self, start: int, stop: int) -> KeptRows:
        return _PartOfFile(self._whole, self._rows[start:stop])


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder for each process of the first one's machine, as that sees it.

    All must come to the same plan.

    Args:
        folder: An existing one.
    """
    found = comm.from_first(lambda: str(shutil.disk_usage(folder).free).encode())
    return int(found or 0) // comm.neighbours()
