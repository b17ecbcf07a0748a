"""An unfinished perturbation in one safetensors file that is whole or not there."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from solset.analysis.design.followers import BasePoint
from solset.errors import bad_value
from solset.files import has_folder, read_file, replace_file, safetensors_text
from solset.problem import Problem
from solset.risk import differences, digest, fingerprint

_FORMAT, _ENTRY = "solset poisoning 1", "solset"
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Round:
    """One linearisation, the ascent on it, and what re-solving made of it.

    Attributes:
        number: From 1.
        value: The goal at the weights that the follower reached.
        predicted: The goal there by the linearisation.
        size: Of the perturbation, in the budget's norm.
        stride: Share of the radius that the round was allowed to go.
        room: First-order change for the goal's sake by a move of the whole radius, at the last step.
        is_kept: Whether the re-solved value confirmed enough of the predicted rise.
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
    """The state between rounds.

    Attributes:
        base: Where the next linearisation is made.
        stride: Share of the radius that the next round may go.
        course: The rounds so far.
        reason: Name of the reason to stop; empty while there is none.
    """

    base: BasePoint
    stride: float
    course: tuple[Round, ...]
    reason: str


@dataclass(frozen=True)
class PoisoningFile:
    """The checkpoint of one search, or none.

    Attributes:
        path: ``None`` keeps nothing.
        identity: Everything that the course depends on, in the types of JSON.
        value: The goal at the trained weights: it tells what no setting shows, such as changed code.
        device: Where the state is put when it is read.
    """

    path: Path | None
    identity: Mapping[str, Any]
    value: float
    device: torch.device

    @classmethod
    def of(
        cls, path: Path | str | None, problem: Problem, parts: Mapping[str, object], value: float
    ) -> "PoisoningFile":
        """The file for a search.

        Args:
            path: Where; ``None`` for nowhere.
            problem: The trained point.
            parts: What else the course depends on: settings as values, tensors.
            value: The goal at the trained weights.

        Raises:
            ValueError: If the folder does not exist.

        Cost: one read of the data, if a path is given.
        """
        if path is None:
            return cls(None, {}, value, problem.weights().device)
        if not has_folder(Path(path).parent):
            raise bad_value(
                "checkpoint",
                expected="a file in a folder that exists",
                got=str(path),
                cure="Make the folder.",
            )
        identity = {
            **fingerprint(problem.risk()),
            "weights": digest([problem.weights()]),
            **{name: settings_of(part) for name, part in parts.items()},
        }
        return cls(Path(path), json.loads(json.dumps(identity)), value, problem.weights().device)

    def read(self) -> Progress | None:
        """The state that an earlier search with the same settings left; ``None`` if there is none.

        Raises:
            ValueError: If the file is something else, is damaged, or belongs to another search.
        """
        data = None if self.path is None else read_file(self.path)
        if self.path is None or data is None:
            return None
        stored, tensors = _opened(self.path, data)
        unlike = differences(stored["identity"], dict(self.identity))
        if not unlike and not math.isclose(stored["value"], self.value, rel_tol=1e-6, abs_tol=1e-12):
            unlike = [f"the goal at the trained weights ({stored['value']:.6g}, now {self.value:.6g})"]
        if unlike:
            raise bad_value(
                "checkpoint",
                expected="of this problem, goal, budget and settings",
                got=f"{self.path}, which differs in {', '.join(unlike)}",
                cure="Name another file, or delete this one.",
            )
        course = tuple(Round(**one) for one in stored["course"])
        base = BasePoint(tensors["dx"].to(self.device), tensors["weights"].to(self.device))
        return Progress(base, stored["stride"], course, stored["reason"])

    def write(self, state: Progress) -> None:
        """Writes the state; a reader sees the earlier file or the new one.

        Args:
            state: Between rounds.
        """
        if self.path is None:
            return
        tensors = {"dx": state.base.dx, "weights": state.base.weights}
        plain = {name: part.detach().cpu().clone().contiguous() for name, part in tensors.items()}
        content = {
            "format": _FORMAT,
            "identity": self.identity,
            "value": self.value,
            "stride": state.stride,
            "course": [asdict(one) for one in state.course],
            "reason": state.reason,
        }
        # One entry, because the order of several is not the same every time.
        replace_file(self.path, save(plain, {_ENTRY: json.dumps(content)}))


def _opened(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the file holds, once it is one of ours."""
    try:
        content = json.loads(safetensors_text(data).get(_ENTRY, "null"))
        if isinstance(content, dict) and content.get("format") == _FORMAT:
            return content, load(data)
    except (SafetensorError, ValueError):
        pass
    raise bad_value(
        "checkpoint",
        expected="a new file, or one of an earlier search",
        got=f"{path}, which is neither or is damaged",
        cure="Name another file; this one is left as it is.",
    )


def settings_of(value: object) -> Any:
    """A value's settings in the types of JSON: plain fields as they are, tensors by digest, the rest by type.

    Args:
        value: A number, text, tensor, mapping or dataclass.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        return digest([value])
    if isinstance(value, Mapping):
        return {str(name): settings_of(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [settings_of(part) for part in value]
    kind = type(value).__qualname__
    if is_dataclass(value):
        return [kind, {field.name: settings_of(getattr(value, field.name)) for field in fields(value)}]
    return getattr(value, "__qualname__", kind)
