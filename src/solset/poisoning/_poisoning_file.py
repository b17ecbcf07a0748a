"""An unfinished perturbation in one safetensors file that is whole or not there."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from torch import Tensor

from solset.poisoning._followers import BasePoint
from solset.problem import Problem
from solset.risk import digest, fingerprint
from solset.storage._sealed import SealedFile, check_place, other_settings

_KIND = "solset poisoning 2"
_PLAIN = (bool, int, float, str, type(None))


class Reason(StrEnum):
    """Why an ascent stopped."""

    STATIONARY = "no feasible direction raises the goal any more"
    NO_ROOM = "the budget leaves no room"
    MAX_ROUNDS = "as many rounds as allowed"
    NO_PROGRESS = "the linear model no longer predicts a rise that re-solving confirms"
    NOT_FINITE = "the goal or its gradient is not finite further on"
    LEFT_FIT = "further on the training set is no longer fitted"


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
        like: Perturbation and weights by name, for sizes, dtype and device.
    """

    path: Path | None
    identity: Mapping[str, Any]
    value: float
    like: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        path: Path | str | None,
        problem: Problem,
        parts: Mapping[str, object],
        begin: Tensor,
        value: float,
    ) -> "PoisoningFile":
        """The file for a search.

        Args:
            path: Where; ``None`` for nowhere.
            problem: The trained point.
            parts: What else the course depends on: settings as values, tensors.
            begin: The perturbation to begin with.
            value: The goal at the trained weights.

        Raises:
            ValueError: If the folder does not exist.

        Cost: one read of the data, if a path is given.
        """
        if path is None:
            return cls(None, {}, value, {})
        check_place(Path(path))
        identity = {
            **fingerprint(problem.risk()),
            "weights": digest([problem.weights()]),
            **{name: settings_of(part) for name, part in {**parts, "start": begin}.items()},
        }
        return cls(Path(path), identity, value, {"dx": begin, "weights": problem.weights()})

    def read(self) -> Progress | None:
        """The state that an earlier search with the same settings left; ``None`` if there is none.

        Raises:
            ValueError: If the file is something else, or belongs to another search; says what differs.
        """
        found = self._sealed().read(self._restored)
        if self.path is None or found is None:
            return None
        value, progress = found
        if not math.isclose(value, self.value, rel_tol=1e-6, abs_tol=1e-12):
            unlike = f"the goal at the trained weights ({value:.6g}, now {self.value:.6g})"
            raise other_settings(self.path, [unlike])
        return progress

    def write(self, state: Progress) -> None:
        """Writes the state; a reader sees the earlier file or the new one.

        Args:
            state: Between rounds.
        """
        numbers = {
            "value": self.value,
            "stride": state.stride,
            "course": [asdict(one) for one in state.course],
            "reason": state.reason,
        }
        self._sealed().write(numbers, {"dx": state.base.dx, "weights": state.base.weights})

    def _sealed(self) -> SealedFile:
        return SealedFile(self.path, _KIND, self.identity)

    def _restored(self, numbers: Any, tensors: dict[str, Tensor]) -> tuple[float, Progress]:
        base = BasePoint(*(_like(tensors[name], like) for name, like in self.like.items()))
        course = tuple(Round(**one) for one in numbers["course"])
        reason = str(numbers["reason"])
        if reason and reason not in Reason.__members__:
            raise ValueError(f"no reason '{reason}'")
        progress = Progress(base, float(numbers["stride"]), course, reason)
        return float(numbers["value"]), progress


def _like(found: Tensor, like: Tensor) -> Tensor:
    """On the device, once shape and dtype are what they must be."""
    if found.shape != like.shape or found.dtype != like.dtype:
        raise ValueError(f"{found.dtype} of shape {tuple(found.shape)} for that of {tuple(like.shape)}")
    return found.to(like.device)


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
