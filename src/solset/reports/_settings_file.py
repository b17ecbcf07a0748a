"""The settings of a run as a file that repeats it: ``solset run settings.toml``."""

import json
import tomllib
import typing
from pathlib import Path
from typing import Any

from solset.checks import require
from solset.errors import bad_value
from solset.reports._options import Settings, hint_of, options_of, settings_from

SETTINGS_FILE = "settings.toml"
_HEAD = "# To repeat this run in another folder: solset run settings.toml --out FOLDER"


def settings_text(command: str, settings: Settings) -> str:
    """The text of ``settings.toml``: the name of the command, then every setting that has a value."""
    lines = [_HEAD, f"command = {_written(command)}", ""]
    values = ((field.name, getattr(settings, field.name)) for field, _ in options_of(type(settings)))
    lines += [f"{name} = {_written(value)}" for name, value in values if value is not None]
    return "\n".join(lines) + "\n"


def read_settings(path: Path) -> dict[str, Any]:
    """The name of the command (under ``"command"``) and the settings that a file holds.

    Raises:
        ValueError: If there is no such file, it is not TOML, or it names no command.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        expected = "an existing settings file"
        raise bad_value("source", expected=expected, got=str(path), cure="Check the path.") from error
    except ValueError as error:  # not TOML, or not UTF-8
        got, expected = f"{path}: {error}", "a settings file in TOML"
        raise bad_value("source", expected=expected, got=got, cure="Mend the file.") from error
    if not isinstance(table.get("command"), str):
        cure = "Write a line such as command = 'audit'."
        raise bad_value("source", expected="a file that names its command", got=str(path), cure=cure)
    return table


def settings_of_table(kind: type[Settings], table: dict[str, Any]) -> Settings:
    """The settings that a file's table describes; a field that is missing has its default.

    Raises:
        ValueError: If a name is unknown, a required one is missing, or a value is impossible.
        TypeError: If a value is of another type.
    """
    names = {field.name for field, _ in options_of(kind)}
    unknown = sorted(table.keys() - names)
    if unknown:
        expected = f"settings among {', '.join(sorted(names))}"
        raise bad_value("settings", expected=expected, got=", ".join(unknown), cure="Remove the others.")
    return settings_from(kind, {name: _read(name, table[name], hint_of(kind, name)) for name in table})


def _read(name: str, value: Any, hint: Any) -> Any:
    if hint is Path and isinstance(value, str):
        return Path(value)
    if typing.get_origin(hint) is not tuple:
        require(name, value, hint, cure="See the command's help.")
        return float(value) if hint is float else value
    require(name, value, list, cure="Write it as [1, 2].")
    for part in value:
        require(name, part, typing.get_args(hint)[0], cure="See the command's help.")
    return tuple(value)


def _written(value: Any) -> str:
    """The value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)
