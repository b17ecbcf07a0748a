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

    The width of a panel is :data:`~solset.linalg.WIDTH`, or all columns where they are fewer.

    Args:
        path: File made by :meth:`create`.
        shape: Numbers ``(m, p)`` of rows and columns.
        dtype: Floating-point type of the entries.
        device: Device on which products are computed.

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

        It replaces an earlier file of its name; arguments as for the class.

        Raises:
            OSError: If the disk has no room for it; nothing is left behind.
        """
        ArrayFile.create(path, cls._layout(shape), dtype)
        return cls(path, shape, dtype, device)

    def write(self, start: int, rows: Tensor) -> None:
        """Puts consecutive rows in place.

        Raises:
            OSError: If the disk is full.
        """
        for index, first in enumerate(range(0, self.shape[1], WIDTH)):
            part = rows[:, first : first + WIDTH].detach()
            padded = torch.nn.functional.pad(part, (0, self._width - part.shape[1]))
            self._file.write((index * self.shape[0] + start) * self._width, padded)

    def panel(self, start: int, stop: int) -> Tensor:
        """Columns ``start`` to ``stop`` of all rows, read from the file."""
        return self.read(start, stop, range(self.shape[0]))

    def read(self, start: int, stop: int, rows: range) -> Tensor:
        """Columns ``start`` to ``stop`` of some consecutive rows, ``(len(rows), stop - start)``."""
        place = (start // WIDTH * self.shape[0] + rows.start) * self._width
        entries = self._file.read(place, len(rows) * self._width)
        return entries.reshape(-1, self._width)[:, : stop - start].to(self.device)

    def part(self, start: int, stop: int) -> KeptRows:
        """Consecutive rows of the file, which are read without the others."""
        return _PartOfFile(self, range(start, stop))


class _PartOfFile(KeptRows):
    """Consecutive rows of a file, which stays for as long as they do."""

    def __init__(self, whole: StoredRows, rows: range) -> None:
        super().__init__((len(rows), whole.shape[1]), whole.dtype, whole.device)
        self._whole, self._rows = whole, rows

    def panel(self, start: int, stop: int) -> Tensor:
        return self._whole.read(start, stop, self._rows)

    def part(self, start: int, stop: int) -> KeptRows:
        return _PartOfFile(self._whole, self._rows[start:stop])


def free_bytes(folder: Path) -> int:
    """Bytes on the disk for each process of the machine, the same in all: they must come to one plan.

    Args:
        folder: Existing folder on the disk.
    """
    answer = comm.from_first(lambda: str(shutil.disk_usage(folder).free).encode())
    return int(answer or 0) // comm.neighbours()
