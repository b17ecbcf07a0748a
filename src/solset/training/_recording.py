"""The steps of a run that is recorded, and written so that it can go on after an interrupt."""

import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType, TracebackType
from typing import Any

from solset.training._batches import Batches, Place
from solset.training._run_file import RunFile
from solset.training._setting import Loop
from solset.training._state import capture, randomness, settings_of, without_gradient
from solset.training._step import Record
from solset.training._tape import Tape

HELD = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context in which an interrupt or a request to end waits until :meth:`answer` is called.

    A second one does not wait. Outside of the main thread nothing is held, since Python does not allow it.
    """

    def __init__(self) -> None:
        self._seen: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {int(each): signal.signal(each, self._note) for each in HELD}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()
        if self._seen is not None and error is None:
            signal.raise_signal(self._seen)

    def answer(self, write: Callable[[], None]) -> None:
        """Lets an interrupt that waits happen, after what was computed is written."""
        if self._seen is None:
            return
        write()
        number, self._seen = self._seen, None
        self._release()
        signal.raise_signal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python passes it
        if self._seen is not None:
            self._release()
            signal.raise_signal(number)
        self._seen = number

    def _release(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}


def take_steps(loop: Loop, batches: Batches, tape: Tape, file: RunFile) -> None:
    """Takes the steps that are left, and writes the run from time to time, when interrupted and at its end.

    An interrupt or a request to end waits for the end of a step. Where a step itself fails, the run is
    written as it was before the last step whose state is kept.
    """
    last_kept, place = None, None

    def write() -> None:
        if place is not None:
            file.write(tape, capture(loop.model, loop.optimizer), place)

    try:
        with Interrupts() as interrupts:
            for step, batch in enumerate(batches, len(tape.records)):
                states, settings = randomness(loop.device), settings_of(loop.optimizer)
                if tape.keep(step, partial(capture, loop.model, loop.optimizer)):
                    # an epoch draws its batches at its start, and has to draw them again
                    last_kept = Place(
                        step, batches.epoch_start, states if batches.is_inside else batches.epoch_start
                    )
                loss = loop.finite_step(batch, step)
                skipped = without_gradient(loop.model)
                tape.records.append(Record(batch, step, settings, states, loss, skipped))
                place = Place(step + 1, batches.epoch_start, randomness(loop.device))
                if file.is_due:
                    write()
                interrupts.answer(write)
            if file.written < len(tape.records):
                write()
    except BaseException:
        if last_kept is not None and last_kept.step > file.written:
            file.write(tape, tape.state(last_kept.step), last_kept)
        raise
