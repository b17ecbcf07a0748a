"""Interrupts that wait for the end of a step, so that what was computed can be written first."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

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
        """Lets an interrupt that waits happen, after what was computed is written.

        Args:
            write: Function that writes it.
        """
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
