"""The recorded steps gone through again, forward or back, each with the state before it."""

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

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

# State before a step, its record, and the state after it, ``None`` where that is not known
Step = tuple[State, Record, State | None]


class Replay:
    """The steps of a recorded training; states that were not kept are computed again.

    Args:
        setting: Parts of the training that are the same in every step.
        tape: Record of its steps.
        end: State after the last step.
        progress: Whether to show a progress bar; by default only on a terminal.
    """

    def __init__(self, setting: Setting, tape: Tape, end: State, progress: bool | None) -> None:
        self._setting, self._tape, self._end = setting, tape, end
        self._hidden = None if progress is None else not progress

    def forward(self, name: str) -> Iterator[Step]:
        """The steps from the first to the last, each with the states before and after it."""
        yield from self._shown(name, list(self._tape.segments()), 1)

    def backward(self, name: str, left: int) -> Iterator[Step]:
        """The steps from the last of those that are left to the first, with the states before and after each.

        Args:
            name: Name of the computation on the progress bar.
            left: Number of steps that are left; those after them are passed over.
        """
        segments = [range(each.start, min(each.stop, left)) for each in self._tape.segments()]
        yield from self._shown(name, [each for each in segments if len(each)][::-1], -1)

    def _shown(self, name: str, segments: Sequence[range], direction: int) -> Iterator[Step]:
        total = sum(map(len, segments))
        with tqdm(desc=name, total=total, disable=self._hidden, leave=False) as bar:
            for segment in segments:
                states = pairwise(chain(self._states(segment), [self._following(segment.stop)]))
                records = self._tape.records[segment.start : segment.stop]
                if direction < 0:
                    states, records = reversed(list(states)), records[::-1]
                for (before, after), record in zip(states, records, strict=True):
                    assert before is not None  # noqa: S101 - only a state after all steps may be unknown
                    yield before, record, after
                    bar.update()

    def _following(self, step: int) -> State | None:
        """The state after a segment; ``None`` inside of one that is gone through in part."""
        if step == len(self._tape.records):
            return self._end
        return self._tape.state(step) if step in self._tape.states else None

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
