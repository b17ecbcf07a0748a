"""What ``run.json`` says of the run in a folder, and what may be done to it."""

import json
import platform
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from solset.errors import SolsetWarning, bad_value
from solset.files import PARTIAL, list_folder, plain_name, read_file, remove_file

MARKER = "run.json"
FORMAT = "solset run 1"


def package_versions() -> dict[str, str]:
    """What a result depends on besides its settings: versions of solset, its numerics, Python, the system."""
    found = {name: _installed(name) for name in ("solset", "torch", "numpy", "scipy")}
    return found | {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "not installed"


def earlier_run(folder: Path, on_existing: str) -> dict | None:
    """The marker of the run in the folder, ``None`` if it is empty, an error if it must be left alone."""
    if not any(not name.startswith(PARTIAL) for name in list_folder(folder)):
        return None
    marker = _read_marker(folder / MARKER)
    if marker is None:
        raise bad_value(
            "path",
            expected="an empty or new folder, or one that solset wrote",
            got=f"'{folder}', whose files come from elsewhere",
            cure="Choose another folder; solset does not delete what it did not write.",
        )
    if on_existing == "refuse":
        raise bad_value(
            "path",
            expected="an empty or new folder",
            got=f"'{folder}', which holds an earlier run",
            cure="Pass --resume to go on with that run, --overwrite to replace it, or choose another folder.",
        )
    return marker


def _read_marker(path: Path) -> dict | None:
    """The marker if it is ours; other tools also write a ``run.json``, and theirs is not."""
    try:
        marker = json.loads(read_file(path) or b"null")
    except (IsADirectoryError, ValueError):
        return None
    if not isinstance(marker, dict) or marker.get("format") != FORMAT:
        return None
    complete = all(isinstance(marker.get(key), dict) for key in ("settings", "versions"))
    files = marker.get("files")
    listed = isinstance(files, list) and all(isinstance(name, str) for name in files)
    return marker if complete and listed else None


def resumed_versions(earlier: dict, settings: Mapping[str, object]) -> dict[str, str]:
    """The versions that started the run, once it is sure that it is the same run."""
    changed = _differences(earlier["settings"], settings)
    if changed:
        raise bad_value(
            "settings",
            expected="those of the run to resume",
            got="; ".join(changed),
            cure="Use the earlier settings, pass --overwrite, or choose another folder.",
        )
    changed = _differences(earlier["versions"], package_versions())
    if changed:
        warnings.warn(
            f"the resumed run mixes results of different versions: {'; '.join(changed)}",
            SolsetWarning,
            stacklevel=3,
        )
    return earlier["versions"]


def _differences(earlier: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    return [
        f"'{key}' is {_shown(now, key)} and was {_shown(earlier, key)}"
        for key in sorted(set(earlier) | set(now))
        if _shown(earlier, key) != _shown(now, key)
    ]


def _shown(values: Mapping[str, object], key: str) -> str:
    return json.dumps(values[key], sort_keys=True) if key in values else "absent"


def clear(folder: Path, earlier: dict | None) -> None:
    """Deletes the listed files of an earlier run; its marker stays until the new one replaces it."""
    for name in earlier["files"] if earlier is not None else ():
        remove_file(folder / plain_name(name, ""))
    for name in list_folder(folder):
        if name.startswith(PARTIAL):
            remove_file(folder / name)
