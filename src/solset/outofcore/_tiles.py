"""Symmetric and triangular matrices larger than memory: square tiles of their lower half, in one file.

Tiles stand row by row, ``(0, 0), (1, 0), (1, 1), (2, 0), …``, so that more rows only make the file longer.
Each of several processes keeps a file with some columns of tiles.
"""

from pathlib import Path

import torch
from torch import Tensor

from solset import comm
from solset.linalg import KeptRows, LinearOperator, cross_gram
from solset.outofcore._array_file import ArrayFile, vanishing_file

DTYPE = torch.float64


class Tiles:
    """The lower half of a matrix ``(m, m)`` in float64, in tiles ``(side, side)`` on the disk.

    Args:
        path: File made by :meth:`create`.
        size: Number ``m`` of rows.
        side: Number of rows and columns of a tile; entries beyond ``m`` are zero.
        device: Device on which tiles are worked on.
        has_all: Whether the file holds all tiles; else it holds this process's columns of tiles.

    Raises:
        ValueError: If the file is not of this size, or not whole.
    """

    def __init__(
        self, path: Path, size: int, side: int, device: torch.device, *, has_all: bool = False
    ) -> None:
        self.path, self.size, self.side, self.device = path, size, side, device
        self._places = _places(size, side, has_all=has_all)
        self._file = ArrayFile(path, (len(self._places), side, side), DTYPE)

    @property
    def count(self) -> int:
        """The number of tiles in the last row of tiles."""
        return -(-self.size // self.side)

    @staticmethod
    def bytes_for(size: int, side: int) -> int:
        """Bytes of the entries in a file, in the process that keeps most tiles: the first."""
        return len(tile_places(size, side, step=comm.size())) * side * side * DTYPE.itemsize

    @classmethod
    def create(
        cls, path: Path, size: int, side: int, device: torch.device, *, has_all: bool = False
    ) -> "Tiles":
        """A file of zeros, made as by :meth:`ArrayFile.create`; arguments as for the class."""
        ArrayFile.create(path, (len(_places(size, side, has_all=has_all)), side, side), DTYPE)
        return cls(path, size, side, device, has_all=has_all)

    @classmethod
    def temporary(cls, folder: Path, size: int, side: int, device: torch.device) -> "Tiles":
        """The same in a file of an existing folder, which vanishes with the object.

        It raises :class:`OSError` in all processes if the disk of one has no room; nothing is left behind.
        """
        made, error = None, None
        try:
            made = vanishing_file(folder, "tiles", lambda path: cls.create(path, size, side, device))
        except OSError as failed:
            error = failed
        failures = torch.tensor([float(error is not None)], device=device)
        has_failed = bool(comm.total(failures) > 0)  # all processes stop, and none waits for the others
        if has_failed or made is None:
            raise error or OSError(f"another process had no room for its tiles in its '{folder}'")
        return made

    def span(self, index: int) -> slice:
        """The rows of the matrix in a row of tiles, or its columns in a column of tiles."""
        return slice(index * self.side, min((index + 1) * self.side, self.size))

    def is_own(self, column: int) -> bool:
        """Whether this process keeps, and works on, a column of tiles."""
        return column % comm.size() == comm.rank()

    def own(self, stop: int) -> range:
        """The columns of tiles before ``stop`` that this process keeps."""
        return range(comm.rank(), stop, comm.size())

    def read(self, row: int, column: int) -> Tensor:
        """One tile, without the entries beyond ``m``."""
        area = self.side * self.side
        entries = self._file.read(self._places[row, column] * area, area).reshape(self.side, self.side)
        return entries[: self._length(row), : self._length(column)].to(self.device)

    def write(self, row: int, column: int, tile: Tensor) -> None:
        """Puts one tile in place; an :class:`OSError` says that the disk is full."""
        beyond = (0, self.side - tile.shape[1], 0, self.side - tile.shape[0])
        area = self.side * self.side
        self._file.write(self._places[row, column] * area, torch.nn.functional.pad(tile, beyond))

    def shared(self, row: int, column: int) -> Tensor:
        """One tile in every process; all processes must ask for it."""
        if (row, column) in self._places:
            tile = self.read(row, column)
        else:
            tile = torch.zeros(self._length(row), self._length(column), dtype=DTYPE, device=self.device)
        return tile if self._has_all else comm.total(tile)

    def to_dense(self) -> Tensor:
        """The whole matrix in memory, ``(m, m)``, of a file that holds all tiles."""
        matrix = torch.empty(self.size, self.size, dtype=DTYPE, device=self.device)
        for i, j in tile_places(self.size, self.side):
            tile = self.read(i, j)
            matrix[self.span(i), self.span(j)] = tile
            matrix[self.span(j), self.span(i)] = tile.T
        return matrix

    @property
    def _has_all(self) -> bool:
        return len(self._places) == self.count * (self.count + 1) // 2

    def _length(self, index: int) -> int:
        span = self.span(index)
        return span.stop - span.start


class TiledSymmetric(LinearOperator):
    """``D M D`` for a symmetric ``M`` whose lower half is on the disk, and a diagonal ``D``.

    Args:
        tiles: Lower half of ``M`` on the disk.
        scale: Diagonal of ``D``, ``(m,)``; ones by default.

    Cost: a product reads the file once; each process reads its part.
    """

    is_symmetric = True

    def __init__(self, tiles: Tiles, scale: Tensor | None = None) -> None:
        super().__init__((tiles.size, tiles.size), DTYPE, tiles.device)
        self.tiles = tiles
        self.scale = torch.ones(tiles.size, dtype=DTYPE, device=tiles.device) if scale is None else scale

    def scaled(self, by: Tensor) -> "TiledSymmetric":
        """The same with one more diagonal ``by``, ``(m,)``, on both sides. Cost: nothing."""
        return TiledSymmetric(self.tiles, self.scale * by)

    def tile(self, row: int, column: int) -> Tensor:
        """One tile of the columns that this process keeps."""
        rows, columns = self.tiles.span(row), self.tiles.span(column)
        return self.scale[rows].unsqueeze(1) * self.tiles.read(row, column) * self.scale[columns]

    def diagonal(self) -> Tensor:
        """The entries on the diagonal, ``(m,)``. Cost: the tiles there are read."""
        entries = torch.zeros(self.shape[0], dtype=DTYPE, device=self.device)
        for j in self.tiles.own(self.tiles.count):
            entries[self.tiles.span(j)] = self.tile(j, j).diagonal()
        return comm.total(entries)

    def _apply(self, block: Tensor) -> Tensor:
        product = torch.zeros_like(block)
        for j in self.tiles.own(self.tiles.count):
            columns = self.tiles.span(j)
            for i in range(j, self.tiles.count):
                rows, tile = self.tiles.span(i), self.tile(i, j)
                product[rows] += tile @ block[columns]
                if i > j:
                    product[columns] += tile.T @ block[rows]
        return comm.total(product)


def tiled_gram(rows: KeptRows, tiles: Tiles, first: Tiles | None = None) -> TiledSymmetric:
    """The Gram matrix ``AAᵀ`` of kept rows, put on the disk tile by tile.

    Args:
        rows: The matrix ``A``, ``(m, p)``.
        tiles: Room for the Gram matrix on the disk.
        first: Gram matrix of the first rows, whose full rows of tiles are copied.

    Cost: every tile reads its two parts of the rows; at most eight tiles and two panels in memory.
    """
    ready = 0 if first is None or first.side != tiles.side else first.size // first.side
    parts = [rows.part(span.start, span.stop) for span in map(tiles.span, range(tiles.count))]
    for i in range(tiles.count):
        for j in range(i + 1):
            if first is not None and i < ready:
                tile = first.read(i, j) if tiles.is_own(j) else None
            else:
                tile = cross_gram(parts[i], parts[j])
            if tile is not None and tiles.is_own(j):
                tiles.write(i, j, tile)
    return TiledSymmetric(tiles)


def tile_places(size: int, side: int, *, first: int = 0, step: int = 1) -> list[tuple[int, int]]:
    """The places of the tiles of the lower half, row by row."""
    count = -(-size // side)
    return [(i, j) for i in range(count) for j in range(first, i + 1, step)]


def _places(size: int, side: int, *, has_all: bool) -> dict[tuple[int, int], int]:
    """The index of each tile of a file."""
    first, step = (0, 1) if has_all else (comm.rank(), comm.size())
    return {tile: index for index, tile in enumerate(tile_places(size, side, first=first, step=step))}
