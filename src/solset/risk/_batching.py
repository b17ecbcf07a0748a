"""Work on points batch by batch, what one pass over all of them gives, and what copies of a risk share."""

import warnings
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from solset import comm
from solset.errors import SolsetWarning

Part = TypeVar("Part")
# Messages of devices without an error type.
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass
class Routes:
    """Routes of derivatives; all copies of a risk share one, like its room.

    Attributes:
        is_right: Whether a fast route gave the numbers of the slow one, by the route and what it was tried
            on; a route that is missing was never tried.
        second: Way of second derivatives: ``"autograd"``, or ``"differences"`` of the gradient where autograd
            has none or a wrong one.
        loss: Way of the second derivatives of the loss in the outputs, likewise.
        reason: Clause that says why differences are taken.
        is_told: Whether a warning said so.
        shapes: Shape of one point's outputs behind the model and the door that gave it, by the identities of
            both and the shape of an input.
    """

    is_right: dict[Hashable, bool] = field(default_factory=dict)
    second: str = "autograd"
    loss: str = "autograd"
    reason: str = ""
    is_told: bool = False
    shapes: dict[Hashable, tuple[Any, Any, tuple[int, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """The results of one pass over all points.

    Attributes:
        value: Empirical risk ``E(x, w)``, with weight decay.
        gradient: Gradient ``∇_w E`` with weight decay, ``(p,)``.
        outputs: Network outputs of all points, ``(n, *out)``.
        targets: Targets of all points, ``(n, ...)``.
        seconds: Time that the pass took: that of one gradient.
    """

    value: float
    gradient: Tensor
    outputs: Tensor
    targets: Tensor
    seconds: float = 0.0


@dataclass
class Room:
    """The limit of the batch size since memory ran out; all copies of a risk share one.

    Attributes:
        max_points: Largest number of points in a batch; ``None`` while memory never ran out.
    """

    max_points: int | None = None

    def shrink(self, count: int, error: BaseException) -> None:
        """Halves the limit, with a warning.

        Raises:
            MemoryError: If the batch had one point.
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
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def in_batches(points: range, at_once: int, room: Room, work: Callable[[range], Part]) -> Iterator[Part]:
    """The results of ``work`` on each batch, in order; a batch that does not fit memory is halved.

    Args:
        points: Places of the points, in order.
        at_once: Number of points in a batch.
        room: Limit of the batch size, lowered if memory runs out.
        work: Function of the places of a batch; it must leave nothing behind if it raises.

    Raises:
        MemoryError: If a single point does not fit.
    """
    start = points.start
    while start < points.stop:
        count = min(at_once, room.max_points or at_once, points.stop - start)
        try:
            with comm.reporting():
                result = work(range(start, start + count))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            room.shrink(count, error)
            continue
        yield result
        start += count
