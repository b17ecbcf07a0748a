"""The checkpoint of a computation: sealed records and arrays, with the identity of what they belong to."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from solset.errors import SolsetWarning, bad_value
from solset.storage._files import has_folder, read_file, replace_file
from solset.storage._seal import UNREADABLE, Identity, SealError, seal, unseal

State = TypeVar("State")
_HEAD = ("kind", "settings", "versions")
_PROBE = "probe"


@dataclass(frozen=True)
class Sealed:
    """The content of a sealed file."""

    kind: str  # Name of the computation that wrote the file, such as ``"course"``
    identity: Identity  # Everything that the content depends on
    records: Mapping[str, Any]  # Values by name in the types of JSON
    arrays: Mapping[str, Tensor] | None = None  # Tensors by name, on the CPU

    def to_bytes(self) -> bytes:
        """The bytes of the file: JSON text where there are no arrays, else a safetensors file."""
        head = {"kind": self.kind, "settings": self.identity.settings, "versions": self.identity.versions}
        if reserved := {"format", "seal", *head} & self.records.keys():
            raise ValueError(f"records named {', '.join(sorted(reserved))}, which stand in every checkpoint")
        return seal({**head, **self.records}, self.arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Sealed":
        """The content of bytes that :meth:`to_bytes` made; a :class:`SealError` says what other bytes are."""
        records, arrays = unseal(data)
        try:
            kind, settings, versions = (records.pop(name) for name in _HEAD)
            return cls(kind, Identity({**settings}, {**versions}), records, arrays)
        except UNREADABLE as error:
            raise SealError("damaged", f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Probe:
    """Numbers that show what no setting shows, such as changed code under the same name."""

    name: str  # Name of the numbers in messages, such as ``"the loss at the centre"``
    values: Tensor  # The numbers as they are computed now
    rtol: float  # Relative difference from the stored numbers that rounding may explain
    atol: float = 1e-12  # Absolute difference that rounding may explain

    def differences(self, stored: Tensor | None) -> list[str]:
        """The name of the numbers, if they are not those that were stored."""
        now = self.values.detach().cpu()
        if stored is None or stored.shape != now.shape:
            return [self.name]
        if torch.allclose(now, stored.to(now.dtype), rtol=self.rtol, atol=self.atol, equal_nan=True):
            return []
        shown = f" (now {float(now):.6g}, was {float(stored):.6g})" if now.ndim == 0 else ""
        return [f"{self.name}{shown}"]


@dataclass(frozen=True)
class Checkpoint:
    """A file from which an interrupted computation goes on, whole or not there; or no file at all."""

    path: Path | None  # The file; ``None`` stores nothing
    kind: str  # Name of the computation, such as ``"course"``
    identity: Identity = field(default_factory=lambda: Identity({}))  # Everything that the content depends on
    probe: Probe | None = None  # Numbers that must still be computed as they were; ``None`` compares none
    argument: str = "checkpoint"  # Name of the user's argument, for messages

    @classmethod
    def at(
        cls, path: Path | str | None, kind: str, identify: Callable[[], Identity], probe: Probe | None = None
    ) -> "Checkpoint":
        """The checkpoint at a path that a user gave, refused where there is no such folder.

        ``identify`` returns the identity, which costs a read of the data; without a path it is not called.
        """
        if path is None:
            return cls(None, kind)
        check_place(Path(path))
        return cls(Path(path), kind, identify(), probe)

    def resume(self, restore: Callable[[Any, dict[str, Tensor]], State]) -> State | None:
        """The state that ``restore`` makes of stored records and arrays; ``None`` without a whole file.

        Raises:
            ValueError: If the folder does not exist, or the file is of another program, version, computation
                or problem; says what differs.

        Warns:
            SolsetWarning: If the file is damaged, or other versions wrote it.
        """
        try:
            return self._state(restore)
        except SealError as error:
            warnings.warn(
                f"the checkpoint '{self.path}' is damaged ({error.how}); its content is computed again",
                SolsetWarning,
                stacklevel=4,
            )
            return None

    def load(self, restore: Callable[[Any, dict[str, Tensor]], State]) -> State | None:
        """The stored state as :meth:`resume` returns it, but damage is a :class:`ValueError` as well."""
        try:
            return self._state(restore)
        except SealError as error:
            raise damaged(self.argument, str(self.path), error.how) from error

    def write(self, records: Mapping[str, Any], arrays: Mapping[str, Tensor] | None = None) -> None:
        """Stores a state as a :class:`Sealed`; a reader sees the earlier file or the new one."""
        if self.path is None:
            return
        if self.probe is not None:
            arrays = {**(arrays or {}), _PROBE: self.probe.values}
        replace_file(self.path, Sealed(self.kind, self.identity, records, arrays).to_bytes())

    def _state(self, restore: Callable[[Any, dict[str, Tensor]], State]) -> State | None:
        if self.path is None:
            return None
        check_place(self.path, self.argument)
        try:
            data = read_file(self.path)
        except OSError as error:
            raise self._refused(f"cannot be read ({error.strerror or error})") from error
        if data is None:
            return None
        stored = self._opened(data)
        arrays = dict(stored.arrays or {})
        unlike = self.identity.differences(stored.identity)
        if not unlike and self.probe is not None:
            unlike = self.probe.differences(arrays.pop(_PROBE, None))
        if unlike:
            raise self._of_another_problem(unlike)
        try:
            state = restore(stored.records, arrays)
        except UNREADABLE as error:
            raise SealError("damaged", f"{type(error).__name__}: {error}") from error
        warn_of_versions(f"'{self.path}'", self.identity, stored.identity)
        return state

    def _opened(self, data: bytes) -> Sealed:
        try:
            stored = Sealed.from_bytes(data)
        except SealError as error:
            if error.why == "damaged":
                raise
            raise self._refused(error.how) from error
        if stored.kind != self.kind:
            raise self._refused(f"is the checkpoint of a '{stored.kind}', not of a '{self.kind}'")
        return stored

    def _refused(self, how: str) -> ValueError:
        return bad_value(
            self.argument,
            expected="a new place, or the checkpoint of an earlier run of this",
            got=f"'{self.path}', which {how}",
            cure="Choose another place; this file is left as it is.",
        )

    def _of_another_problem(self, unlike: list[str]) -> ValueError:
        return bad_value(
            self.argument,
            expected="of this problem, with these settings",
            got=f"'{self.path}', which differs in {', '.join(unlike)}",
            cure="Choose another place, delete this file, or go back to its model, data, loss and settings.",
        )


def check_place(path: Path, argument: str = "checkpoint") -> None:
    """Refuses a file in a folder that does not exist, before anything is computed."""
    if not has_folder(path.parent):
        raise bad_value(
            argument, expected="a file in a folder that exists", got=f"'{path}'", cure="Make the folder."
        )


def matched(stored: Tensor, like: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """A stored array on the device of a tensor, refused unless it has its dtype and its (or this) shape."""
    shape = tuple(like.shape) if shape is None else shape
    if tuple(stored.shape) != shape or stored.dtype != like.dtype:
        raise ValueError(f"{stored.dtype} of shape {tuple(stored.shape)} for {like.dtype} of {shape}")
    return stored.to(like.device)


def damaged(argument: str, path: str, how: str) -> ValueError:
    """The error for a file that is not what was written and cannot be computed again here."""
    return bad_value(
        argument,
        expected="as it was written",
        got=f"'{path}', which is damaged ({how})",
        cure="Compute it again, and store it in another place.",
    )


def warn_of_versions(name: str, now: Identity, stored: Identity) -> None:
    """Says which versions differ between a stored result and this process."""
    changed = now.other_versions(stored)
    if changed:
        warnings.warn(
            f"{name} mixes results of different versions: {', '.join(changed)}", SolsetWarning, stacklevel=5
        )
