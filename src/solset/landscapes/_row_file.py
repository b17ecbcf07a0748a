"""Finished rows of a landscape in one checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from solset.storage import Checkpoint

Row = dict[str, list[float]]


@dataclass(frozen=True)
class RowFile:
    """The checkpoint of finished rows.

    Attributes:
        checkpoint: The file, or none.
        names: Names of the quantities in every row.
        shape: Number of rows, and number of values in each.
    """

    checkpoint: Checkpoint
    names: Sequence[str]
    shape: tuple[int, int]

    def read(self) -> dict[int, Row]:
        """The rows by number that an earlier run with the same settings finished."""
        return self.checkpoint.resume(self._restored) or {}

    def write(self, rows: Mapping[int, Row]) -> None:
        """Stores all rows by number; a reader sees the earlier file or the new one."""
        self.checkpoint.write({"rows": rows})

    def _restored(self, records: Any, _arrays: dict[str, Tensor]) -> dict[int, Row]:
        rows = {int(number): self._row(row) for number, row in records["rows"].items()}
        if not set(rows) <= set(range(self.shape[0])):
            raise ValueError(f"rows {sorted(rows)} of {self.shape[0]}")
        return rows

    def _row(self, stored: Mapping[str, list[float]]) -> Row:
        row = {name: [float(value) for value in stored[name]] for name in self.names}
        if {len(values) for values in row.values()} != {self.shape[1]}:
            raise ValueError(f"rows of other lengths than {self.shape[1]}")
        return row
