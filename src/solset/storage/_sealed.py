"""Checkpoints: one file of settings, numbers and tensors under a seal that notices every changed byte.

A file is in the safetensors format, so that any tool reads its tensors. The text in its header begins with
the name of the format and a SHA-256 sum over the whole file, so that three cases are told apart: a file of
somebody else, which is refused and left as it is; one of another computation, which is refused by what
differs; and a damaged one, which is named in a warning and computed again.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from solset.errors import SolsetWarning, bad_value
from solset.storage._files import has_folder, read_file, replace_file

State = TypeVar("State")
_ENTRY = "solset"
_START = 8  # the length of the header stands before it
_OURS = b'{"__metadata__":{"%s":"{' % _ENTRY.encode()
_BLANK = b"0" * 64
# What restoring raises where somebody sealed numbers that never were a state.
_UNREADABLE = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    SafetensorError,
)


@dataclass(frozen=True)
class SealedFile:
    """The checkpoint of one computation, or none.

    Attributes:
        path: The file; ``None`` keeps nothing.
        kind: Name and version of the format.
        settings: Everything that the content depends on, in the types of JSON.
    """

    path: Path | None
    kind: str
    settings: Mapping[str, Any]

    def read(self, restore: Callable[[Any, dict[str, Tensor]], State]) -> State | None:
        """What an earlier run with the same settings left; ``None`` if there is nothing that can be used.

        Args:
            restore: From the numbers and tensors that were written to the state that they stand for.

        Raises:
            ValueError: If the folder does not exist, or the file is of somebody else, of another kind or of
                other settings; says what differs.
        """
        if self.path is None:
            return None
        check_place(self.path)
        data = _content(self.path)
        if data is None:
            return None
        if not is_sealed(data):
            raise _refused(self.path, "which is not a checkpoint of solset")
        if not _is_whole(data):
            return self._damaged("its content is not what was written")
        stored = json.loads(_header(data))
        if stored["format"] != self.kind:
            raise _refused(self.path, f"which is a '{stored['format']}', not a '{self.kind}'")
        unlike = differences(stored["settings"], json.loads(json.dumps(self.settings)))
        if unlike:
            raise other_settings(self.path, unlike)
        try:
            return restore(stored["numbers"], load(data))
        except _UNREADABLE as error:
            return self._damaged(f"{type(error).__name__}: {error}")

    def write(self, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Writes everything; a reader sees the earlier file or the new one.

        Args:
            numbers: In the types of JSON. Those that are not finite are kept, and all to the last bit.
            tensors: By name; those given are not touched.
        """
        if self.path is None:
            return
        content = {
            "format": self.kind,
            "seal": _BLANK.decode(),
            "settings": self.settings,
            "numbers": numbers,
        }
        plain = {name: part.detach().cpu().clone().contiguous() for name, part in tensors.items()}
        data = bytearray(save(plain, {_ENTRY: json.dumps(content)}))
        place = _seal_place(data)
        data[place] = _seal(data, place)
        replace_file(self.path, bytes(data))

    def _damaged(self, how: str) -> None:
        warnings.warn(
            f"the checkpoint '{self.path}' is damaged ({how}); what it held is computed again",
            SolsetWarning,
            stacklevel=4,
        )


def is_sealed(data: bytes) -> bool:
    """Whether this is a checkpoint of solset, whole or damaged.

    Args:
        data: The file, or its first hundred bytes.
    """
    return data[_START : _START + len(_OURS)] == _OURS


def check_place(path: Path) -> None:
    """Refuses a checkpoint in a folder that is not there.

    Args:
        path: Of the checkpoint.

    Raises:
        ValueError: If the folder does not exist.
    """
    if not has_folder(path.parent):
        raise bad_value(
            "checkpoint", expected="a file in a folder that exists", got=f"'{path}'", cure="Make the folder."
        )


def other_settings(path: Path, unlike: list[str]) -> ValueError:
    """The error for a checkpoint of something else.

    Args:
        path: The file.
        unlike: What differs.
    """
    return bad_value(
        "checkpoint",
        expected="of this problem, with these settings",
        got=f"'{path}', which differs in {', '.join(unlike)}",
        cure="Name another file, or delete this one.",
    )


def parsed_json(data: bytes | str) -> Any:
    """The value of a JSON text.

    Args:
        data: From anywhere.

    Raises:
        ValueError: If it is none, or is nested deeper than any of ours.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def differences(stored: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The names under which two sets of settings differ.

    Args:
        stored: One.
        here: The other.
    """
    return [name for name in sorted({*stored, *here}) if stored.get(name) != here.get(name)]


def _refused(path: Path, got: str) -> ValueError:
    return bad_value(
        "checkpoint",
        expected="a new file, or one of an earlier run of this",
        got=f"'{path}', {got}",
        cure="Name another file; this one is left as it is.",
    )


def _content(path: Path) -> bytes | None:
    try:
        return read_file(path)
    except OSError as error:
        raise _refused(path, f"which cannot be read ({error.strerror})") from error


def _header(data: bytes) -> str:
    """The text in the header of a whole file."""
    length = int.from_bytes(data[:_START], "little")
    return json.loads(data[_START : _START + length])["__metadata__"][_ENTRY]


def _seal_place(data: bytes | bytearray) -> slice:
    """Where the seal stands: the first text of its length after the format's name."""
    start = data.index(b'\\"seal\\": \\"', _START) + len(b'\\"seal\\": \\"')
    return slice(start, start + len(_BLANK))


def _seal(data: bytes | bytearray, place: slice) -> bytes:
    """The sum over all bytes but the seal itself."""
    view, found = memoryview(data), hashlib.sha256()
    found.update(view[: place.start])
    found.update(view[place.stop :])
    return found.hexdigest().encode()


def _is_whole(data: bytes) -> bool:
    try:
        place = _seal_place(data)
    except ValueError:  # cut off before it
        return False
    return data[place] == _seal(data, place)
