"""What ``run.json`` says of the run in a folder, and what may be done to it."""

import hashlib
import json
import platform
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from solset.errors import SolsetWarning, bad_value
from solset.storage._files import (
    PARTIAL,
    has_folder,
    hash_file,
    is_link,
    list_folder,
    plain_name,
    read_file,
    remove_file,
    replace_file,
)
from solset.storage._sealed import is_sealed, parsed_json

MARKER = "run.json"
FORMAT = "solset run 2"
_BEGIN = b'{\n  "format": "solset run '
_SUM = re.compile(r"[0-9a-f]{64}")
_LISTED = re.compile(r'"([^"\\/]+)": (?:"([0-9a-f]{64})"|null)')  # also in a file that is no longer JSON


@dataclass(frozen=True)
class Marker:
    """The content of ``run.json``.

    Attributes:
        settings: What the run was asked to do, on what data and weights.
        versions: Of the packages that started it.
        files: Of every file of the run its SHA-256 sum, stated before the file is put in place; ``None``
            where the file checks itself or is not finished.
        replaced: The sum of what a file held before it was replaced. A file like that was not damaged: the
            run was stopped between stating the new sum and putting the new file in place.
    """

    settings: Mapping[str, object]
    versions: Mapping[str, str]
    files: Mapping[str, str | None]
    replaced: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Puts the marker in place, sealed.

        Args:
            folder: Of the run.
        """
        replace_file(folder / MARKER, self._sealed())

    def _sealed(self) -> bytes:
        """JSON whose first entries are the format and the sum over all the others."""
        content = {
            "settings": self.settings,
            "versions": dict(sorted(self.versions.items())),
            "files": dict(sorted(self.files.items())),
            "replaced": dict(sorted(self.replaced.items())),
        }
        seal = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        text = json.dumps({"format": FORMAT, "seal": seal, **content}, ensure_ascii=False, indent=2)
        return (text + "\n").encode(errors="surrogatepass")

    @classmethod
    def read(cls, folder: Path) -> "Marker | None":
        """The marker of a run; ``None`` if there is none or it is of another program.

        Args:
            folder: Of the run.

        Raises:
            DamagedMarkerError: If it is ours and not what was written.
        """
        path = folder / MARKER
        data = None if is_link(path) or has_folder(path) else read_file(path)
        if data is None:
            return None
        if not data.startswith(_BEGIN):
            return _of_another(folder, data)
        try:
            found = parsed_json(data)
            own = {key: found[key] for key in ("settings", "versions", "files", "replaced")}
            marker = cls(**own)
            is_whole = marker._sealed() == data and _is_valid(own)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DamagedMarkerError(folder, data) from error
        if not is_whole:
            raise DamagedMarkerError(folder, data)
        return marker

    def settled(self, folder: Path) -> "Marker":
        """What is true of the files now, after a run that may have been stopped while it replaced one.

        Args:
            folder: Of the run.
        """
        unfinished = {name for name in self.replaced if hash_file(folder / name) != self.files.get(name)}
        files = {name: None if name in unfinished else found for name, found in self.files.items()}
        return replace(self, files=files, replaced={})

    def without_damaged(self, folder: Path) -> "Marker":
        """The marker with damaged files listed as not finished; names them in a warning.

        Args:
            folder: Of the run.
        """
        sums = {name: hash_file(folder / name) for name, stated in self.files.items() if stated is not None}
        damaged = [
            name
            for name, found in sums.items()
            if found != self.files[name] and (found is not None or is_link(folder / name))
        ]
        if damaged:
            warn_of_damage(folder, damaged)
        files = {name: None if name in damaged else stated for name, stated in self.files.items()}
        return replace(self, files=files)


class DamagedMarkerError(ValueError):
    """``run.json`` is ours and not what was written.

    Args:
        folder: Of the run.
        data: What was read.
    """

    def __init__(self, folder: Path, data: bytes) -> None:
        self.data = data
        super().__init__(
            bad_value(
                "path",
                expected=f"a run folder with {MARKER} as it was written",
                got=f"'{folder}', whose {MARKER} is damaged or was changed",
                cure="Pass --overwrite to start again, or choose another folder; this one is left as it is.",
            )
        )


def _is_valid(content: Mapping[str, Any]) -> bool:
    """Whether everything is of its type and every name stays inside the folder."""
    texts = [content["versions"], content["replaced"]]
    if not all(isinstance(value, dict) for value in content.values()):
        return False
    for name in (*content["files"], *content["replaced"]):
        plain_name(name, "").encode()
    sums = [*content["replaced"].values(), *filter(None, content["files"].values())]
    return all(isinstance(value, str) for part in texts for value in part.values()) and all(
        isinstance(one, str) and _SUM.fullmatch(one) for one in sums
    )


def _of_another(folder: Path, data: bytes) -> None:
    """Nothing for the file of another program, an error for an earlier version of ours."""
    try:
        found = parsed_json(data)
    except ValueError:
        return
    if not isinstance(found, dict):
        return
    if found.get("format") == FORMAT:  # written by hand
        raise DamagedMarkerError(folder, data)
    if str(found.get("format")).startswith("solset run"):
        raise bad_value(
            "path",
            expected=f"a run of format '{FORMAT}'",
            got=f"'{folder}', of format '{found['format']}'",
            cure="Choose another folder, or delete that one.",
        )


def warn_of_damage(folder: Path, names: list[str]) -> None:
    """Says which files are not what was written.

    Args:
        folder: Of the run.
        names: Of the files.
    """
    warnings.warn(
        f"damaged in '{folder}': {', '.join(names)}; computed again",
        SolsetWarning,
        stacklevel=4,
    )


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


def earlier_run(folder: Path, on_existing: str) -> Marker | None:
    """The marker of the run in the folder, ``None`` if it is empty, an error if it must be left alone.

    Args:
        folder: Of the run.
        on_existing: ``"refuse"``, ``"resume"`` or ``"overwrite"``.
    """
    if all(name.startswith(PARTIAL) for name in list_folder(folder)):
        return None
    try:
        marker = Marker.read(folder)
    except DamagedMarkerError as error:
        if on_existing != "overwrite":
            raise
        return _salvaged(folder, error.data)
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


def _salvaged(folder: Path, data: bytes) -> Marker:
    """Of the names in a damaged marker those whose files are surely the run's, by sum or own mark."""
    names: dict[str, str | None] = {}
    for name, stated in _LISTED.findall(data.decode(errors="replace")):
        if name.startswith(".") or "\0" in name or name == MARKER:
            continue
        found = hash_file(folder / name)
        if found is not None and (found == stated or is_sealed(read_file(folder / name) or b"")):
            names[name] = stated or None
    return Marker({}, {}, names, {})


