"""Results as bytes: JSON and CSV that are the same for the same values, every time."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from solset.errors import bad_value
from solset.results import plain


def restored(value: Any) -> Any:
    """The value with the words for numbers that JSON lacks as numbers again; the rest as it is.

    Example:
        >>> restored({"change": "-Infinity", "name": "L-BFGS", "steps": [1, "NaN"]})
        {'change': -inf, 'name': 'L-BFGS', 'steps': [1, nan]}
    """
    if isinstance(value, dict):
        return {key: restored(part) for key, part in value.items()}
    if isinstance(value, list):
        return [restored(part) for part in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def json_bytes(value: object) -> bytes:
    """The value as valid JSON: keys sorted, floats at full precision, numbers JSON lacks as words."""
    text = json.dumps(plain(value), allow_nan=False, ensure_ascii=False, indent=2, sort_keys=True)
    return (text + "\n").encode()


def csv_bytes(rows: Sequence[Mapping[str, object]]) -> bytes:
    r"""The rows as CSV under one header line; floats at full precision, ``None`` as an empty cell.

    Args:
        rows: Rows of the table, at least one; all have the keys of the first, which are the columns.

    Raises:
        ValueError: If there is no row, or a row has other keys than the first.

    Example:
        >>> csv_bytes([{"step": 0.5, "loss": 1e-9}, {"step": 1.0, "loss": None}])
        b'step,loss\n0.5,1e-09\n1.0,\n'
    """
    if not rows:
        raise bad_value("rows", expected="at least one row", got="none", cure="Skip a table without rows.")
    columns = list(rows[0])
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for position, row in enumerate(rows):
        if set(row) != set(columns):
            raise bad_value(
                "rows",
                expected=f"rows with the columns {columns}",
                got=f"{list(row)} in row {position}",
                cure="Give every row the same keys, with None where there is no value.",
            )
        writer.writerow([_cell(row[column]) for column in columns])
    return stream.getvalue().encode()


def flat_rows(results: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Results as the rows of a table; lists are left out.

    Names of nested values are joined by ``_``, and a value that a row does not have is ``None`` there. The
    step, where there is one, comes first.

    Example:
        >>> flat_rows([{"size": 1, "loss": {"all": 2.0}, "trail": [1, 2]}, {"size": 3}])
        [{'size': 1, 'loss_all': 2.0}, {'size': 3, 'loss_all': None}]
    """
    rows = [dict(_flat(result)) for result in results]
    names = sorted(
        dict.fromkeys(name for row in rows for name in row), key=lambda name: name != "step_percent"
    )
    return [{name: row.get(name) for name in names} for row in rows]


def _flat(result: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name, value in result.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}_{inner}", part) for inner, part in _flat(value))
        elif not isinstance(value, list):
            yield name, value


def _cell(value: object) -> object:
    simple = plain(value)
    # A list in a cell stays readable by machine as JSON.
    return json.dumps(simple, ensure_ascii=False) if isinstance(simple, (list, dict)) else simple
