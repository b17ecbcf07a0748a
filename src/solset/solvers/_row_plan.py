"""Where the rows of a Gram route are kept, decided and said before any of them is computed."""

import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from solset.errors import bad_value
from solset.linalg import (
    DenseOperator,
    KeptRows,
    LinearOperator,
    StoredRows,
    Tiles,
    free_bytes,
    gram_block,
    most_columns,
    own_columns,
    own_part,
    spread,
)
from solset.linalg._panels import WIDTH
from solset.storage._files import PARTIAL

AT_ONCE = 64  # rows computed in one batch
TILES, FILES = 8, 3  # in memory at once; on the disk: the matrix, its factor, one with a shift
LEAST_SIDE, MOST_TILES = 16, 64  # tiles in a row: of smaller ones there would be too many to read


@dataclass(frozen=True)
class RowPlan:
    """What a Gram route will need.

    Attributes:
        rows: ``m``.
        columns: ``p``.
        place: Where the rows are: ``"memory"``, ``"disk"``, or ``"recomputed"`` at every use.
        memory: Bytes of memory at the peak, in each process, beside what a batch of rows takes while it is
            computed.
        disk: Bytes on the disk, of each process.
        sweeps: How often each row is computed until the Gram matrix is there.
        reason: Why the rows are where they are.
        at_once: How many are computed together.
        step: Rows that are read from the disk together; 0 for all.
        side: Of the tiles in which the Gram matrix is on the disk too; 0 where it is in memory.

    Example:
        >>> plan = plan_rows((347, 853018), torch.float32, memory_budget=4 * 2**30)
        >>> print(plan)
        347 rows of 853018 columns: 1.2 GB in memory, each row computed once
    """

    rows: int
    columns: int
    place: Literal["memory", "disk", "recomputed"]
    memory: int
    disk: int
    sweeps: float
    reason: str
    at_once: int = AT_ONCE
    step: int = 0
    side: int = 0

    @property
    def gram_memory(self) -> int:
        """Bytes of memory for the Gram matrix with its decomposition, or for some of its tiles."""
        return TILES * 8 * self.side**2 if self.side else 24 * self.rows**2

    def __str__(self) -> str:
        """One line for a person."""
        text = f"{self.rows} rows of {self.columns} columns: {size_text(self.memory)} in memory"
        if self.place == "disk":
            text += f" and {size_text(self.disk)} on the disk"
        if self.side:
            text += f", the Gram matrix too, in tiles of {self.side}"
        often = "each row computed once"
        if self.place == "recomputed":
            often = f"each row computed {self.sweeps:.3g} times for the Gram matrix and once more a product"
        return f"{text}, {often}" + (f" ({self.reason})" if self.place != "memory" else "")


