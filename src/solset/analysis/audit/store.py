"""Finished batches of an audit in a folder, for going on after an interrupt."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from solset.errors import bad_value
from solset.files import has_folder, read_file, replace_file
from solset.risk import differences

MANIFEST = "audit.json"
_FORMAT = "solset audit 1"


@dataclass(frozen=True)
class Batches:
    """The folder of finished batches, or none.

    Attributes:
        place: From a file's name to its path; ``None`` keeps nothing.
        identity: Everything that a batch depends on, in the types of JSON.
    """

    place: Callable[[str], Path] | None
    identity: dict[str, Any]

    def open(self) -> None:
        """Writes what the batches belong to, or checks that those in the folder are of the same audit.

        Raises:
            ValueError: If the folder does not exist, or its batches are of another audit; says what differs.
        """
        if self.place is None:
            return
        here = json.loads(json.dumps(self.identity))
        manifest = self.place(MANIFEST)
        if not has_folder(manifest.parent):
            raise bad_value(
                "checkpoint", expected="an existing folder", got=str(manifest.parent), cure="Make the folder."
            )
        data = read_file(manifest)
        if data is None:
            content = {"format": _FORMAT, "identity": here}
            replace_file(manifest, json.dumps(content, indent=2, sort_keys=True).encode())
            return
        stored = _parsed(manifest, data)
        unlike = differences(stored["identity"], here)
        if unlike:
            raise bad_value(
                "checkpoint",
                expected="batches of this audit",
                got=f"'{manifest.parent}', which differs in {', '.join(unlike)}",
                cure="Name another folder, or remove that one.",
            )

    def read(self, number: int) -> dict[str, Tensor] | None:
        """A finished batch; ``None`` if it is not there or cannot be read, so that it is computed again.

        Args:
            number: Of the batch.
        """
        if self.place is None:
            return None
        try:
            data = read_file(self.place(_name(number)))
            return None if data is None else load(data)
        except (OSError, SafetensorError):
            return None

    def write(self, number: int, tensors: dict[str, Tensor]) -> None:
        """Keeps a batch.

        Args:
            number: Of the batch.
            tensors: By name.
        """
        if self.place is not None:
            plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
            replace_file(self.place(_name(number)), save(plain))


def _name(number: int) -> str:
    return f"audit_{number:05d}.safetensors"


def _parsed(manifest: Path, data: bytes) -> dict[str, Any]:
    try:
        stored = json.loads(data)
    except ValueError:
        stored = None
    if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
        raise bad_value(
            "checkpoint",
            expected="an empty folder, or one of an earlier audit",
            got=f"'{manifest}', which is neither",
            cure="Name another folder; this one is left as it is.",
        )
    return stored
