"""Matrices of many columns that are kept whole, in memory or on disk, and read panel by panel.

A panel is all rows of a few thousand columns. One pass over the panels gives a product, its adjoint or the
Gram matrix, so rows that do not fit memory are read once for each, in long stretches of the file.
"""

import errno
import os
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from solset import comm
from solset.errors import bad_value
from solset.linalg.operator import LinearOperator

WIDTH = 8192


class KeptRows(LinearOperator):
    """A matrix whose entries are at hand, ``(m, p)``."""

    @abstractmethod
    def panel(self, start: int, stop: int) -> Tensor:
        """Columns ``start`` to ``stop`` of all rows, where ``start`` is a multiple of :data:`WIDTH`."""

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
        """The stored rows. Cost: one pass over the panels."""
        return torch.cat([entries[start:stop] for _, entries in self.panels()], dim=1)


class StoredRows(KeptRows):
    """Rows in one ``.npy`` file, panel after panel; NumPy reads it as an array ``(panels, m, WIDTH)``.

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
        self._kind = torch.empty(0, dtype=dtype).numpy().dtype
        with path.open("rb") as file:
            self._start = _header_end(file, self._layout(shape), self._kind)
        if path.stat().st_size != self._start + self.bytes_for(shape, dtype):
            raise _not_these_rows(path, f"{path.stat().st_size} bytes")

    @staticmethod
    def _layout(shape: tuple[int, int]) -> tuple[int, int, int]:
        return (-(-shape[1] // WIDTH), shape[0], WIDTH)

    @staticmethod
    def bytes_for(shape: tuple[int, int], dtype: torch.dtype) -> int:
        """Bytes of the entries in the file; its last panel is filled up with zeros."""
        return -(-shape[1] // WIDTH) * WIDTH * shape[0] * dtype.itemsize

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
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        need = cls.bytes_for(shape, dtype)
        layout = {
            "descr": np.lib.format.dtype_to_descr(kind),
            "fortran_order": False,
            "shape": cls._layout(shape),
        }
        try:
            with path.open("wb") as file:
                np.lib.format.write_array_header_2_0(file, layout)
                _reserve(file.fileno(), file.tell(), need)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise _without_room(error, path, need) from error
        return cls(path, shape, dtype, device)

    def write(self, start: int, rows: Tensor) -> None:
        """Puts rows ``(k, p)`` in place from row ``start`` on.

        Args:
            start: Index of the first.
            rows: In the operator's dtype.

        Raises:
            OSError: If the disk is full.
        """
        entries = rows.detach().cpu()
        item = self.dtype.itemsize
        try:
            with self.path.open("r+b") as file:
                for index, first in enumerate(range(0, self.shape[1], WIDTH)):
                    part = entries[:, first : first + WIDTH]
                    padded = torch.nn.functional.pad(part, (0, WIDTH - part.shape[1]))
                    file.seek(self._start + (index * self.shape[0] + start) * WIDTH * item)
                    file.write(padded.contiguous().numpy().data)
        except OSError as error:
            raise _without_room(error, self.path, entries.numel() * item) from error

    def copy(self, rows: KeptRows) -> None:
        """Takes over all entries of kept rows, panel by panel.

        Args:
            rows: Of the same shape and dtype.

        Raises:
            OSError: If the disk is full.
        """
        try:
            with self.path.open("r+b") as file:
                file.seek(self._start)
                for _, entries in rows.panels():
                    part = entries.detach().cpu()
                    padded = torch.nn.functional.pad(part, (0, WIDTH - part.shape[1]))
                    file.write(padded.contiguous().numpy().data)
        except OSError as error:
            raise _without_room(error, self.path, self.path.stat().st_size) from error

    def panel(self, start: int, stop: int) -> Tensor:
        """As read from the file."""
        count = self.shape[0] * WIDTH
        offset = self._start + start // WIDTH * count * self.dtype.itemsize
        entries = np.fromfile(self.path, dtype=self._kind, count=count, offset=offset)
        return torch.from_numpy(entries).reshape(-1, WIDTH)[:, : stop - start].to(self.device)


class Stacked(KeptRows):
    """Kept rows below one another.

    Args:
        parts: At least one, all with the same columns.
    """

    def __init__(self, parts: Sequence[KeptRows]) -> None:
        first = parts[0]
        super().__init__((sum(part.shape[0] for part in parts), first.shape[1]), first.dtype, first.device)
        self.parts = tuple(parts)

    def panel(self, start: int, stop: int) -> Tensor:
        """The panels of the parts below one another."""
        return torch.cat([part.panel(start, stop) for part in self.parts])

    def _apply(self, block: Tensor) -> Tensor:
        return torch.cat([part @ block for part in self.parts])

    def _apply_transposed(self, block: Tensor) -> Tensor:
        shares = block.split([part.shape[0] for part in self.parts])
        total = self.parts[0].T @ shares[0]
        for part, share in zip(self.parts[1:], shares[1:], strict=True):
            total = total + part.T @ share
        return total


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder, as the first process sees it: all must come to the same plan.

    Args:
        folder: An existing one.
    """
    found = comm.from_first(lambda: str(shutil.disk_usage(folder).free).encode())
    return int(found or 0)


def _header_end(file: BinaryIO, layout: tuple[int, int, int], kind: np.dtype[Any]) -> int:
    """Where the entries begin, if the file is of this layout and dtype."""
    try:
        np.lib.format.read_magic(file)
        shape, is_fortran, found = np.lib.format.read_array_header_2_0(file)
    except ValueError as error:
        raise _not_these_rows(Path(file.name), "another kind of file") from error
    if (shape, is_fortran, found) != (layout, False, kind):
        raise _not_these_rows(Path(file.name), f"an array {shape} of {found}")
    return file.tell()


def _not_these_rows(path: Path, got: str) -> ValueError:
    return bad_value(
        "path",
        expected=f"the whole file of rows '{path.name}', of this problem's sizes",
        got=got,
        cure="Compute the rows again.",
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
        f"no room on the disk for {need} bytes of rows; earlier files are as they were. Free some space, "
        f"choose another folder, raise memory_budget, or use fewer rows",
        str(path),
    )
