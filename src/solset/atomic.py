"""Files that are whole or not there."""

import os
from pathlib import Path

from solset.errors import bad_value

PARTIAL = ".solset-partial-"


def plain_name(name: str, suffix: str) -> str:
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


def replace_file(target: Path, data: bytes) -> None:
    """Writes the whole file beside its target, then puts it in place in one step."""
    partial = target.with_name(f"{PARTIAL}{os.getpid()}-{target.name}")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
