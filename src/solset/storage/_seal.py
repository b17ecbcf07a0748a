"""Sealed bytes: named JSON records, and arrays where there are some, under one sum over every byte.

Without arrays the bytes are JSON text that people can read, such as ``run.json``. With arrays they are a
safetensors file, whose arrays any tool can read, and the same JSON text stands in its header. Both begin in
a way that tells whose they are, and hold the format and a SHA-256 sum of all bytes but the sum itself. So
three cases are told apart: bytes of another program, bytes of another version, and damaged bytes.

The identity of a stored result says what it depends on, in short texts that fit a JSON file.
"""

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_DIGEST = re.compile(r'"[0-9a-f]{32}([0-9a-f]{32})?"')
_LONGEST = 60  # characters of a value that a message shows


@cache
def package_versions() -> dict[str, str]:
    """The versions of solset, its numerical packages, Python and the system."""
    versions = {name: _installed(name) for name in ("solset", "torch", "numpy", "scipy")}
    return versions | {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "not installed"


@dataclass(frozen=True)
class Identity:
    """Everything that a stored result depends on."""

    # Settings and digests of weights, data and loss by name, in the types of JSON. A stored result is used
    # only where all of them are the same.
    settings: Mapping[str, Any]
    # Versions of the packages by name. Where they differ a warning says so.
    versions: Mapping[str, str] = field(default_factory=lambda: package_versions())

    def differences(self, stored: "Identity") -> list[str]:
        """The settings in which a stored result differs from this one, by name.

        Example:
            >>> Identity({"tol": 0.1, "seed": 0}).differences(Identity({"tol": 0.2, "seed": 0}))
            ['tol (now 0.1, was 0.2)']
        """
        return _differences(self.settings, stored.settings)

    def other_versions(self, stored: "Identity") -> list[str]:
        """The packages whose versions differ from those of a stored result, by name."""
        return _differences(self.versions, stored.versions)


def _differences(now: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    texts = [(name, _text(now, name), _text(stored, name)) for name in sorted({*now, *stored})]
    return [_difference(*names_and_values) for names_and_values in texts if len({*names_and_values[1:]}) == 2]


def _difference(name: str, now: str, stored: str) -> str:
    """The name, with both values where they say something to a reader."""
    is_plain = all(len(text) <= _LONGEST and not _DIGEST.search(text) for text in (now, stored))
    return f"{name} (now {now}, was {stored})" if is_plain else name


def _text(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], sort_keys=True) if name in values else "absent"


FORMAT = "solset file 1"
_ENTRY = "solset"
_LENGTH = 8  # bytes at the start of a safetensors file that state the length of its header
_TEXT = b'{\n  "format": "solset file '
_ARRAYS = b'{"__metadata__":{"%s":"{' % _ENTRY.encode()
_BLANK = "0" * 64
_BEFORE_SEAL = re.compile(rb'"seal\\?": \\?"')
# Errors of reading records that were sealed and still cannot be a state.
UNREADABLE = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    SafetensorError,
)


class SealError(ValueError):
    """Bytes that cannot be used.

    Args:
        why: The case: another program's bytes, another version's, or damaged bytes.
        how: Half a sentence that says more, beginning with a verb.
    """

    def __init__(self, why: Literal["foreign", "version", "damaged"], how: str) -> None:
        super().__init__(how)
        self.why, self.how = why, how


def seal(records: Mapping[str, Any], arrays: Mapping[str, Tensor] | None = None) -> bytes:
    """The bytes of records in the types of JSON (also numbers that are not finite) and of arrays.

    They are the same for the same values every time. Without arrays they are plain JSON text.
    """
    content = {"format": FORMAT, "seal": _BLANK, **records}
    if arrays is None:
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        data = bytearray(text.encode(errors="surrogatepass"))
    else:
        data = bytearray(tensor_bytes(arrays, {_ENTRY: json.dumps(content)}))
    place = _seal_place(data)
    data[place] = _sum(data, place)
    return bytes(data)


def unseal(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The records and arrays that were sealed; a :class:`SealError` says what other bytes are."""
    if not is_sealed(data):
        raise _foreign(data)
    try:
        place = _seal_place(data)
        if data[place] != _sum(data, place):
            raise SealError("damaged", "its content is not what was written")
        is_text = data.startswith(_TEXT)
        records = _parsed_json(data if is_text else _header(data))
        if records["format"] != FORMAT:
            raise _other_version(records["format"])
        del records["format"], records["seal"]
        return records, {} if is_text else load(data)
    except SealError:
        raise
    except UNREADABLE as error:
        raise SealError("damaged", f"{type(error).__name__}: {error}") from error


def is_sealed(data: bytes) -> bool:
    """Whether these are sealed bytes of solset, whole or damaged; the first hundred bytes are enough."""
    return data.startswith(_TEXT) or data[_LENGTH : _LENGTH + len(_ARRAYS)] == _ARRAYS


def _parsed_json(data: bytes | str) -> Any:
    """The value of a JSON text; a ``ValueError`` also where it is nested too deep."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The tensors in the safetensors format, copied to the CPU, as it refuses views that share memory."""
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    return save(copies, metadata)


def _foreign(data: bytes) -> SealError:
    """The error for bytes that do not begin as ours do, which may still be an earlier version's."""
    try:
        content = _parsed_json(data) if data[:99].lstrip().startswith(b"{") else None
    except ValueError:
        content = None
    stated = content.get("format") if isinstance(content, dict) else None
    if stated == FORMAT:
        return SealError("damaged", "it was written by hand")
    if isinstance(stated, str) and stated.startswith("solset "):
        return _other_version(stated)
    return SealError("foreign", "is not a checkpoint of solset")


def _other_version(stated: object) -> SealError:
    return SealError("version", f"is of format '{stated}', not '{FORMAT}'")


def _header(data: bytes) -> str:
    length = int.from_bytes(data[:_LENGTH], "little")
    return json.loads(data[_LENGTH : _LENGTH + length])["__metadata__"][_ENTRY]


def _seal_place(data: bytes | bytearray) -> slice:
    """The place of the seal, behind the first text that announces one."""
    before = _BEFORE_SEAL.search(data)
    if before is None:
        raise SealError("damaged", "it is cut off")
    return slice(before.end(), before.end() + len(_BLANK))


def _sum(data: bytes | bytearray, place: slice) -> bytes:
    """The sum over all bytes but the seal itself."""
    view, total = memoryview(data), hashlib.sha256()
    total.update(view[: place.start])
    total.update(view[place.stop :])
    return total.hexdigest().encode()
