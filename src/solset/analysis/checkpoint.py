"""Finished rows of a long evaluation in one JSON file that is whole or not there."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solset.errors import bad_value
from solset.files import has_folder, read_file, replace_file
from solset.risk import differences

Row = dict[str, list[float]]
_FORMAT = "solset rows 1"


@dataclass(frozen=True)
class RowFile:
    """The file of finished rows, or none.

    Attributes:
        path: The file; ``None`` keeps nothing.
        settings: Everything that rows depend on, in the types of JSON.
        centre: Values at the centre. They must be those of the earlier run to three digits, for they tell
            what no setting shows, such as an activation.
    """

    path: Path | None
    settings: Mapping[str, Any]
    centre: Mapping[str, float]

    def read(self) -> dict[int, Row]:
        """The rows that an earlier run with the same settings finished; none if there is no file.

        Raises:
            ValueError: If the folder does not exist, or the file is of other settings or of another kind.
        """
        if self.path is None:
            return {}
        if not has_folder(self.path.parent):
            raise bad_value(
                "checkpoint",
                expected="a file in a folder that exists",
                got=str(self.path),
                cure="Make the folder.",
            )
        data = read_file(self.path)
        if data is None:
            return {}
        stored = _parsed(self.path, data)
        differing = self._differing(stored)
        if differing:
            raise bad_value(
                "checkpoint",
                expected="of a run with these settings",
                got=f"{self.path}, which differs in {', '.join(differing)}",
                cure="Name another file, or delete this one.",
            )
        return {int(number): row for number, row in stored["rows"].items()}

    def write(self, rows: Mapping[int, Row]) -> None:
        """Writes all rows; a reader sees the earlier file or the new one.

        Args:
            rows: By number. Numbers that are not finite are kept, and every number to its last bit.
        """
        if self.path is None:
            return
        content = {"format": _FORMAT, "settings": self.settings, "centre": self.centre, "rows": rows}
        replace_file(self.path, json.dumps(content).encode())

    def _differing(self, stored: Mapping[str, Any]) -> list[str]:
        """The settings in which a file differs; the loss at the centre only if no setting does."""
        differing = differences(stored["settings"], json.loads(json.dumps(self.settings)))
        if not differing and not all(
            _is_close(stored["centre"][n], value) for n, value in self.centre.items()
        ):
            return [f"the loss at the centre ({stored['centre']}, now {dict(self.centre)})"]
        return differing


def _parsed(path: Path, data: bytes) -> Any:
    """What the file holds, once it is one of ours."""
    try:
        stored = json.loads(data)
    except ValueError:
        stored = None
    if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
        raise bad_value(
            "checkpoint",
            expected="a new file, or one of an earlier run",
            got=f"{path}, which is neither",
            cure="Name another file; this one is left as it is.",
        )
    return stored


def _is_close(one: float, other: float) -> bool:
    both_nan = math.isnan(one) and math.isnan(other)
    return both_nan or math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-12)
