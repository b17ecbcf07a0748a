"""Finished rows of a long evaluation in one file that is whole or not there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from solset.storage._sealed import SealedFile, other_settings

Row = dict[str, list[float]]
_KIND = "solset rows 2"


@dataclass(frozen=True)
class RowFile:
    """The file of finished rows, or none.

    Attributes:
        path: The file; ``None`` keeps nothing.
        settings: Everything that rows depend on, in the types of JSON.
        centre: Values at the centre. They must be those of the earlier run to three digits, for they tell
            what no setting shows, such as an activation.
        shape: How many rows there are, and how many values in each.
    """

    path: Path | None
    settings: Mapping[str, Any]
    centre: Mapping[str, float]
    shape: tuple[int, int]

    def read(self) -> dict[int, Row]:
        """The rows that an earlier run with the same settings finished; none if there is no file.

        Raises:
            ValueError: If the folder does not exist, or the file is of other settings or of another kind.
        """
        found = self._sealed().read(self._restored)
        if self.path is None or found is None:
            return {}
        centre, rows = found
        if not all(_is_close(centre[name], value) for name, value in self.centre.items()):
            raise other_settings(self.path, [f"the loss at the centre ({centre}, now {dict(self.centre)})"])
        return rows

    def write(self, rows: Mapping[int, Row]) -> None:
        """Writes all rows; a reader sees the earlier file or the new one.

        Args:
            rows: By number. Numbers that are not finite are kept, and every number to its last bit.
        """
        self._sealed().write({"centre": self.centre, "rows": rows}, {})

    def _sealed(self) -> SealedFile:
        return SealedFile(self.path, _KIND, self.settings)

    def _restored(self, numbers: Any, _tensors: dict[str, Tensor]) -> tuple[dict[str, float], dict[int, Row]]:
        centre = {name: float(numbers["centre"][name]) for name in self.centre}
        rows = {int(number): self._row(row) for number, row in numbers["rows"].items()}
        if not set(rows) <= set(range(self.shape[0])):
            raise ValueError(f"rows {sorted(rows)} of {self.shape[0]}")
        return centre, rows

    def _row(self, row: Mapping[str, list[float]]) -> Row:
        found = {name: [float(value) for value in row[name]] for name in self.centre}
        if {len(values) for values in found.values()} != {self.shape[1]}:
            raise ValueError(f"rows of other lengths than {self.shape[1]}")
        return found


def _is_close(one: float, other: float) -> bool:
    both_nan = math.isnan(one) and math.isnan(other)
    return both_nan or math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-12)
