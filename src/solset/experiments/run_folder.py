"""A folder that holds one run: its settings, its results, and nothing half-written."""

import json
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from safetensors.torch import load
from torch import Tensor

from solset.errors import SolsetWarning, bad_value
from solset.experiments.records import csv_bytes, json_bytes, tensor_bytes
from solset.plotting import Figure, figure_bytes

MARKER = "run.json"
_FORMAT = "solset run 1"
_PARTIAL = ".solset-partial-"


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


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. Every write is atomic: a reader sees the earlier file or the new one.

    ``run.json`` in it holds the settings, the versions and the names of all files the run wrote; a file
    that is not on that list is never replaced or deleted. One process at a time.

    Attributes:
        path: The folder.
        settings: As given at opening, in the types of JSON.
        versions: Of the packages that started the run.
    """

    path: Path
    settings: Mapping[str, object]
    versions: Mapping[str, str]

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        settings: Mapping[str, object],
        on_existing: Literal["refuse", "resume", "overwrite"] = "refuse",
    ) -> "RunFolder":
        """The run folder at ``path``, made if it is not there.

        Args:
            path: The folder; parents are made as needed.
            settings: What the run was asked to do; anything :func:`~solset.experiments.records.plain` takes.
            on_existing: What to do with a folder that has files in it. ``"refuse"`` raises; ``"resume"``
                keeps the results of a run with the same settings; ``"overwrite"`` deletes the files that
                an earlier run lists as its own, and no others.

        Raises:
            ValueError: If the folder is not empty and refused, was not written by solset, holds other
                settings than those to resume, or cannot be written to.
        """
        if on_existing not in {"refuse", "resume", "overwrite"}:
            raise bad_value(
                "on_existing",
                expected="'refuse', 'resume' or 'overwrite'",
                got=repr(on_existing),
                cure="Choose one of the three.",
            )
        folder = Path(path)
        wanted = json.loads(json_bytes(settings))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            earlier = _earlier_run(folder, on_existing)
            if earlier is not None and on_existing == "resume":
                return cls(folder, wanted, _resumed_versions(earlier, wanted))
            _clear(folder, earlier)
            run = cls(folder, wanted, package_versions())
            run._write_marker([])
        except OSError as error:
            raise bad_value(
                "path",
                expected="a folder that can be written to",
                got=f"'{folder}' ({error.strerror or error})",
                cure="Choose another folder with --out, or change its permissions.",
            ) from error
        return run

    def write_json(self, name: str, value: object) -> Path:
        """Writes valid JSON: keys sorted, full precision, ``"NaN"`` and ``"Infinity"`` as strings.

        Args:
            name: A file name ending in ``.json``.
            value: What :func:`~solset.experiments.records.plain` takes.
        """
        return self._write(name, json_bytes(value), ".json")

    def read_json(self, name: str) -> object:
        """What :meth:`write_json` wrote, in the types of JSON."""
        return json.loads((self.path / _plain_name(name, ".json")).read_bytes())

    def write_csv(self, name: str, rows: Sequence[Mapping[str, object]]) -> Path:
        """Writes a table; ``name`` ends in ``.csv`` and every row has the keys of the first."""
        return self._write(name, csv_bytes(rows), ".csv")

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> Path:
        """Writes named tensors; ``name`` ends in ``.safetensors``."""
        return self._write(name, tensor_bytes(tensors), ".safetensors")

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """What :meth:`write_tensors` wrote, on the CPU."""
        return load((self.path / _plain_name(name, ".safetensors")).read_bytes())

    def write_figure(self, name: str, figure: Figure) -> Path:
        """Writes a figure as ``name.png`` (150 dots per inch) and ``name.svg``; returns the PNG's path."""
        png, svg = figure_bytes(figure, "png"), figure_bytes(figure, "svg")
        self._write(f"{name}.svg", svg, ".svg")
        return self._write(f"{name}.png", png, ".png")

    def write_text(self, name: str, text: str) -> Path:
        """Writes a text file in UTF-8; ``name`` carries its suffix."""
        return self._write(name, text.encode(), Path(name).suffix)

    def has(self, name: str) -> bool:
        """Whether this run has written the file ``name`` (with its suffix) and it is still there."""
        return name in self._files() and (self.path / name).is_file()

    def _write(self, name: str, data: bytes, suffix: str) -> Path:
        target = self.path / _plain_name(name, suffix)
        self._claim(name)
        _replace(target, data)
        return target

    def _claim(self, name: str) -> None:
        """Puts the name on the list before the file exists, so that no file of ours is ever unlisted."""
        files = self._files()
        if name in files:
            return
        if name == MARKER or os.path.lexists(self.path / name):
            raise bad_value(
                "name",
                expected="a new name or that of a file this run wrote",
                got=f"'{name}', which is already in '{self.path}'",
                cure="Move that file away or choose another name.",
            )
        self._write_marker([*files, name])

    def _files(self) -> list[str]:
        return json.loads((self.path / MARKER).read_bytes())["files"]

    def _write_marker(self, files: list[str]) -> None:
        content = {
            "format": _FORMAT,
            "settings": self.settings,
            "versions": self.versions,
            "files": sorted(files),
        }
        _replace(self.path / MARKER, json_bytes(content))


def _earlier_run(folder: Path, on_existing: str) -> dict | None:
    """The marker of the run in the folder, ``None`` if it is empty, an error if it must be left alone."""
    if not any(not entry.name.startswith(_PARTIAL) for entry in folder.iterdir()):
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
        marker = json.loads(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return None
    if not isinstance(marker, dict) or marker.get("format") != _FORMAT:
        return None
    complete = all(isinstance(marker.get(key), dict) for key in ("settings", "versions"))
    return marker if complete and isinstance(marker.get("files"), list) else None


def _resumed_versions(earlier: dict, settings: Mapping[str, object]) -> dict[str, str]:
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


def _clear(folder: Path, earlier: dict | None) -> None:
    """Deletes the listed files of an earlier run; its marker stays until the new one replaces it."""
    for name in earlier["files"] if earlier is not None else ():
        (folder / _plain_name(name, "")).unlink(missing_ok=True)
    for leftover in folder.glob(f"{_PARTIAL}*"):
        leftover.unlink(missing_ok=True)


def _plain_name(name: str, suffix: str) -> str:
    """The name, if it stays inside the folder and says what the file is."""
    unsafe = name.startswith(".") or any(character in name for character in "/\\\0")
    if unsafe or not name.endswith(suffix) or len(name) <= len(suffix):
        raise bad_value(
            "name",
            expected=f"a plain file name ending in '{suffix}'" if suffix else "a plain file name",
            got=repr(name),
            cure="Name a file directly inside the run folder.",
        )
    return name


def _replace(target: Path, data: bytes) -> None:
    """Writes the whole file beside its target, then puts it in place in one step."""
    partial = target.with_name(f"{_PARTIAL}{os.getpid()}-{target.name}")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
