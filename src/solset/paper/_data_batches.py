"""The batches of CIFAR-10's python version, read without trusting them.

Each batch is a pickle. It is opened by an unpickler that can build one thing, a numpy array of bytes, and
refuses by name whatever else a file calls for.
"""

import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from solset.errors import bad_value
from solset.paper._checkpoints import sha256_of
from solset.paper._places import CIFAR10_ARCHIVE

FOLDER = "cifar-10-batches-py"
SPLITS = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}

_AGAIN = f"Download it again: {CIFAR10_ARCHIVE.url}"


def archive_batches(
    archive: Path, split: str, sha256: str | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Where each batch stands in the archive, its images and its labels, in order.

    Nothing is unpacked to disk: the members of the expected names are read, any other is passed over.
    """
    if sha256 is not None and not (got := sha256_of(archive)).startswith(sha256):
        raise bad_value(
            "path",
            expected=f"the archive with sha256 {sha256}",
            got=f"{archive} of {archive.stat().st_size} bytes with sha256 {got}",
            cure=f"The file is cut short or another one: remove it. {_AGAIN}",
        )
    members = [f"{FOLDER}/{name}" for name in SPLITS[split]]
    stored = _members(archive, members)
    for member in members:
        source = f"{archive}:{member}"
        if member not in stored:
            raise bad_value(
                "path", expected=f"an archive with {member}", got=f"{archive} without it", cure=_AGAIN
            )
        yield source, *_unpickled(stored.pop(member), source)


def _members(archive: Path, wanted: list[str]) -> dict[str, bytes]:
    """The bytes of the members of these exact names, in one pass through the compressed file."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as stream:
            for member in stream:
                if member.name in wanted and member.isreg():
                    content = stream.extractfile(member)
                    contents[member.name] = b"" if content is None else content.read()
                if len(contents) == len(wanted):
                    break
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise bad_value("path", expected="a whole .tar.gz", got=f"{archive}: {error}", cure=_AGAIN) from error
    return contents


def folder_batches(folder: Path, split: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The same for the unpacked folder ``cifar-10-batches-py``, whose files carry no hash of their own."""
    for name in SPLITS[split]:
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}: give the folder {FOLDER} itself, with {', '.join(SPLITS[split])}"
            )
        yield str(file), *_unpickled(file.read_bytes(), str(file))


def _unpickled(raw: bytes, source: str) -> tuple[np.ndarray, np.ndarray]:
    expected = "a CIFAR-10 batch, a pickled dict of b'data' (a uint8 array) and b'labels' (a list of ints)"
    try:
        stored = _BatchUnpickler(io.BytesIO(raw), encoding="bytes").load()
    except _Refused as error:
        raise bad_value(
            "path",
            expected=expected,
            got=f"{source}, which calls for {error}",
            cure=f"It was refused and nothing of it was run. {_AGAIN}",
        ) from error
    except Exception as error:  # whatever an unpickler makes of bytes that are no batch
        raise bad_value("path", expected=expected, got=f"{source}: {error}", cure=_AGAIN) from error
    match stored:
        case {b"data": np.ndarray() as data, b"labels": list(labels)} if {*map(type, labels)} <= {int}:
            return data, np.asarray(labels)
        case dict():
            holds = f"a dict of {sorted(map(repr, stored))}"
        case _:
            holds = type(stored).__name__
    raise bad_value("path", expected=expected, got=f"{source} with {holds}", cure=_AGAIN)


class _Refused(pickle.UnpicklingError):
    """A batch calls for something that no batch needs."""


def _byte_type(code: str | bytes, align: object = False, copy: object = True) -> np.dtype:  # noqa: ARG001
    """``numpy.dtype`` as batches call it: numpy itself warns of the integers they give for booleans."""
    if code not in ("u1", b"u1"):
        raise _Refused(f"an array of dtype {code!r}, not uint8")
    return np.dtype(np.uint8, copy=True)


def _encoded(text: str, encoding: str | bytes) -> bytes:
    """``_codecs.encode`` for the one encoding in which python 3 writes bytes to old pickles."""
    if encoding not in ("latin1", b"latin1"):
        raise _Refused(f"the encoding {encoding!r}")
    return text.encode("latin1")


_reconstruct: Any = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _byte_type,
    ("_codecs", "encode"): _encoded,
}


class _BatchUnpickler(pickle.Unpickler):
    """Builds arrays of bytes; imports nothing."""

    def find_class(self, module: str, name: str, /) -> Any:
        """The stand-in for a name, if batches need it."""
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]
