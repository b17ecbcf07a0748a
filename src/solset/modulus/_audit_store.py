"""Finished batches of an audit in a folder, for going on after an interrupt."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from solset.modulus._audit_batches import Batch
from solset.storage import Checkpoint, Identity, check_place


@dataclass(frozen=True)
class Batches:
    """The checkpoints of an audit's batches."""

    place: Callable[[str], Path] | None  # Function from a file's name to its path; ``None`` stores nothing
    identity: Identity  # Everything that a batch depends on

    @classmethod
    def at(
        cls, checkpoint: Path | str | Callable[[str], Path] | None, identify: Callable[[], Identity]
    ) -> "Batches":
        """The batches in a folder that a user gave.

        Args:
            checkpoint: The folder, or a function from a file's name to its path; ``None`` stores nothing.
            identify: Function that returns the identity of the audit.

        Raises:
            ValueError: If the folder does not exist.
        """
        if checkpoint is None:
            return cls(None, Identity({}))
        place = checkpoint if callable(checkpoint) else lambda name: Path(checkpoint) / name
        check_place(place(_name(0)))
        return cls(place, identify())

    def batch(self, number: int, count: int, compute: Callable[[], Batch]) -> Batch:
        """A batch as an earlier audit stored it, or as it is computed now and stored.

        Raises:
            ValueError: If the stored batch is of another audit; says what differs.
        """

        def restored(records: Any, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
            if records["batch"] != number:
                raise ValueError(f"batch {records['batch']} under the name of batch {number}")
            lengths = {len(arrays["direction"]), *map(len, arrays.values())}
            if lengths != {count}:
                raise ValueError(f"{sorted(lengths)} points instead of {count}")
            return arrays

        path = None if self.place is None else self.place(_name(number))
        checkpoint = Checkpoint(path, "audit", self.identity)
        stored = checkpoint.resume(restored)
        if stored is not None:
            return stored
        batch = compute()
        checkpoint.write({"batch": number}, batch)
        return batch


def _name(number: int) -> str:
    return f"audit_{number:05d}.safetensors"
