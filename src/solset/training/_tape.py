"""What a training wrote down: its steps, and states to start again from."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from solset.errors import bad_value
from solset.training._state import State
from solset.training._step import Record


@dataclass(eq=False)
class Tape:
    """The record of a training: every step, and the state before every ``stride``-th of them."""

    stride: int  # Number of steps from one kept state to the next
    folder: Path | None = None  # Folder for the kept states; ``None`` keeps them in memory
    records: list[Record] = field(default_factory=list)  # Record of each step, from the first on
    # Kept states by step; on the disk only what is no tensor stays in memory
    states: dict[int, Any] = field(default_factory=dict)

    @property
    def losses(self) -> list[float]:
        """Loss of each step's batch."""
        return [record.loss for record in self.records]

    def keep(self, step: int, state: Callable[[], State]) -> bool:
        """Keeps the state before a step, if it is one of those to keep; returns whether it is."""
        is_kept = step % self.stride == 0
        if is_kept:
            self.states[step] = state() if self.folder is None else _written(state(), self._file(step))
        return is_kept

    def state(self, step: int) -> State:
        """The kept state before a step."""
        entry = self.states[step]
        return entry if self.folder is None else unpacked(entry, load_file(self._file(step)))

    def segments(self) -> Iterator[range]:
        """The steps in runs that begin at a kept state, from the first to the last."""
        for start in sorted(self.states):
            yield range(start, min(start + self.stride, len(self.records)))

    def _file(self, step: int) -> Path:
        assert self.folder is not None  # noqa: S101
        return self.folder / f"state-{step:08d}.safetensors"


def fitting_stride(steps: int, model: nn.Module, memory_budget: int, folder: Path | None) -> int:
    """The shortest stride whose states fit the budget; ``√steps`` if they are on the disk.

    A sweep holds the kept states and those of one stride: ``steps / stride + stride`` in all, fewest at
    ``√steps``. One state counts as four times the model: two slots for each weight, and room.

    Args:
        steps: Number of steps of the training.
        model: Model before its first step.
        memory_budget: Bytes that states may take.
        folder: Folder for the kept states; ``None`` keeps them in memory.

    Raises:
        ValueError: If the states do not fit and there is no folder.
    """
    tensors = [*model.parameters(), *model.buffers()]
    size = 4 * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    longest = math.isqrt(max(steps - 1, 0)) + 1
    for stride in range(1, longest + 1):
        held = steps if stride == 1 else -(-steps // stride) + stride
        if held * size <= memory_budget:
            return stride
    if folder is None:
        raise bad_value(
            "memory_budget",
            expected=f"about {2 * longest * size:,} bytes for the states of {steps} steps",
            got=f"{memory_budget:,}",
            cure="Raise it, or name a folder for the states.",
        )
    return longest


def packed(state: State, prefix: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A state as names and values in the types of JSON, and tensors by name."""
    tensors: dict[str, Tensor] = {f"{prefix}p.{name}": value for name, value in state.parameters.items()}
    tensors |= {f"{prefix}b.{name}": value for name, value in state.buffers.items()}
    rest: list[dict[str, Any]] = []
    for place, slot in enumerate(state.slots):
        tensors |= {
            f"{prefix}s{place}.{name}": value for name, value in slot.items() if isinstance(value, Tensor)
        }
        rest.append({name: None if isinstance(value, Tensor) else value for name, value in slot.items()})
    return {"parameters": list(state.parameters), "buffers": list(state.buffers), "slots": rest}, tensors


def unpacked(names: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str = "") -> State:
    """The state that :func:`packed` took apart."""
    slots: Sequence[dict[str, Any]] = [
        {name: tensors.get(f"{prefix}s{place}.{name}", value) for name, value in slot.items()}
        for place, slot in enumerate(names["slots"])
    ]
    return State(
        {name: tensors[f"{prefix}p.{name}"] for name in names["parameters"]},
        {name: tensors[f"{prefix}b.{name}"] for name in names["buffers"]},
        slots,
    )


def _written(state: State, file: Path) -> dict[str, Any]:
    """Writes the tensors of a state; returns where each belongs, and all that is no tensor."""
    names, tensors = packed(state)
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, file)
    return names
