"""A run so far in one checkpoint, from which it goes on to the same numbers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from solset.storage import Checkpoint
from solset.training._batches import Place
from solset.training._state import State, restore
from solset.training._step import Record
from solset.training._tape import Tape, packed, unpacked

SECONDS = 10.0  # least time between two writes
SHARE = 20.0  # times the last write that training goes on before the next


@dataclass(eq=False)
class RunFile:
    """The checkpoint of a run."""

    checkpoint: Checkpoint  # The file, or none
    # Time of the next write, by the clock of ``time.monotonic``
    due: float = field(default_factory=lambda: time.monotonic() + SECONDS)
    written: int = 0  # Number of steps in the file

    def resume(self, tape: Tape, model: nn.Module, optimizer: Optimizer) -> Place | None:
        """Puts model, optimizer and tape back to where an earlier call stopped; ``None`` without one."""

        def restored(
            records: Any, arrays: dict[str, Tensor]
        ) -> tuple[State, Place, dict[int, Any], list[Record]]:
            now, steps = _read_steps(records, arrays)
            place = Place(len(steps), _split(arrays["epoch_start"], records), _split(arrays["now"], records))
            states = {
                int(step): names if tape.folder is not None else unpacked(names, arrays, f"{step}.")
                for step, names in records["states"].items()
            }
            return now, place, states, steps

        stored = self.checkpoint.resume(restored)
        if stored is None:
            return None
        state, place, tape.states, tape.records = stored
        restore(state, model, optimizer)
        self.written = place.step
        return place

    def write(self, tape: Tape, state: State, place: Place) -> None:
        """Stores the run so far.

        Args:
            tape: Tape with at least the steps so far; later ones are left out.
            state: State after the last of them.
            place: Place between the last step and the next.
        """
        if self.checkpoint.path is None:
            return
        start = time.monotonic()
        names, arrays = packed(state, "now.")
        states: dict[str, Any] = {}
        for step, state_there in tape.states.items():
            if step >= place.step:
                continue
            states[str(step)] = state_there
            if tape.folder is None:
                states[str(step)], tensors = packed(state_there, f"{step}.")
                arrays |= tensors
        records, more = _written_steps(tape.records[: place.step])
        arrays |= more
        arrays |= {"epoch_start": torch.cat(place.epoch_start), "now": torch.cat(place.now)}
        records |= {"now": names, "states": states, "generators": [len(part) for part in place.now]}
        self.checkpoint.write(records, arrays)
        self.written = place.step
        self.due = start + max(SECONDS, SHARE * (time.monotonic() - start))

    @property
    def is_due(self) -> bool:
        """Whether it is time to write again."""
        return self.checkpoint.path is not None and time.monotonic() >= self.due


def _written_steps(steps: Sequence[Record]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The records of steps: settings that occur again are stored once."""
    settings: list[Any] = []
    places: list[int] = []
    for step in steps:
        if not settings or settings[-1] != step.settings:
            settings.append(step.settings)
        places.append(len(settings) - 1)
    arrays = {
        "batches": torch.tensor([point for step in steps for point in step.batch], dtype=torch.int64),
        "randomness": torch.stack([torch.cat(step.randomness) for step in steps]),
    }
    records = {
        "losses": [step.loss for step in steps],
        "sizes": [len(step.batch) for step in steps],
        "skipped": [list(step.skipped) for step in steps],
        "rates": settings,
        "rates_of_step": places,
    }
    return records, arrays


def _read_steps(records: Any, arrays: Mapping[str, Tensor]) -> tuple[State, list[Record]]:
    batches = arrays["batches"].split(list(records["sizes"]))
    columns = (records[name] for name in ("rates_of_step", "losses", "skipped"))
    rows = zip(batches, arrays["randomness"], *columns, strict=True)
    steps = [
        Record(batch.tolist(), step, records["rates"][place], _split(states, records), float(loss), skipped)
        for step, (batch, states, place, loss, skipped) in enumerate(rows)
    ]
    return unpacked(records["now"], arrays, "now."), steps


def _split(states: Tensor, records: Any) -> tuple[Tensor, ...]:
    return tuple(part.clone() for part in states.split(list(records["generators"])))
