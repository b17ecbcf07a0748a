"""Results as bytes: JSON and CSV that are the same for the same values, every time."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solset.errors import bad_type, bad_value


def plain(value: object) -> object:
    """The value in the types of JSON: dicts, lists, strings, finite numbers, booleans and ``None``.

    Args:
        value: A number, string, ``None``, path, dtype, device, array, tensor or dataclass, or dicts and
            sequences of them. Arrays become nested lists. A number that JSON lacks becomes the string
            ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``, which ``float`` reads back.

    Raises:
        TypeError: If something else is inside; convert it first.

    Example:
        >>> plain({"modulus": float("inf"), "shape": (2, 3)})
        {'modulus': 'Infinity', 'shape': [2, 3]}
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str | Path | torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if not isinstance(value, Mapping):
        raise bad_type(
            "value",
            expected="numbers, strings, arrays, tensors, dataclasses, and mappings or sequences of them",
            got=type(value).__name__,
            cure="Convert it before it is written.",
        )
    named = {str(key): plain(item) for key, item in value.items()}
    if len(named) < len(value):
        expected, got = "a mapping whose keys differ as strings", f"the keys {list(value)}"
        raise bad_value("value", expected=expected, got=got, cure="JSON has string keys only: rename one.")
    return named


def restored(value: Any) -> Any:
    """The value with the words for numbers that JSON lacks as numbers again; the rest as it is.

    Args:
        value: A value in the types of JSON, as :func:`plain` made it.

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

    Names of nested values are joined by ``_``, and a value that a row does not have is ``None`` there.

    Example:
        >>> flat_rows([{"size": 1, "loss": {"all": 2.0}, "trail": [1, 2]}, {"size": 3}])
        [{'size': 1, 'loss_all': 2.0}, {'size': 3, 'loss_all': None}]
    """
    rows = [dict(_flat(result)) for result in results]
    names = dict.fromkeys(name for row in rows for name in row)
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
