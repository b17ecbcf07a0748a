"""A result as one page that a reader can keep: what was asked, what came out, how far to trust it."""

import base64
import json
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from solset.errors import bad_value, needed
from solset.plotting import number_text
from solset.reports._report_parts import Column, Picture, Report, Table
from solset.reports._run_folder import RunFolder
from solset.results import plain

PAGE = "report.html"
jinja2 = needed("jinja2", by="a report page", extra="report")
_CSS_PIXELS_PER_DOT = 96 / 150  # figures are written at 150 dots per inch


def write_report(folder: RunFolder, report: Report) -> Path:
    """The path of ``report.html`` in the run folder: one file that loads nothing from anywhere."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    source = files("solset.reports").joinpath("report.html.jinja").read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        report=report,
        picture_of=partial(_embedded, folder),
        shown=_shown,
        text=_text,
        settings=_pairs(folder.settings),
        versions=_pairs(folder.versions),
    )
    return folder.write_text(PAGE, page)


def _shown(table: Table) -> dict[str, list[Any]]:
    """The texts of a table row by row, and which columns hold numbers."""
    columns = table.columns
    values = [[_value_of(row, column, place) for column in columns] for place, row in enumerate(table.rows)]
    return {
        "numeric": [any(_is_number(line[place]) for line in values) for place in range(len(columns))],
        "rows": [
            [_text(value, column.format, column.key) for value, column in zip(line, columns, strict=True)]
            for line in values
        ],
    }


def _value_of(row: Mapping[str, object], column: Column, place: int) -> object:
    if column.key not in row:
        raise bad_value(
            "rows",
            expected=f"rows with the key '{column.key}'",
            got=f"{list(row)} in row {place}",
            cure="Give every row the key, with None where there is no value.",
        )
    return row[column.key]


def _is_number(value: object) -> bool:
    value = _scalar(value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _scalar(value: object) -> object:
    """The number that a tensor or array without dimensions holds; anything else as it is."""
    if isinstance(value, (np.generic, np.ndarray, Tensor)) and value.ndim == 0:
        return value.item()
    return value


def _text(value: object, format_spec: str, name: str) -> str:
    """How a value reads on the page."""
    value = _scalar(value)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    try:
        return number_text(value, format_spec)
    except ValueError as error:
        raise bad_value(
            "format",
            expected=f"a format specification for the number {value!r} of '{name}'",
            got=repr(format_spec),
            cure="Use one like '.4g' or '.1f'.",
        ) from error


def _embedded(folder: RunFolder, picture: Picture) -> dict[str, object]:
    """The picture as a data address, with its size so that the page does not jump."""
    name = f"{picture.name}.png"
    if not folder.has(name):
        raise bad_value(
            "figures",
            expected="the name of a figure in the run folder",
            got=f"'{picture.name}'",
            cure="Write it with `folder.write_figure(name, figure)` before the report.",
        )
    data = folder.read(name)
    # Width and height stand in bytes 16 to 24 of every PNG.
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    return {
        "source": "data:image/png;base64," + base64.b64encode(data).decode(),
        "width": round(width * _CSS_PIXELS_PER_DOT),
        "height": round(height * _CSS_PIXELS_PER_DOT),
    }


def _pairs(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Names and values in the order of the alphabet, unrounded: a reader copies them to run it again."""
    simple = {key: plain(value) for key, value in values.items()}
    return [
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True))
        for key, value in sorted(simple.items())
    ]
