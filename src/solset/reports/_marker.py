"""What ``run.json`` says of the run in a folder, and what may be done to that folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from warnings import warn

from solset.errors import SolsetWarning, bad_value
from solset.storage import (
    PARTIAL,
    Identity,
    Sealed,
    SealError,
    has_folder,
    hash_file,
    is_link,
    is_sealed,
    list_folder,
    plain_name,
    read_file,
    remove_file,
    replace_file,
    warn_of_versions,
)

MARKER = "run.json"
OnExisting = Literal["refuse", "resume", "overwrite"]
_SUM = re.compile(r"[0-9a-f]{64}")
_LISTED = re.compile(r'"([^"\\/]+)": (?:"([0-9a-f]{64})"|null)')  # also in a file that is no longer JSON


@dataclass(frozen=True)
class Marker:
    """The content of ``run.json``."""

    identity: Identity  # Settings of the run with the digests of its data and weights, and the versions
    # SHA-256 sum of every file of the run by name, stated before the file is put in place; ``None`` for a
    # file that checks itself or is not finished
    files: Mapping[str, str | None] = field(default_factory=dict)
    # SHA-256 sum of the earlier content of files that are being replaced. Such a file was not damaged: the
    # run was stopped between stating the new sum and putting the new file in place.
    replaced: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Puts the marker in place in the folder of the run, sealed."""
        replace_file(folder / MARKER, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The sealed JSON text of the marker."""
        records = {"files": dict(sorted(self.files.items())), "replaced": dict(sorted(self.replaced.items()))}
        return Sealed("run", self.identity, records).to_bytes()

    @classmethod
    def read(cls, folder: Path) -> "Marker | None":
        """The marker in a folder; ``None`` if there is none or it is another program's.

        Raises:
            DamagedMarkerError: If it is ours and not what was written.
            ValueError: If another version wrote it.
        """
        path = folder / MARKER
        data = None if is_link(path) or has_folder(path) else read_file(path)
        if data is None:
            return None
        try:
            stored = Sealed.from_bytes(data)
            marker = cls(stored.identity, stored.records["files"], stored.records["replaced"])
            if stored.kind != "run" or not marker._is_valid():
                raise DamagedMarkerError(folder)
        except SealError as error:
            if error.why == "foreign":
                return None
            if error.why == "damaged":
                raise DamagedMarkerError(folder) from error
            raise bad_value(
                "path",
                expected="a run of this version of solset",
                got=f"'{folder}', whose {MARKER} {error.how}",
                cure="Choose another folder, or delete that one.",
            ) from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DamagedMarkerError(folder) from error
        return marker

    def settled(self, folder: Path) -> "Marker":
        """The marker once no file is being replaced, after a run that may have been stopped meanwhile."""
        unfinished = {name for name in self.replaced if hash_file(folder / name) != self.files.get(name)}
        files = {name: None if name in unfinished else stated for name, stated in self.files.items()}
        return replace(self, files=files, replaced={})

    def without_damaged(self, folder: Path) -> "Marker":
        """The marker with damaged files listed as not finished; names them in a warning."""
        damaged = []
        for name, stated in self.files.items():
            found_sum = None if stated is None else hash_file(folder / name)
            if found_sum != stated and (found_sum is not None or is_link(folder / name)):
                damaged.append(name)
        if damaged:
            warn_of_damage(folder, damaged)
        files = {name: None if name in damaged else stated for name, stated in self.files.items()}
        return replace(self, files=files)

    def check_same(self, identity: Identity) -> None:
        """Refuses to resume this run with other settings, and warns of other versions."""
        unlike = identity.differences(self.identity)
        if unlike:
            raise bad_value(
                "settings",
                expected="those of the run to resume",
                got=f"settings that differ in {', '.join(unlike)}",
                cure="Use the earlier settings, pass --overwrite, or choose another folder.",
            )
        warn_of_versions("the resumed run", identity, self.identity)

    def _is_valid(self) -> bool:
        """Whether every sum and version is a text and every name stays inside the folder."""
        for name in (*self.files, *self.replaced):
            plain_name(name, "").encode()
        sums: list[Any] = [*self.replaced.values(), *(one for one in self.files.values() if one is not None)]
        return all(isinstance(one, str) for one in self.identity.versions.values()) and all(
            isinstance(one, str) and _SUM.fullmatch(one) for one in sums
        )


class DamagedMarkerError(ValueError):
    """A ``run.json`` of solset that is not what was written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            bad_value(
                "path",
                expected=f"a run folder with {MARKER} as it was written",
                got=f"'{folder}', whose {MARKER} is damaged or was changed",
                cure="Pass --overwrite to start again, or choose another folder; this one is left as it is.",
            )
        )


def warn_of_damage(folder: Path, names: list[str]) -> None:
    """Says which files of a run are not what was written."""
    warn(f"damaged in '{folder}': {', '.join(names)}; computed again", SolsetWarning, stacklevel=4)


def earlier_run(folder: Path, on_existing: OnExisting) -> Marker | None:
    """The marker of the run in a folder, ``None`` if it is empty, an error if it must be left alone."""
    if all(name.startswith(PARTIAL) for name in list_folder(folder)):
        return None
    try:
        marker = Marker.read(folder)
    except DamagedMarkerError:
        if on_existing != "overwrite":
            raise
        return _salvaged(folder)
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


def _salvaged(folder: Path) -> Marker:
    """A marker with those names in a damaged one whose files are surely the run's, by sum or own seal."""
    text = (read_file(folder / MARKER) or b"").decode(errors="replace")
    names: dict[str, str | None] = {}
    for name, stated in _LISTED.findall(text):
        if name.startswith(".") or "\0" in name or name == MARKER:
            continue
        found_sum = hash_file(folder / name)
        if found_sum is not None and (found_sum == stated or is_sealed(read_file(folder / name) or b"")):
            names[name] = stated or None
    return Marker(Identity({}), names)


def clear(folder: Path, earlier: Marker | None) -> None:
    """Deletes the listed files of an earlier run; its marker stays until the new one replaces it."""
    for name in earlier.files if earlier is not None else ():
        remove_file(folder / plain_name(name, ""))
    clear_unfinished(folder)


def clear_unfinished(folder: Path) -> None:
    """Deletes the partial files that a killed process was writing."""
    for name in list_folder(folder):
        if name.startswith(PARTIAL) and (is_link(folder / name) or not has_folder(folder / name)):
            remove_file(folder / name)
