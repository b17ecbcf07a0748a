"""Finished rows of a landscape in one checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from solset.storage import Checkpoint

Row = dict[str, list[float]]


def stored_rows(checkpoint: Checkpoint, names: Sequence[str], shape: tuple[int, int]) -> dict[int, Row]:
    """The rows by number that an earlier run stored with these quantities; ``shape`` is rows times values."""

    def restored(records: Mapping[str, Any], _arrays: dict[str, Tensor]) -> dict[int, Row]:
        rows = {
            int(number): {name: [float(value) for value in row[name]] for name in names}
            for number, row in records["rows"].items()
        }
        if not set(rows) <= set(range(shape[0])):
            raise ValueError(f"rows {sorted(rows)} of {shape[0]}")
        if any(len(values) != shape[1] for row in rows.values() for values in row.values()):
            raise ValueError(f"rows of other lengths than {shape[1]}")
        return rows

    return checkpoint.resume(restored) or {}