def plan_rows(
    shape: tuple[int, int], dtype: torch.dtype, *, memory_budget: int, folder: Path | None = None
) -> RowPlan:
    """The cheapest plan that stays inside the budget.

    Rows and Gram matrix in memory; else the rows on the disk; else both there; else rows computed anew.

    Args:
        shape: ``(m, p)`` of the rows.
        dtype: Of the rows.
        memory_budget: Bytes of memory for rows, Gram matrix and its decomposition.
        folder: Where rows may be put on the disk; ``None`` for nowhere.

    Raises:
        ValueError: If no plan fits; names the smallest budget that works.
    """
    m, p = shape
    kept = (m, most_columns(p))
    square = 3 * 8 * m * m
    panel = m * min(p, WIDTH) * (dtype.itemsize + 8)
    whole = square + panel + m * kept[1] * dtype.itemsize
    if whole <= memory_budget:
        return RowPlan(m, p, "memory", whole, 0, 1.0, "they fit the budget")
    reason = f"keeping them takes {size_text(whole)} of a budget of {size_text(memory_budget)}"
    disk = StoredRows.bytes_for(kept, dtype)
    if folder is not None and disk > free_bytes(folder):
        reason += f" and the disk of {folder} has less than {size_text(disk)} left"
    elif folder is not None:
        if square + panel <= memory_budget:
            return RowPlan(m, p, "disk", square + panel, disk, 1.0, reason)
        reason += f", and working from the disk {size_text(square + panel)}"
        step = (memory_budget - square) // line_bytes(kept[1], dtype)
        if step >= -(-m // MOST_TILES):
            memory = square + step * line_bytes(kept[1], dtype)
            return RowPlan(m, p, "disk", memory, disk, 1.0, reason, step=step)
        largest = tile_side(kept, dtype, memory_budget)
        for side in dict.fromkeys((largest, least_side(m))) if largest else ():
            tiles = FILES * Tiles.bytes_for(m, side)
            if disk + tiles <= free_bytes(folder):
                memory = tile_bytes(side, kept[1], dtype)
                return RowPlan(m, p, "disk", memory, disk + tiles, 1.0, reason, side=side)
    smallest = smallest_budget(shape, dtype, folder=folder)
    if memory_budget < smallest:
        raise bad_value(
            "memory_budget",
            expected=f"at least {smallest} bytes for a Gram matrix of {m} rows",
            got=memory_budget,
            cure="Raise it, use fewer rows, or take a matrix-free solver such as LSMR.",
        )
    block = gram_block(shape, dtype, memory_budget - square + 8 * m * m)
    memory = square + 2 * block * p * (8 + dtype.itemsize)
    # Block i meets all blocks before it, each of which is computed anew for it.
    computed = sum(min(block, m - i) + i for i in range(0, m, block))
    return RowPlan(m, p, "recomputed", memory, 0, computed / m, reason, block)


def smallest_budget(shape: tuple[int, int], dtype: torch.dtype, *, folder: Path | None = None) -> int:
    """The smallest memory budget for which there is a plan.

    Args:
        shape: ``(m, p)`` of the rows.
        dtype: Of the rows.
        folder: Where rows may be put on the disk; ``None`` for nowhere.
    """
    m, p = shape
    kept = (m, most_columns(p))
    square = 3 * 8 * m * m
    panel = m * min(p, WIDTH) * (dtype.itemsize + 8)
    needs = [square + panel + m * kept[1] * dtype.itemsize, square + 2 * p * (8 + dtype.itemsize)]
    if folder is not None:
        disk, free = StoredRows.bytes_for(kept, dtype), free_bytes(folder)
        if disk <= free:
            needs.append(square + min(panel, -(-m // MOST_TILES) * line_bytes(kept[1], dtype)))
        if disk + FILES * Tiles.bytes_for(m, least := least_side(m)) <= free:
            needs.append(tile_bytes(least, kept[1], dtype))
    return min(needs)


def tile_bytes(side: int, columns: int, dtype: torch.dtype) -> int:
    """Memory for work on tiles: some of them, and two panels of the rows that a tile belongs to.

    Args:
        side: Of a tile.
        columns: Of the rows that this process keeps.
        dtype: Of the rows.
    """
    return TILES * 8 * side * side + side * line_bytes(columns, dtype)


def line_bytes(columns: int, dtype: torch.dtype) -> int:
    """Memory for a row in two panels, as stored and in float64.

    Args:
        columns: Of the rows that this process keeps.
        dtype: Of the rows.
    """
    return min(columns, WIDTH) * (2 * dtype.itemsize + 16)


def least_side(rows: int) -> int:
    """The smallest side of tiles that is worth it.

    Args:
        rows: ``m``.
    """
    return max(LEAST_SIDE, -(-rows // MOST_TILES))


def tile_side(shape: tuple[int, int], dtype: torch.dtype, memory_budget: int) -> int:
    """The largest side of tiles that fits, less what would only be room beyond the matrix; 0 if too small.

    Args:
        shape: Rows, and the columns of them that this process keeps.
        dtype: Of the rows.
        memory_budget: In bytes.
    """
    square, line = TILES * 8, line_bytes(shape[1], dtype)
    side = int(((line * line + 4 * square * memory_budget) ** 0.5 - line) / (2 * square))
    if side < least_side(shape[0]):
        return 0
    return max(-(-shape[0] // -(-shape[0] // side)), least_side(shape[0]))


def keep_rows(
    operator: LinearOperator,
    plan: RowPlan,
    folder: Path | None,
    *,
    start: int = 0,
    known: KeptRows | None = None,
) -> KeptRows:
    """The operator's rows from ``start`` on, computed once and kept where the plan says.

    A file on the disk lives as long as the operator returned.

    Args:
        operator: Whose rows.
        plan: For memory or disk.
        folder: Of the file.
        start: The first row.
        known: The first rows of those, which are then not computed but copied.

    Raises:
        OSError: If the disk has no room; no file is left.
    """
    m, p = operator.shape[0] - start, operator.shape[1]
    own = own_columns(p)
    columns = slice(own.start, own.stop)
    known = None if known is None else own_part(known)
    done = 0 if known is None else known.shape[0]
    chunks = tqdm(range(done, m, AT_ONCE), desc="rows", unit="batch", leave=False, disable=None)
    if plan.place == "memory" or folder is None:
        matrix = torch.empty(m, len(own), dtype=operator.dtype, device=operator.device)
        if known is not None:
            for place, entries in known.panels():
                matrix[:done, place] = entries
        for i in chunks:
            matrix[i : i + AT_ONCE] = operator.rows(start + i, start + min(i + AT_ONCE, m))[:, columns]
        return spread(DenseOperator(matrix), p)
    handle, name = tempfile.mkstemp(prefix=f"{PARTIAL}rows-", suffix=".npy", dir=folder)
    os.close(handle)
    path = Path(name)
    try:
        stored = StoredRows.create(path, (m, len(own)), operator.dtype, operator.device)
        if known is not None:
            for i in range(0, done, AT_ONCE):
                stored.write(i, known.rows(i, min(i + AT_ONCE, done)))
        for i in chunks:
            stored.write(i, operator.rows(start + i, start + min(i + AT_ONCE, m))[:, columns])
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    weakref.finalize(stored, path.unlink, missing_ok=True)
    return spread(stored, p)


def size_text(count: int) -> str:
    """Bytes for a person, in decimal units."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
