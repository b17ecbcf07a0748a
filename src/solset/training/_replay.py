"""The recorded steps gone through again, forward or back, each with the state before it."""

from collections.abc import Iterator, Sequence

from tqdm import tqdm

from solset.training._setting import Loop, Setting
from solset.training._state import (
    State,
    capture,
    own_randomness,
    put_settings,
    restore,
    set_randomness,
)
from solset.training._step import Record
from solset.training._tape import Tape


class Replay:
    """The steps of a recorded training; states that were not kept are computed again.

    Args:
        setting: Parts of the training that are the same in every step.
        tape: Record of its steps.
        progress: Whether to show a progress bar; by default only on a terminal.
    """

    def __init__(self, setting: Setting, tape: Tape, progress: bool | None) -> None:
        self._setting, self._tape = setting, tape
        self._hidden = None if progress is None else not progress

    def forward(self, name: str) -> Iterator[tuple[State, Record]]:
        """The steps from the first to the last, each with the state before it."""
        yield from self._shown(name, list(self._tape.segments()), 1)

    def backward(self, name: str, left: int) -> Iterator[tuple[State, Record]]:
        """The steps from the last of those that are left to the first, each with the state before it.

        Args:
            name: Name of the computation on the progress bar.
            left: Number of steps that are left; those after them are passed over.
        """
        segments = [range(each.start, min(each.stop, left)) for each in self._tape.segments()]
        yield from self._shown(name, [each for each in segments if len(each)][::-1], -1)

    def _shown(self, name: str, segments: Sequence[range], direction: int) -> Iterator[tuple[State, Record]]:
        total = sum(map(len, segments))
        with tqdm(desc=name, total=total, disable=self._hidden, leave=False) as bar:
            for segment in segments:
                states = self._states(segment)
                records = self._tape.records[segment.start : segment.stop]
                pairs = zip(states, records, strict=True) if direction > 0 else _reversed(states, records)
                for pair in pairs:
                    yield pair
                    bar.update()

    def _states(self, segment: range) -> Iterator[State]:
        """The states before the steps of a segment."""
        state = self._tape.state(segment.start)
        yield state
        if len(segment) == 1:
            return
        model, optimizer = self._setting.pair()
        loop = Loop(self._setting, model, optimizer)
        restore(state, loop.model, loop.optimizer)
        for step in segment[:-1]:
            record = self._tape.records[step]
            with own_randomness(loop.device):
                set_randomness(record.randomness, loop.device)
                put_settings(record.settings, loop.optimizer)
                loop.step(record.batch, record.step)
            yield capture(loop.model, loop.optimizer)


def _reversed(states: Iterator[State], records: Sequence[Record]) -> Iterator[tuple[State, Record]]:
    yield from zip(reversed(list(states)), reversed(records), strict=True)
