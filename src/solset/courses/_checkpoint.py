"""A course so far in one checkpoint."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from solset.courses._course import Station, StopReason
from solset.courses._multistep import Slopes
from solset.courses._state import Ending, State
from solset.storage import Checkpoint, matched


@dataclass(frozen=True)
class CourseFile:
    """The checkpoint of a course.

    Attributes:
        checkpoint: The file, or none.
    """

    checkpoint: Checkpoint

    def read(self, like: Tensor) -> tuple[list[State], Ending | None]:
        """The states that an earlier run reached, and how it ended if it did; empty if there is no file.

        Args:
            like: The trained weights, for size, dtype and device.
        """
        stored = self.checkpoint.resume(lambda records, arrays: _states(records, arrays, like))
        return ([], None) if stored is None else stored

    def write(self, states: Sequence[State], ending: Ending | None = None) -> None:
        """Stores the course; a reader sees the earlier file or the new one.

        Args:
            states: All states so far.
            ending: Reason why the course ended, if that is final.

        Cost: the weights at every station are written again.
        """
        if self.checkpoint.path is None:
            return
        last = states[-1]
        records = {
            "stations": [asdict(state.station) for state in states],
            "step": last.step,
            "gap": last.slopes.gap,
            "reference": last.reference,
            "held": list(last.held),
            "ending": None if ending is None else [ending.reason.value, ending.message],
        }
        arrays = {"trail": torch.stack([state.weights for state in states]), "slope": last.slopes.now}
        if last.slopes.before is not None:
            arrays["slope_before"] = last.slopes.before
        if last.pairs is not None:
            arrays["pairs"] = last.pairs
        self.checkpoint.write(records, arrays)


def _states(records: Any, arrays: dict[str, Tensor], like: Tensor) -> tuple[list[State], Ending | None]:
    size = like.numel()
    stations = [Station(**row) for row in records["stations"]]
    trail = matched(arrays["trail"], like, (len(stations), size))
    if not stations:
        raise ValueError("a course without a station")
    before, pairs = arrays.get("slope_before"), arrays.get("pairs")
    slopes = Slopes(
        matched(arrays["slope"], like, (size,)),
        None if before is None else matched(before, like, (size,)),
        float(records["gap"]),
    )
    if pairs is not None:
        pairs = matched(pairs, like, (2, size, pairs.shape[-1]))
    # Only the last state is continued; of the others only the station and the weights are read.
    reference = (float(records["reference"][0]), float(records["reference"][1]))
    step, ending = float(records["step"]), records["ending"]
    held = tuple(int(switch) for switch in records["held"])
    states = [
        State(weights, station, step, slopes, reference, pairs, held)
        for weights, station in zip(trail, stations, strict=True)
    ]
    return states, None if ending is None else Ending(StopReason(ending[0]), str(ending[1]))
