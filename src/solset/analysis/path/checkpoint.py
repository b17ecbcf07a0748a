"""A course so far in one file that is whole or not there: its numbers as JSON, its weights as tensors."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from solset.analysis.path.course import Station, StopReason
from solset.analysis.path.multistep import Slopes
from solset.analysis.path.state import Ending, State
from solset.errors import bad_value
from solset.files import has_folder, read_file, replace_file, safetensors_text
from solset.risk import EmpiricalRisk, differences, digest, fingerprint

_FORMAT = "solset course 1"
_KEY = "course"


@dataclass(frozen=True)
class CourseFile:
    """The file of a course, or none.

    Attributes:
        path: A safetensors file, with the JSON in its header; ``None`` keeps nothing.
        settings: Everything that the course depends on, in the types of JSON.
    """

    path: Path | None
    settings: Mapping[str, Any]

    def read(self, like: Tensor) -> tuple[list[State], Ending | None]:
        """The states that an earlier run reached, and how it ended if it did; empty if there is no file.

        Args:
            like: Gives the device.

        Raises:
            ValueError: If the folder does not exist, or the file is of another kind, problem or settings;
                says what differs.
        """
        if self.path is None:
            return [], None
        if not has_folder(self.path.parent):
            raise bad_value(
                "checkpoint",
                expected="a file in a folder that exists",
                got=str(self.path),
                cure="Make the folder.",
            )
        data = read_file(self.path)
        if data is None:
            return [], None
        stored, tensors = _parsed(self.path, data)
        unlike = differences(stored["settings"], json.loads(json.dumps(self.settings)))
        if unlike:
            raise bad_value(
                "checkpoint",
                expected="of a path of this problem, with these settings",
                got=f"{self.path}, which differs in {', '.join(unlike)}",
                cure="Name another file, or delete this one.",
            )
        return _states(stored, {name: part.to(like.device) for name, part in tensors.items()})

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
        content = {
            "format": _FORMAT,
            "settings": self.settings,
            "stations": [asdict(state.station) for state in states],
            "step": last.step,
            "gap": last.slopes.gap,
            "reference": last.reference,
            "ending": None if ending is None else [ending.reason.value, ending.message],
        }
        tensors = {"trail": torch.stack([state.weights for state in states]), "slope": last.slopes.now}
        if last.slopes.before is not None:
            tensors["slope_before"] = last.slopes.before
        if last.pairs is not None:
            tensors["pairs"] = last.pairs
        plain = {name: part.detach().cpu().clone().contiguous() for name, part in tensors.items()}
        replace_file(self.path, save(plain, metadata={_KEY: json.dumps(content)}))


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


def _states(stored: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[list[State], Ending | None]:
    slopes = Slopes(tensors["slope"], tensors.get("slope_before"), stored["gap"])
    stations, trail = [Station(**row) for row in stored["stations"]], tensors["trail"]
    # Only the last one is gone on from; of the others nothing but the station and the weights is read.
    reference = (stored["reference"][0], stored["reference"][1])
    states = [
        State(weights, station, stored["step"], slopes, reference, tensors.get("pairs"))
        for weights, station in zip(trail, stations, strict=True)
    ]
    ending = stored["ending"]
    return states, None if ending is None else Ending(StopReason(ending[0]), ending[1])


def _parsed(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the file holds, once it is one of ours."""
    try:
        stored, tensors = json.loads(safetensors_text(data).get(_KEY, "null")), load(data)
    except (ValueError, SafetensorError):
        stored, tensors = None, {}
    if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
        raise bad_value(
            "checkpoint",
            expected="a new file, or one of an earlier path",
            got=f"{path}, which is neither",
            cure="Name another file; this one is left as it is.",
        )
    return stored, tensors
