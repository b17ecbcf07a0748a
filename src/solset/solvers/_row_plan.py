"""Where the rows of a Gram matrix are kept, decided and said before any of them is computed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from solset.errors import bad_value
from solset.linalg import (
    WIDTH,
    DenseOperator,
    KeptRows,
    LinearOperator,
    gram_block,
    most_columns,
    own_columns,
    spread,
)
from solset.solvers._needs import Needs

AT_ONCE = 64  # rows computed in one batch


@dataclass(frozen=True, kw_only=True)
class RowPlan(Needs):
    """What a solver that works through a Gram matrix will need.

    The memory does not include a batch of rows while it is computed.

    Attributes:
        rows: Number of rows ``m``.
        columns: Number of columns ``p``.
        place: Place of the rows: ``"memory"``, ``"disk"``, or ``"recomputed"`` at every use.
        at_once: Number of rows that are computed together.
        rows_per_part: Number of rows that are read from the disk together; 0 for all.
        side: Side of the tiles in which the Gram matrix is on the disk too; 0 where it is in memory.
        gram_memory: Part of the memory for the Gram matrix with its decomposition, or for some of its tiles.

    Example:
        >>> from solset.linalg import DenseOperator
        >>> from solset.solvers import Dual
        >>> print(Dual().plan(DenseOperator(torch.ones(3, 1000))))
        3 rows of 1000 columns: 48.2 kB in memory, each row computed once
    """

    rows: int
    columns: int
    place: Literal["memory", "disk", "recomputed"]
    at_once: int = AT_ONCE
    rows_per_part: int = 0
    side: int = 0
    gram_memory: int = 0

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
        return f"{text}, {often}" + (f" ({self.note})" if self.place != "memory" else "")


@dataclass(frozen=True)
class RowSizes:
    """Bytes that the parts of a Gram matrix's computation take.

    Attributes:
        rows: Number of rows ``m``.
        columns: Number of columns ``p``.
        dtype: Floating-point type of the rows.
    """

    rows: int
    columns: int
    dtype: torch.dtype

    @classmethod
    def of(cls, operator: LinearOperator) -> "RowSizes":
        """The sizes of an operator's rows."""
        return cls(*operator.shape, operator.dtype)

    @property
    def own_columns(self) -> int:
        """Columns that a process keeps, at most."""
        return most_columns(self.columns)

    @property
    def square(self) -> int:
        """Bytes of the Gram matrix and its decomposition."""
        return 3 * 8 * self.rows**2

    @property
    def panel(self) -> int:
        """Bytes of some columns of all rows, as stored and in float64."""
        return self.rows * min(self.columns, WIDTH) * (self.dtype.itemsize + 8)

    @property
    def in_memory(self) -> int:
        """Bytes of everything, with all rows in memory."""
        return self.square + self.panel + self.rows * self.own_columns * self.dtype.itemsize

    @property
    def recomputed(self) -> int:
        """Bytes at least with no row kept: the Gram matrix and two rows."""
        return self.square + 2 * self.columns * (8 + self.dtype.itemsize)

    def plan_in_memory(self) -> RowPlan:
        """The plan that keeps all rows in memory."""
        return RowPlan(
            rows=self.rows,
            columns=self.columns,
            place="memory",
            memory=self.in_memory,
            gram_memory=self.square,
            sweeps=1.0,
            note="they fit the budget",
        )

    def plan_recomputed(self, memory_budget: int, note: str) -> RowPlan:
        """The plan that computes rows again at every use, as many at once as the budget allows."""
        m, shape = self.rows, (self.rows, self.columns)
        block = gram_block(shape, self.dtype, memory_budget - self.square + 8 * m * m)
        # Block i meets all blocks before it, each of which is computed anew for it.
        computed = sum(min(block, m - i) + i for i in range(0, m, block))
        return RowPlan(
            rows=m,
            columns=self.columns,
            place="recomputed",
            memory=self.square + 2 * block * self.columns * (8 + self.dtype.itemsize),
            gram_memory=self.square,
            sweeps=computed / m,
            products=4,  # the solve, its refinement and its check: Aᵀ, A, Aᵀ, A
            note=note,
            at_once=block,
        )

    def refusal(self, memory_budget: int, smallest: int) -> ValueError:
        """The error for a budget that no plan fits."""
        return bad_value(
            "memory_budget",
            expected=f"at least {smallest} bytes for a Gram matrix of {self.rows} rows",
            got=memory_budget,
            cure="Raise it, use fewer rows, or take a matrix-free solver such as LSMR.",
        )


def computed_rows(operator: LinearOperator, start: int, done: int = 0) -> Iterator[tuple[int, Tensor]]:
    """This process's columns of the rows from ``start + done`` on, batch by batch, each with its place."""
    count, columns = operator.shape[0] - start, own_columns(operator.shape[1])
    for i in tqdm(range(done, count, AT_ONCE), desc="rows", unit="batch", leave=False, disable=None):
        rows = operator.rows(start + i, start + min(i + AT_ONCE, count))
        yield i, rows[:, columns.start : columns.stop]


def keep_in_memory(operator: LinearOperator, start: int = 0) -> KeptRows:
    """The operator's rows from ``start`` on, computed once."""
    count, columns = operator.shape[0] - start, operator.shape[1]
    matrix = torch.empty(count, len(own_columns(columns)), dtype=operator.dtype, device=operator.device)
    for i, rows in computed_rows(operator, start):
        matrix[i : i + len(rows)] = rows
    return spread(DenseOperator(matrix), columns)


def size_text(count: int) -> str:
    """A number of bytes for a person, in decimal units.

    Example:
        >>> size_text(1_200_000_000)
        '1.2 GB'
    """
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
