"""Points taken batch by batch, fewer at once where memory runs out."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from solset import comm
from solset.errors import SolsetWarning

Found = TypeVar("Found")

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")  # of devices without an error type


@dataclass
class Room:
    """How many points go at once since memory ran out; one for all copies of a risk.

    Attributes:
        max_points: ``None`` while nothing has happened.
    """

    max_points: int | None = None

    def shrink(self, count: int, error: BaseException) -> None:
        """Halves the batch that did not fit, and says so.

        Args:
            count: Its points.
            error: What came.

        Raises:
            MemoryError: If it was one point.
        """
        if count == 1:
            raise MemoryError(
                f"one point alone does not fit the memory ({error}): use a smaller model or dtype, a smaller "
                f"memory_budget for what is kept, or a device with more memory"
            ) from error
        self.max_points = count // 2
        warnings.warn(
            f"out of memory with {count} points at once: going on with {self.max_points}",
            SolsetWarning,
            stacklevel=2,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device.

    Args:
        error: What came.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def in_batches(points: range, at_once: int, room: Room, work: Callable[[range], Found]) -> Iterator[Found]:
    """What the work finds on each batch, in order; a batch that does not fit memory is halved and done again.

    Args:
        points: All of them.
        at_once: Points of a batch.
        room: Remembers how many fitted.
        work: Of a batch; leaves nothing behind when it fails.

    Raises:
        MemoryError: If a single point does not fit.
    """
    start = points.start
    while start < points.stop:
        count = min(at_once, room.max_points or at_once, points.stop - start)
        try:
            with comm.reporting():
                found = work(range(start, start + count))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            room.shrink(count, error)
            continue
        yield found
        start += count
