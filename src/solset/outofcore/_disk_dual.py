"""The solver :class:`solset.solvers.Dual` for rows and Gram matrices that do not fit the memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from solset.checks import checked
from solset.linalg import (
    WIDTH,
    DenseOperator,
    KeptRows,
    LinearOperator,
    Stacked,
    gram_by_parts,
    in_parts,
    own_columns,
    own_part,
    spread,
    stacked,
)
from solset.outofcore._array_file import StoredRows, free_bytes, vanishing_file
from solset.outofcore._factors import Factors
from solset.outofcore._tiled_dual import TiledPrepared
from solset.outofcore._tiles import TiledSymmetric, Tiles, tiled_gram
from solset.solvers import AT_ONCE, Dual, GramPrepared, Prepared, RowPlan, RowSizes, computed_rows, size_text

TILES = 8  # tiles in memory at once
FILES = 3  # on the disk: the matrix, its factor, one with a shift
LEAST_SIDE, MAX_TILES = 16, 64  # tiles in a row: of smaller ones there would be too many to read


@dataclass(frozen=True)
class DiskSizes:
    """Bytes that rows and Gram matrix take on the disk, and work on them in memory."""

    sizes: RowSizes  # Sizes of the same work in memory
    folder: Path  # Existing folder on the disk

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


@checked
@dataclass(frozen=True)
class DiskDual(Dual):
    """The minimum-norm solution through the Gram matrix, with rows on the disk where the memory is short.

    Rows and Gram matrix are in memory if both fit ``memory_budget``; else the rows are on the disk; else the
    Gram matrix too, in tiles, with a Cholesky factor in place of the eigen-decomposition: the same
    solutions, but no rank below the full one and no cut of the spectrum; ``rank_tolerance`` then decides
    whether the rank is the full one. Rows are computed again at every use only if the disk has no room.

    Attributes:
        folder: Existing folder on the disk; files vanish with what :meth:`prepare` returns.

    Cost: as :class:`~solset.solvers.Dual`; with the Gram matrix on the disk a further direction reads the
    factor four times, and more often where rows depend on each other.
    """

    folder: Path = field(kw_only=True)

    def extend(self, prepared: Prepared, operator: LinearOperator) -> Prepared:
        """The same with more rows: no row that is kept is computed again.

        Raises:
            OSError: If the disk has no room for rows, Gram matrix or factor.

        Cost: the new rows, and their inner products with all; all inner products where rows that were in
        memory move to the disk.
        """
        plan, old = self.plan(operator), prepared.operator
        if plan.place != "disk" or not isinstance(old, KeptRows):
            return super().extend(prepared, operator)
        if _is_in_memory(old):  # both together do not fit: what is there moves to the disk as well
            return self._of_kept(keep_on_disk(operator, self.folder, first=old), plan)
        rows = stacked([old, keep_on_disk(operator, self.folder, start=old.shape[0])])
        if prepared.gram is not None and not (plan.side or plan.rows_per_part):
            return self._bordered(prepared.gram, rows)
        return self._of_kept(rows, plan, prepared if isinstance(prepared, TiledPrepared) else None)

    def _plan_beyond_memory(self, sizes: RowSizes, note: str) -> RowPlan:
        plan, note = DiskSizes(sizes, self.folder).plan(self.memory_budget, note)
        return plan or super()._plan_beyond_memory(sizes, note)

    def _smallest_budget(self, sizes: RowSizes) -> int:
        return min([super()._smallest_budget(sizes), *DiskSizes(sizes, self.folder).smallest_budgets()])

    def _keep(self, rows: LinearOperator, plan: RowPlan) -> KeptRows:
        return keep_on_disk(rows, self.folder) if plan.place == "disk" else super()._keep(rows, plan)

    def _of_kept(self, rows: KeptRows, plan: RowPlan, first: TiledPrepared | None = None) -> GramPrepared:
        """The decomposition or factor for rows that are at hand; ``first`` is that of the first rows."""
        if plan.side:
            tiles = None if first is None else first.matrix.tiles
            is_usable = tiles is not None and self._has_room_for_tiles(rows, tiles.side)
            side = tiles.side if tiles is not None and is_usable else plan.side
            room = Tiles.temporary(self.folder, rows.shape[0], side, rows.device)
            return self._of_tiles(rows, tiled_gram(rows, room, tiles), first)
        if plan.rows_per_part:
            narrow = in_parts(rows, plan.rows_per_part)
            return self.from_gram(narrow, gram_by_parts(narrow, plan.rows_per_part))
        return super()._of_kept(rows, plan)

    def _of_tiles(
        self, rows: KeptRows, matrix: TiledSymmetric, first: TiledPrepared | None = None
    ) -> GramPrepared:
        factor = None if first is None else first.factors.exact_so_far
        return TiledPrepared(
            in_parts(rows, matrix.tiles.side),  # so that panels are no larger than tiles
            Factors(matrix, self.folder, factor),
            self._tolerance(rows),
            self.tol,
            is_equilibrated=self.is_equilibrated,
        )

    def _of_stored_tiles(self, rows: KeptRows, tiles: Tiles) -> GramPrepared:
        if not self._has_room_for_tiles(rows, tiles.side):
            return self.prepare_rows(rows)
        return self._of_tiles(rows, TiledSymmetric(tiles))

    def _has_room_for_tiles(self, rows: LinearOperator, side: int) -> bool:
        return DiskSizes(RowSizes.of(rows), self.folder).tile_memory(side) <= self.memory_budget


def gram_solver(memory_budget: int, folder: Path | None, *, is_equilibrated: bool = False) -> Dual:
    """The solver through a Gram matrix, with a folder for what does not fit the memory or without one.

    Args:
        memory_budget: Bytes of memory for rows, Gram matrix and its decomposition.
        folder: Existing folder on the disk; ``None`` to compute rows again instead.
        is_equilibrated: Whether every row is scaled to length one before the rank is cut.
    """
    if folder is None:
        return Dual(memory_budget=memory_budget, is_equilibrated=is_equilibrated)
    return DiskDual(memory_budget=memory_budget, folder=folder, is_equilibrated=is_equilibrated)


def prepare_stored(solver: Dual, rows: KeptRows, tiles: Tiles) -> GramPrepared:
    """The decomposition or factor of a Gram matrix that is on the disk already.

    Args:
        solver: Solver whose settings and memory budget are used.
        rows: The matrix ``A``, ``(m, p)``.
        tiles: The Gram matrix ``AAᵀ``, all its tiles; computed again if its tiles do not fit the memory.
    """
    if not isinstance(solver, DiskDual) or not solver.plan(rows).side:
        return solver.from_gram(rows, tiles.to_dense())
    return solver._of_stored_tiles(rows, tiles)


def keep_on_disk(
    operator: LinearOperator, folder: Path, *, start: int = 0, first: KeptRows | None = None
) -> KeptRows:
    """The operator's rows from ``start`` on, computed once and kept in a file that lives as long as they.

    Raises:
        OSError: If the disk has no room; no file is left.
    """
    count, columns = operator.shape[0] - start, operator.shape[1]
    first = None if first is None else own_part(first)
    done = 0 if first is None else first.shape[0]

    def write(path: Path) -> StoredRows:
        shape = (count, len(own_columns(columns)))
        stored = StoredRows.create(path, shape, operator.dtype, operator.device)
        if first is not None:
            for i in range(0, done, AT_ONCE):
                stored.write(i, first.rows(i, min(i + AT_ONCE, done)))
        for i, rows in computed_rows(operator, start, done):
            stored.write(i, rows)
        return stored

    return spread(vanishing_file(folder, "rows", write), columns)


def _is_in_memory(rows: KeptRows) -> bool:
    part = own_part(rows)
    if isinstance(part, Stacked):
        return any(_is_in_memory(inner) for inner in part.parts)
    return isinstance(part, DenseOperator)
