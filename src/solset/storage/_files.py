"""Files that are whole or not there, read and written by the first process alone.

Where several processes work on one problem, the first one reads and writes, and all of them learn what it
read or what went wrong. Data sets, network weights and a user's code are read where they are needed, and
the large files of rows are written by the room that computes them.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from solset import comm
from solset.errors import bad_value

PARTIAL = ".solset-partial-"


def plain_name(name: str, suffix: str) -> str:
    """The name, refused unless it stays inside the folder and ends in the suffix."""
    unsafe = name.startswith(".") or any(character in name for character in "/\\\0")
    if unsafe or not name.endswith(suffix) or len(name) <= len(suffix):
        raise bad_value(
            "name",
            expected=f"a plain file name ending in '{suffix}'" if suffix else "a plain file name",
            got=repr(name),
            cure="Name a file directly inside the run folder.",
        )
    return name


def read_file(path: Path) -> bytes | None:
    """The whole content of a file; ``None`` if there is none.

    Args:
        path: The file to read.

    Raises:
        OSError: If it is there and cannot be read, as a folder or a pipe cannot.
    """
    return comm.from_first(lambda: _read(path))


def _read(path: Path) -> bytes | None:
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # reading would wait for ever
            raise OSError(errno.EINVAL, "A pipe is not a file", str(path))
        return path.read_bytes()
    except FileNotFoundError:
        return None


def hash_bytes(data: bytes) -> str:
    """The SHA-256 sum of bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str | None:
    """The SHA-256 sum of a file; ``None`` if there is no file, or only a link to one.

    Args:
        path: The file to hash, which is read a piece at a time.
    """
    digits = comm.from_first(lambda: _hash(path))
    return None if digits is None else digits.decode()


def _hash(path: Path) -> bytes | None:
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest().encode()


def replace_file(path: Path, data: bytes) -> None:
    """Writes a whole file beside its target, then puts it in place in one step.

    Args:
        path: The target. A link of that name is replaced, never followed.
        data: The content to write.

    Raises:
        OSError: If there is no room or no permission; the earlier file stays as it was.
    """
    comm.from_first(lambda: _replace(path, data))


def _replace(path: Path, data: bytes) -> None:
    try:
        with replacing(path) as partial, partial.open("xb") as stream:
            stream.write(data)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> OSError:
    """The error with the folder and the cure in one line."""
    is_full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    cure = "Free some space" if is_full else "Make the folder writable, or choose another folder"
    clear_error = OSError(
        f"'{path.name}' could not be written to '{path.parent}' ({error.strerror or error}); the file that "
        f"was there before is unchanged. {cure}, then continue (--resume, or the same checkpoint)."
    )
    clear_error.errno = error.errno
    return clear_error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The place beside a target where the first process writes a file; on leaving it is put in place.

    Args:
        path: The target. After an error it stays as it was, and nothing is left beside it.
    """
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    partial.unlink(missing_ok=True)  # it may be a link to elsewhere
    try:
        yield partial
        if comm.is_first():
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
            partial.replace(path)
            _sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Puts the new name on the disk; some file systems cannot be asked to."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def remove_file(path: Path) -> None:
    """Deletes a file, or the link of that name, if there is one."""
    comm.from_first(lambda: path.unlink(missing_ok=True))


def has_file(path: Path) -> bool:
    """Whether there is a file of that name, or a link to one."""
    return _agreed(path.is_file)


def has_entry(path: Path) -> bool:
    """Whether there is anything of that name: a file, a folder, a link that leads nowhere."""
    return _agreed(lambda: os.path.lexists(path))


def is_link(path: Path) -> bool:
    """Whether there is a symbolic link of that name, wherever it leads."""
    return _agreed(path.is_symlink)


def has_folder(path: Path) -> bool:
    """Whether there is a folder of that name."""
    return _agreed(path.is_dir)


def make_folder(path: Path) -> None:
    """Makes a folder and the folders above it, where they are missing."""
    comm.from_first(lambda: path.mkdir(parents=True, exist_ok=True))


def list_folder(path: Path) -> list[str]:
    """The names in a folder, in order."""
    return json.loads(comm.from_first(lambda: json.dumps(sorted(os.listdir(path))).encode()) or b"[]")


def _agreed(question: Callable[[], bool]) -> bool:
    """The first process's answer, in every process."""
    return comm.from_first(lambda: b"yes" if question() else None) is not None
