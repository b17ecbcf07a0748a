"""Numbers in one ``.npy`` file of known size, written and read in stretches: what does not fit the memory."""

import errno
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

from solset.errors import bad_value
from solset.storage import PARTIAL

Owner = TypeVar("Owner")


class ArrayFile:
    """An array on the disk that is never read whole; NumPy reads it too.

    Args:
        path: The file, made by :meth:`create`.
        shape: Of the array, row-major.
        dtype: Of its entries.

    Raises:
        ValueError: If the file is not of this shape and dtype, or not whole.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.path, self.dtype = path, dtype
        self._kind = _kind(dtype)
        with path.open("rb") as file:
            self._start = _header_end(file, shape, self._kind)
        if path.stat().st_size != self._start + int(np.prod(shape)) * dtype.itemsize:
            raise _not_this_array(path, f"{path.stat().st_size} bytes")

    @classmethod
    def create(cls, path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> "ArrayFile":
        """A file of zeros with all its room reserved.

        Args:
            path: Where; an earlier file there is replaced.
            shape: Of the array.
            dtype: Of its entries.

        Raises:
            OSError: If the disk has no room for it; nothing is left behind.
        """
        need = int(np.prod(shape)) * dtype.itemsize
        layout = {
            "descr": np.lib.format.dtype_to_descr(_kind(dtype)),
            "fortran_order": False,
            "shape": shape,
        }
        try:
            with path.open("wb") as file:
                np.lib.format.write_array_header_2_0(file, layout)
                _reserve(file.fileno(), file.tell(), need)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise _without_room(error, path, need) from error
        return cls(path, shape, dtype)

    def read(self, start: int, count: int) -> Tensor:
        """Entries from place ``start`` on, flat, on the CPU.

        Args:
            start: Of the first, in the order of the file.
            count: How many.

        Raises:
            ValueError: If the file has become shorter.
        """
        offset = self._start + start * self.dtype.itemsize
        found = np.fromfile(self.path, dtype=self._kind, count=count, offset=offset)
        if len(found) != count:
            raise _not_this_array(self.path, f"an end after {start + len(found)} entries")
        return torch.from_numpy(found)

    def write(self, start: int, entries: Tensor) -> None:
        """Puts entries in place, in their own order.

        Args:
            start: Where the first goes.
            entries: Are stored in the array's dtype.

        Raises:
            OSError: If the disk is full.
        """
        try:
            with self.path.open("r+b") as file:
                file.seek(self._start + start * self.dtype.itemsize)
                file.write(entries.detach().to("cpu", self.dtype).contiguous().numpy().data)
        except OSError as error:
            raise _without_room(error, self.path, entries.numel() * self.dtype.itemsize) from error


def vanishing_file(folder: Path, name: str, make: Callable[[Path], Owner]) -> Owner:
    """What ``make`` returns for a new file in the folder, which vanishes with it, or with its failure."""
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


def _kind(dtype: torch.dtype) -> np.dtype[Any]:
    return torch.empty(0, dtype=dtype).numpy().dtype


def _header_end(file: BinaryIO, layout: tuple[int, ...], kind: np.dtype[Any]) -> int:
    """Where the entries begin, if the file is of this layout and dtype."""
    try:
        np.lib.format.read_magic(file)
        shape, is_fortran, found = np.lib.format.read_array_header_2_0(file)
    except ValueError as error:
        raise _not_this_array(Path(file.name), "another kind of file") from error
    if (shape, is_fortran, found) != (layout, False, kind):
        raise _not_this_array(Path(file.name), f"an array {shape} of {found}")
    return file.tell()


def _not_this_array(path: Path, got: str) -> ValueError:
    return bad_value(
        "path",
        expected=f"the whole file '{path.name}', of this problem's sizes",
        got=got,
        cure="Compute it again.",
    )


def _reserve(descriptor: int, start: int, size: int) -> None:
    """Room in the file before it is needed: a full disk is found now and not after an hour."""
    try:
        os.posix_fallocate(descriptor, start, size)
    except (AttributeError, OSError) as error:
        # Not every system has it, nor every file system.
        if isinstance(error, OSError) and error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
            raise
        os.ftruncate(descriptor, start + size)


def _without_room(error: OSError, path: Path, need: int) -> OSError:
    if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        return error
    return OSError(
        errno.ENOSPC,
        f"no room on the disk for {need} bytes; earlier files are as they were. Free some space, choose "
        f"another folder, raise memory_budget, or use fewer rows",
        str(path),
    )
