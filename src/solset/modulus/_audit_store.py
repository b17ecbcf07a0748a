"""Finished batches of an audit in a folder, for going on after an interrupt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from solset.storage._sealed import SealedFile, check_place

_KIND = "solset audit 2"


@dataclass(frozen=True)
class Batches:
    """The folder of finished batches, or none.

    Attributes:
        place: From a file's name to its path; ``None`` keeps nothing.
        identity: Everything that a batch depends on, in the types of JSON.
    """

    place: Callable[[str], Path] | None
    identity: Mapping[str, Any]

    def check(self) -> None:
        """Refuses a folder that is not there, before anything is computed.

        Raises:
            ValueError: If the folder does not exist.
        """
        if self.place is not None:
            check_place(self.place(_name(0)))

    def read(self, number: int, count: int) -> dict[str, Tensor] | None:
        """A finished batch; ``None`` if it is not there or is damaged, so that it is computed again.

        Args:
            number: Of the batch.
            count: Of its points.

        Raises:
            ValueError: If it is of another audit, and what differs.
        """

        def restored(numbers: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if numbers["batch"] != number:
                raise ValueError(f"batch {numbers['batch']} under the name of batch {number}")
            lengths = {len(tensors["direction"]), *map(len, tensors.values())}
            if lengths != {count}:
                raise ValueError(f"{sorted(lengths)} points instead of {count}")
            return tensors

        return self._sealed(number).read(restored)

    def write(self, number: int, tensors: dict[str, Tensor]) -> None:
        """Keeps a batch.

        Args:
            number: Of the batch.
            tensors: By name.
        """
        self._sealed(number).write({"batch": number}, tensors)

    def _sealed(self, number: int) -> SealedFile:
        path = None if self.place is None else self.place(_name(number))
        return SealedFile(path, _KIND, self.identity)


def _name(number: int) -> str:
    return f"audit_{number:05d}.safetensors"
