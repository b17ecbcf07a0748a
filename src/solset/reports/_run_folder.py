"""A folder that holds one run: its settings, its results, and nothing half-written."""

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load
from torch import Tensor

from solset import comm
from solset.checks import one_of
from solset.errors import bad_value
from solset.plotting import Figure, figure_bytes
from solset.reports._marker import MARKER, Marker, clear, clear_unfinished, earlier_run, warn_of_damage
from solset.reports._records import csv_bytes, json_bytes
from solset.storage import (
    Identity,
    has_entry,
    hash_bytes,
    hash_file,
    is_link,
    make_folder,
    plain_name,
    read_file,
    remove_file,
    replace_file,
    tensor_bytes,
)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. Every write is atomic: a reader sees the earlier file or the new one.

    ``run.json`` in it holds the settings, the versions and the names of all files of the run, each with its
    SHA-256 sum. A file that is not on that list is never replaced or deleted; a file that does not have its
    sum is computed again. The sum is stated before the file is put in place, so that a process that is
    killed at any moment leaves a folder to go on from. Only one run at a time may use a folder.

    Attributes:
        path: Path of the folder.
        identity: Settings as given at opening, in the types of JSON, and versions of the packages.
    """

    path: Path
    identity: Identity

    @property
    def settings(self) -> Mapping[str, object]:
        """The settings as given at opening, in the types of JSON."""
        return self.identity.settings

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of the packages that started the run."""
        return self.identity.versions

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
            settings: Settings of the run; any value that :func:`~solset.results.plain` takes.
            on_existing: Treatment of a folder that has files in it. ``"refuse"`` raises; ``"resume"`` keeps
                the results of a run with the same settings, except damaged files, which a warning names;
                ``"overwrite"`` deletes the files that an earlier run lists as its own, and no others.

        Raises:
            ValueError: If the folder is not empty and refused, was not written by solset, holds other
                settings than those to resume, has a damaged ``run.json``, or cannot be written to.
        """
        one_of("on_existing", on_existing, ("refuse", "resume", "overwrite"))
        folder, identity = Path(path), Identity(json.loads(json_bytes(settings)))
        try:
            make_folder(folder)
            earlier = earlier_run(folder, on_existing)
            if earlier is not None and on_existing == "resume":
                return cls._resumed(folder, identity, earlier)
            clear(folder, earlier)
            Marker(identity).write(folder)
        except OSError as error:
            raise bad_value(
                "path",
                expected="a folder that can be written to",
                got=f"'{folder}' ({os.strerror(error.errno) if error.errno else error})",
                cure="Choose another folder with --out, or change its permissions.",
            ) from error
        return cls(folder, identity)

    @classmethod
    def _resumed(cls, folder: Path, identity: Identity, earlier: Marker) -> "RunFolder":
        earlier.check_same(identity)
        clear_unfinished(folder)
        now = earlier.settled(folder).without_damaged(folder)
        if now != earlier:
            now.write(folder)
        return cls(folder, earlier.identity)

    def write_json(self, name: str, value: object) -> Path:
        """Writes a value that :func:`~solset.results.plain` takes; ``name`` ends in ``.json``."""
        return self._write(name, json_bytes(value), ".json")

    def read_json(self, name: str) -> object:
        """The value that :meth:`write_json` wrote, in the types of JSON."""
        return json.loads(self.read(plain_name(name, ".json")))

    def write_csv(self, name: str, rows: Sequence[Mapping[str, object]]) -> Path:
        """Writes a table; ``name`` ends in ``.csv`` and every row has the keys of the first."""
        return self._write(name, csv_bytes(rows), ".csv")

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> Path:
        """Writes named tensors; ``name`` ends in ``.safetensors``."""
        return self._write(name, tensor_bytes(tensors), ".safetensors")

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors that :meth:`write_tensors` wrote, on the CPU."""
        return load(self.read(plain_name(name, ".safetensors")))

    def write_figure(self, name: str, figure: Figure) -> Path:
        """Writes a figure as ``name.png`` (150 dots per inch) and ``name.svg``; returns the PNG's path."""
        png, svg = figure_bytes(figure, "png"), figure_bytes(figure, "svg")
        self._write(f"{name}.svg", svg, ".svg")
        return self._write(f"{name}.png", png, ".png")

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: If it is not there.
        """
        path = self.path / plain_name(name, Path(name).suffix)
        data = None if is_link(path) else read_file(path)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, "not in the run folder", str(path))
        return data

    def write_text(self, name: str, text: str) -> Path:
        """Writes a text file in UTF-8; ``name`` carries its suffix."""
        return self._write(name, text.encode(), Path(name).suffix)

    def reserve(self, name: str) -> Path:
        """The path of a file that the run lists as its own and that checks itself, such as a checkpoint.

        Raises:
            ValueError: If a file of that name is there and not the run's.
        """
        target = self.path / plain_name(name, Path(name).suffix)
        marker = self._claimed(name)
        if name not in marker.files:
            replace(marker, files={**marker.files, name: None}).write(self.path)
        if is_link(target):  # it could lead out of the folder
            remove_file(target)
        return target

    def has(self, name: str) -> bool:
        """Whether the file ``name`` (with its suffix) is there as this run wrote it.

        Warns:
            SolsetWarning: If it is there and something else.
        """
        marker = self._marker()
        stated = marker.files.get(name)
        if stated is None:
            return False
        found_sum = hash_file(self.path / name)
        if found_sum not in {None, stated, marker.replaced.get(name)}:
            warn_of_damage(self.path, [name])
        return found_sum == stated

    def stage(self, name: str, compute: Callable[[], Any], *, beside: Sequence[str] = ()) -> Any:
        """The JSON result of a stage: read from the folder if this run has it, else computed and written.

        Args:
            name: Name of the stage, that of its file without the suffix.
            compute: Function that computes the result.
            beside: Names of other files that ``compute`` writes; if one is not there, it is called again.
        """
        file = f"{name}.json"
        are_there = [self.has(part) for part in (file, *beside)]  # asks for all: each names its damage
        if not all(are_there):
            self.write_json(file, compute())
        return self.read_json(file)

    def tensor_stage(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of a stage, as :meth:`stage` does for numbers."""
        file = f"{name}.safetensors"
        if not self.has(file):
            self.write_tensors(file, compute())
        return self.read_tensors(file)

    def _write(self, name: str, data_here: bytes, suffix: str) -> Path:
        target = self.path / plain_name(name, suffix)
        marker = self._claimed(name)
        data = comm.from_first(lambda: data_here) or b""  # a time that was taken differs between processes
        stated, found_sum = hash_bytes(data), hash_file(target)
        if marker.files.get(name) != stated:
            replaced = {} if found_sum in {None, stated} else {name: str(found_sum)}
            settled = marker.settled(self.path)
            marker = replace(settled, files={**settled.files, name: stated}, replaced=replaced)
            marker.write(self.path)
        if found_sum != stated:
            replace_file(target, data)
        if marker.replaced:
            marker.settled(self.path).write(self.path)
        return target

    def _claimed(self, name: str) -> Marker:
        """The marker, once it is sure that the name is the run's or new."""
        marker = self._marker()
        if name == MARKER or (name not in marker.files and has_entry(self.path / name)):
            raise bad_value(
                "name",
                expected="a new name or that of a file this run wrote",
                got=f"'{name}', which is already in '{self.path}'",
                cure="Move that file away or choose another name.",
            )
        return marker

    def _marker(self) -> Marker:
        marker = Marker.read(self.path)
        if marker is None:
            raise FileNotFoundError(errno.ENOENT, "The run folder has lost its run.json", str(self.path))
        return marker
