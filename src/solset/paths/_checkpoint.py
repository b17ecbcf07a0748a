"""A course so far in one file that is whole or not there."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from solset.paths._course import Station, StopReason
from solset.paths._multistep import Slopes
from solset.paths._state import Ending, State
from solset.risk import EmpiricalRisk, digest, fingerprint
from solset.storage._sealed import SealedFile

_KIND = "solset course 3"


@dataclass(frozen=True)
class CourseFile:
    """The file of a course, or none.

    Attributes:
        path: A safetensors file; ``None`` keeps nothing.
        settings: Everything that the course depends on, in the types of JSON.
    """

    path: Path | None
    settings: Mapping[str, Any]

    def read(self, like: Tensor) -> tuple[list[State], Ending | None]:
        """The states that an earlier run reached, and how it ended if it did; empty if there is no file.

        Args:
            like: The weights, for size, dtype and device.

        Raises:
            ValueError: If the folder does not exist, or the file is of another kind, problem or settings;
                says what differs.
        """
        found = self._sealed().read(lambda numbers, tensors: _states(numbers, tensors, like))
        return ([], None) if found is None else found

    def write(self, states: Sequence[State], ending: Ending | None = None) -> None:
        """Writes the course; a reader sees the earlier file or the new one.

        Args:
            states: All so far. Numbers are kept to the last bit, also those that are not finite.
            ending: How it ended, if that is final.

        Cost: the weights at every station are written again.
        """
        if self.path is None:
            return
        last = states[-1]
        numbers = {
            "stations": [asdict(state.station) for state in states],
            "step": last.step,
            "gap": last.slopes.gap,
            "reference": last.reference,
            "held": list(last.held),
            "ending": None if ending is None else [ending.reason.value, ending.message],
        }
        tensors = {"trail": torch.stack([state.weights for state in states]), "slope": last.slopes.now}
        if last.slopes.before is not None:
            tensors["slope_before"] = last.slopes.before
        if last.pairs is not None:
            tensors["pairs"] = last.pairs
        self._sealed().write(numbers, tensors)

    def _sealed(self) -> SealedFile:
        return SealedFile(self.path, _KIND, self.settings)


def course_settings(
    start: EmpiricalRisk, dx: Tensor, points: Sequence[int], **others: object
) -> dict[str, Any]:
    """What a course depends on.

    Args:
        start: The risk at the trained point.
        dx: The perturbation.
        points: ``K``.
        **others: Settings by name, in the types of JSON.

    Cost: one read of the data.
    """
    here = {"weights": digest([start.weights]), "dx": digest([dx]), "points": list(points)}
    return {**fingerprint(start), **here, **others}


def _states(numbers: Any, tensors: dict[str, Tensor], like: Tensor) -> tuple[list[State], Ending | None]:
    size = like.numel()
    stations = [Station(**row) for row in numbers["stations"]]
    trail = _like(tensors["trail"], like, (len(stations), size))
    if not stations:
        raise ValueError("a course without a station")
    before, pairs = tensors.get("slope_before"), tensors.get("pairs")
    slopes = Slopes(
        _like(tensors["slope"], like, (size,)),
        None if before is None else _like(before, like, (size,)),
        float(numbers["gap"]),
    )
    if pairs is not None:
        pairs = _like(pairs, like, (2, size, pairs.shape[-1]))
    # Only the last one is gone on from; of the others nothing but the station and the weights is read.
    reference = (float(numbers["reference"][0]), float(numbers["reference"][1]))
    step, ending = float(numbers["step"]), numbers["ending"]
    held = tuple(int(switch) for switch in numbers["held"])
    states = [
        State(weights, station, step, slopes, reference, pairs, held)
        for weights, station in zip(trail, stations, strict=True)
    ]
    return states, None if ending is None else Ending(StopReason(ending[0]), str(ending[1]))


def _like(found: Tensor, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """On the device, once shape and dtype are what they must be."""
    if tuple(found.shape) != shape or found.dtype != like.dtype:
        raise ValueError(f"{found.dtype} of shape {tuple(found.shape)} for {like.dtype} of {shape}")
    return found.to(like.device)
