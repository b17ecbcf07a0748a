"""Plans for rows, and Gram matrices, that are kept on the disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from solset.linalg import WIDTH
from solset.outofcore._stored_rows import StoredRows, free_bytes
from solset.outofcore._tiles import Tiles
from solset.solvers import RowPlan, RowSizes, size_text

TILES = 8  # tiles in memory at once
FILES = 3  # on the disk: the matrix, its factor, one with a shift
LEAST_SIDE, MAX_TILES = 16, 64  # tiles in a row: of smaller ones there would be too many to read


@dataclass(frozen=True)
class DiskSizes:
    """Bytes that rows and Gram matrix take on the disk, and work on them in memory.

    Attributes:
        sizes: Sizes of the same work in memory.
        folder: Existing folder on the disk.
    """

    sizes: RowSizes
    folder: Path

    @property
    def stored(self) -> int:
        """Bytes of the file of rows, of the process that keeps most."""
        return StoredRows.bytes_for((self.sizes.rows, self.sizes.own_columns), self.sizes.dtype)

    @property
    def line(self) -> int:
        """Bytes of memory for a row in two panels, as stored and in float64."""
        return min(self.sizes.own_columns, WIDTH) * (2 * self.sizes.dtype.itemsize + 16)

    @property
    def least_rows(self) -> int:
        """The fewest rows worth reading together."""
        return -(-self.sizes.rows // MAX_TILES)

    @property
    def least_side(self) -> int:
        """The smallest side of tiles that is worth it."""
        return max(LEAST_SIDE, self.least_rows)

    def tile_memory(self, side: int) -> int:
        """Bytes of memory for work on tiles: some of them, and two panels of the rows of one."""
        return TILES * 8 * side * side + side * self.line

    def tile_disk(self, side: int) -> int:
        """Bytes on the disk with a Gram matrix in tiles there too."""
        return self.stored + FILES * Tiles.bytes_for(self.sizes.rows, side)

    def largest_side(self, memory_budget: int) -> int:
        """The largest side of tiles that fits, less what would only be room beyond the matrix; or 0."""
        square, line, rows = TILES * 8, self.line, self.sizes.rows
        side = int(((line * line + 4 * square * memory_budget) ** 0.5 - line) / (2 * square))
        if side < self.least_side:
            return 0
        return max(-(-rows // -(-rows // side)), self.least_side)

    def smallest_budgets(self) -> Iterator[int]:
        """The memory budgets from which a plan with the disk works."""
        sizes, free = self.sizes, free_bytes(self.folder)
        if self.stored <= free:
            yield sizes.square + min(sizes.panel, self.least_rows * self.line)
        if self.tile_disk(self.least_side) <= free:
            yield self.tile_memory(self.least_side)

    def plan(self, memory_budget: int, note: str) -> tuple[RowPlan | None, str]:
        """The cheapest plan with the disk, or nothing; and why rows are where they are."""
        sizes, free = self.sizes, free_bytes(self.folder)
        if self.stored > free:
            missing = f"the disk of {self.folder} has less than {size_text(self.stored)} left"
            return None, f"{note} and {missing}"
        if sizes.square + sizes.panel <= memory_budget:
            return self._on_disk(sizes.square + sizes.panel, note), note
        note += f", and working from the disk {size_text(sizes.square + sizes.panel)}"
        part = (memory_budget - sizes.square) // self.line
        if part >= self.least_rows:
            return self._on_disk(sizes.square + part * self.line, note, rows_per_part=part), note
        largest = self.largest_side(memory_budget)
        for side in dict.fromkeys((largest, self.least_side)) if largest else ():
            if self.tile_disk(side) <= free:
                return self._on_disk(self.tile_memory(side), note, side=side), note
        return None, note

    def _on_disk(self, memory: int, note: str, *, rows_per_part: int = 0, side: int = 0) -> RowPlan:
        return RowPlan(
            rows=self.sizes.rows,
            columns=self.sizes.columns,
            place="disk",
            memory=memory,
            gram_memory=TILES * 8 * side**2 if side else self.sizes.square,
            disk=self.tile_disk(side) if side else self.stored,
            sweeps=1.0,
            note=note,
            rows_per_part=rows_per_part,
            side=side,
        )
