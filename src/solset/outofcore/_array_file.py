"""Arrays and rows in ``.npy`` files of known size, written and read in stretches.

NumPy makes a file and checks its header; entries go through plain reads and writes. A memory map would be
shorter, but ends the whole process (``SIGBUS``) where a file has become shorter or a disk is full.
"""

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from solset import comm
from solset.errors import bad_value
from solset.linalg import WIDTH, KeptRows
from solset.storage import PARTIAL

Owner = TypeVar("Owner")


class ArrayFile:
    """An array on the disk that is never read whole; NumPy reads it too.

    Raises:
        ValueError: If the file is not of this shape and dtype, or not whole.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.path, self.dtype = path, dtype
        self._numpy = torch.empty(0, dtype=dtype).numpy().dtype
        try:
            array = np.lib.format.open_memmap(path, mode="r")
        except ValueError as error:
            raise _not_this_array(path, "another kind of file, or a part of one") from error
        if (array.shape, array.dtype, array.flags.c_contiguous) != (shape, self._numpy, True):
            raise _not_this_array(path, f"an array {array.shape} of {array.dtype}")
        self._start = array.offset
        if path.stat().st_size != self._start + array.nbytes:
            raise _not_this_array(path, f"{path.stat().st_size} bytes")

    @classmethod
    def create(cls, path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> "ArrayFile":
        """A file of zeros with all its room reserved, in place of an earlier one; arguments as for the class.

        It raises :class:`OSError` if the disk has no room; nothing is left behind.
        """
        numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
        try:
            np.lib.format.open_memmap(path, mode="w+", dtype=numpy_dtype, shape=shape, version=(2, 0))
            _reserve(path)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise _without_room(error, path, prod(shape) * dtype.itemsize) from error
        return cls(path, shape, dtype)

    def read(self, start: int, count: int) -> Tensor:
        """Consecutive entries in the order of the file, flat, on the CPU; refused if the file is shorter."""
        offset = self._start + start * self.dtype.itemsize
        entries = np.fromfile(self.path, dtype=self._numpy, count=count, offset=offset)
        if len(entries) != count:
            raise _not_this_array(self.path, f"an end after {start + len(entries)} entries")
        return torch.from_numpy(entries)

    def write(self, start: int, entries: Tensor) -> None:
        """Puts consecutive entries in place; an :class:`OSError` says that the disk is full."""
        try:
            with self.path.open("r+b") as file:
                file.seek(self._start + start * self.dtype.itemsize)
                file.write(entries.detach().to("cpu", self.dtype).contiguous().numpy().data)
        except OSError as error:
            raise _without_room(error, self.path, entries.numel() * self.dtype.itemsize) from error


def vanishing_file(folder: Path, name: str, make: Callable[[Path], Owner]) -> Owner:
    """The object that ``make`` returns for a new file in the folder; the file vanishes with the object."""
    handle, text = tempfile.mkstemp(prefix=f"{PARTIAL}{name}-", suffix=".npy", dir=folder)
    os.close(handle)
    path = Path(text)
    try:
        owner = make(path)
        weakref.finalize(owner, path.unlink, missing_ok=True)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return owner


def _not_this_array(path: Path, got: str) -> ValueError:
    expected = f"the whole file '{path.name}', of this problem's sizes"
    return bad_value("path", expected=expected, got=got, cure="Compute it again.")


def _reserve(path: Path) -> None:
    """Room on the disk before it is needed: a full disk is found now and not after an hour."""
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except (AttributeError, OSError) as error:
        # Not every system has it, nor every file system.
        if isinstance(error, OSError) and error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
            raise


def _without_room(error: OSError, path: Path, need: int) -> OSError:
    if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        return error
    return OSError(
        errno.ENOSPC,
        f"no room on the disk for {need} bytes; earlier files are as they were. Free some space, choose "
        f"another folder, raise memory_budget, or use fewer rows",
        str(path),
    )


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
        """A file of zeros to be filled by :meth:`write`, made as by :meth:`ArrayFile.create`."""
        ArrayFile.create(path, cls._layout(shape), dtype)
        return cls(path, shape, dtype, device)

    def write(self, start: int, rows: Tensor) -> None:
        """Puts consecutive rows in place; an :class:`OSError` says that the disk is full."""
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
    """Bytes on the disk of a folder for each process of the machine, the same in all, for one plan."""
    answer = comm.from_first(lambda: str(shutil.disk_usage(folder).free).encode())
    return int(answer or 0) // comm.neighbours()
