"""A folder that holds one run: its settings, its results, and nothing half-written."""

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors.torch import load
from torch import Tensor

from solset.errors import bad_value
from solset.experiments.marker import FORMAT, MARKER, clear, earlier_run, package_versions, resumed_versions
from solset.experiments.records import csv_bytes, json_bytes, tensor_bytes
from solset.files import has_entry, has_file, make_folder, plain_name, read_file, replace_file
from solset.plotting import Figure, figure_bytes


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
            make_folder(folder)
            earlier = earlier_run(folder, on_existing)
            if earlier is not None and on_existing == "resume":
                return cls(folder, wanted, resumed_versions(earlier, wanted))
            clear(folder, earlier)
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
        return json.loads(self.read(plain_name(name, ".json")))

    def write_csv(self, name: str, rows: Sequence[Mapping[str, object]]) -> Path:
        """Writes a table; ``name`` ends in ``.csv`` and every row has the keys of the first."""
        return self._write(name, csv_bytes(rows), ".csv")

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> Path:
        """Writes named tensors; ``name`` ends in ``.safetensors``."""
        return self._write(name, tensor_bytes(tensors), ".safetensors")

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """What :meth:`write_tensors` wrote, on the CPU."""
        return load(self.read(plain_name(name, ".safetensors")))

    def write_figure(self, name: str, figure: Figure) -> Path:
        """Writes a figure as ``name.png`` (150 dots per inch) and ``name.svg``; returns the PNG's path."""
        png, svg = figure_bytes(figure, "png"), figure_bytes(figure, "svg")
        self._write(f"{name}.svg", svg, ".svg")
        return self._write(f"{name}.png", png, ".png")

    def read(self, name: str) -> bytes:
        """The content of a file.

        Args:
            name: A plain file name with its suffix.

        Raises:
            FileNotFoundError: If it is not there.
        """
        path = self.path / plain_name(name, Path(name).suffix)
        data = read_file(path)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, "not in the run folder", str(path))
        return data

    def write_text(self, name: str, text: str) -> Path:
        """Writes a text file in UTF-8; ``name`` carries its suffix."""
        return self._write(name, text.encode(), Path(name).suffix)

    def reserve(self, name: str) -> Path:
        """The path of a file that the run will write by itself, listed as its own.

        Args:
            name: A plain file name with its suffix.

        Raises:
            ValueError: If a file of that name is there and not the run's.
        """
        target = self.path / plain_name(name, Path(name).suffix)
        self._claim(name)
        return target

    def has(self, name: str) -> bool:
        """Whether this run has written the file ``name`` (with its suffix) and it is still there."""
        return name in self._files() and has_file(self.path / name)

    def _write(self, name: str, data: bytes, suffix: str) -> Path:
        target = self.path / plain_name(name, suffix)
        self._claim(name)
        replace_file(target, data)
        return target

    def _claim(self, name: str) -> None:
        """Puts the name on the list before the file exists, so that no file of ours is ever unlisted."""
        files = self._files()
        if name in files:
            return
        if name == MARKER or has_entry(self.path / name):
            raise bad_value(
                "name",
                expected="a new name or that of a file this run wrote",
                got=f"'{name}', which is already in '{self.path}'",
                cure="Move that file away or choose another name.",
            )
        self._write_marker([*files, name])

    def _files(self) -> list[str]:
        return json.loads(self.read(MARKER))["files"]

    def _write_marker(self, files: list[str]) -> None:
        content = {
            "format": FORMAT,
            "settings": self.settings,
            "versions": self.versions,
            "files": sorted(files),
        }
        replace_file(self.path / MARKER, json_bytes(content))