def check_same(earlier: Marker, settings: Mapping[str, object]) -> None:
    """Refuses to resume a run with other settings, and warns of other versions.

    Args:
        earlier: The run in the folder.
        settings: Wanted.

    Raises:
        ValueError: If settings differ; says which.
    """
    changed = _differences(earlier.settings, settings)
    if changed:
        raise bad_value(
            "settings",
            expected="those of the run to resume",
            got="; ".join(changed),
            cure="Use the earlier settings, pass --overwrite, or choose another folder.",
        )
    changed = _differences(earlier.versions, package_versions())
    if changed:
        warnings.warn(
            f"the resumed run mixes results of different versions: {'; '.join(changed)}",
            SolsetWarning,
            stacklevel=3,
        )


def _differences(earlier: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    return [
        f"'{key}' is {_shown(now, key)} and was {_shown(earlier, key)}"
        for key in sorted(set(earlier) | set(now))
        if _shown(earlier, key) != _shown(now, key)
    ]


def _shown(values: Mapping[str, object], key: str) -> str:
    return json.dumps(values[key], sort_keys=True) if key in values else "absent"


def clear(folder: Path, earlier: Marker | None) -> None:
    """Deletes the listed files of an earlier run; its marker stays until the new one replaces it.

    Args:
        folder: Of the run.
        earlier: What it holds; ``None`` if nothing.
    """
    for name in earlier.files if earlier is not None else ():
        remove_file(folder / plain_name(name, ""))
    clear_unfinished(folder)


def clear_unfinished(folder: Path) -> None:
    """Deletes what a killed process was writing.

    Args:
        folder: Of the run.
    """
    for name in list_folder(folder):
        if name.startswith(PARTIAL) and (is_link(folder / name) or not has_folder(folder / name)):
            remove_file(folder / name)
