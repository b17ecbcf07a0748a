"""An unfinished search for a perturbation in one checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor

from solset.errors import Status
from solset.poisoning._followers import BasePoint
from solset.storage import Checkpoint, matched


class Reason(StrEnum):
    """Why an ascent stopped."""

    STATIONARY = "no feasible direction raises the goal any more"
    NO_ROOM = "the budget leaves no room"
    MAX_ROUNDS = "the limit of rounds is reached"
    NO_PROGRESS = "the linear model no longer predicts a rise that the follower confirms"
    NOT_FINITE = "the goal or its gradient is not finite beyond this point"
    NOT_SOLVED = "solving on the moved data ends at no solution beyond this point"
    LEFT_FIT = "the training set is no longer fitted beyond this point"


@dataclass(frozen=True)
class Round:
    """One round: a linearisation, the ascent on it, and the value that the follower reaches.

    Attributes:
        number: Number of the round, from 1.
        value: Value of the goal at the weights that the follower reached.
        predicted: Value of the goal there by the linearisation.
        size: Size of the perturbation in the budget's norm.
        stride: Share of the radius that the round was allowed to go.
        room: First-order change of the goal by a move of the whole radius, at the last step.
        is_kept: Whether the follower confirmed enough of the predicted rise.
    """

    number: int
    value: float
    predicted: float
    size: float
    stride: float
    room: float
    is_kept: bool


@dataclass(frozen=True)
class Progress:
    """The state between rounds."""

    base: BasePoint  # Perturbation and weights where the next linearisation is made
    stride: float  # Share of the radius that the next round may go
    course: tuple[Round, ...]  # All rounds so far
    reason: str  # Name of the reason to stop; empty while there is none


@dataclass(frozen=True)
class PoisoningFile:
    """The checkpoint of one search."""

    checkpoint: Checkpoint  # The file, or none
    like: Mapping[str, Tensor]  # Tensors named ``dx`` and ``weights``, for sizes, dtype and device

    def read(self) -> Progress | None:
        """The state that an earlier search with the same settings stored; ``None`` if there is none."""
        return self.checkpoint.resume(self._restored)

    def write(self, state: Progress) -> None:
        """Stores the state between rounds; a reader sees the earlier file or the new one."""
        records = {
            "stride": state.stride,
            "course": [asdict(one) for one in state.course],
            "reason": state.reason,
        }
        records["status"] = str(state.base.status)
        self.checkpoint.write(records, {"dx": state.base.dx, "weights": state.base.weights})

    def _restored(self, records: Any, arrays: dict[str, Tensor]) -> Progress:
        dx, weights = (matched(arrays[name], self.like[name]) for name in ("dx", "weights"))
        base = BasePoint(dx, weights, Status(records["status"]))
        course = tuple(Round(**one) for one in records["course"])
        reason = str(records["reason"])
        if reason and reason not in Reason.__members__:
            raise ValueError(f"no reason '{reason}'")
        return Progress(base, float(records["stride"]), course, reason)
