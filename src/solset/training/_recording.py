"""The steps of a run that is recorded, and written so that it can go on after an interrupt."""

from functools import partial

from solset.training._batches import Batches, Place
from solset.training._interrupts import Interrupts
from solset.training._run_file import RunFile
from solset.training._setting import Loop
from solset.training._state import capture, randomness, settings_of
from solset.training._step import Record
from solset.training._tape import Tape


def take_steps(loop: Loop, batches: Batches, tape: Tape, file: RunFile) -> None:
    """Takes the steps that are left, and writes the run from time to time, when interrupted and at its end.

    An interrupt or a request to end waits for the end of a step. Where a step itself fails, the run is
    written as it was before the last step whose state is kept.

    Args:
        loop: Model and optimizer at the place from which the run goes on.
        batches: Batches that are left.
        tape: Tape with the steps so far, to which others are added.
        file: Checkpoint of the run.
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
                tape.records.append(Record(batch, step, settings, states, loop.finite_step(batch, step)))
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
