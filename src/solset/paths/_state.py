"""Where a path stands, and what an attempt to go on returns."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from solset.paths._course import Station, StopReason
from solset.paths._multistep import Slopes


@dataclass(frozen=True)
class State:
    """Everything that the next step of a path depends on.

    Attributes:
        weights: Weights at the present station, ``(p,)``.
        station: Numbers at the present station.
        step: Length ``Δτ`` of the step to try next.
        slopes: Slopes ``dw/dτ`` at this station and at the one before.
        reference: Smallest singular value or eigenvalue at the first station, and length of the slope there.
        pairs: Unit vectors and their products with the Hessian, ``(2, p, k)``; ``None`` without a Hessian.
        held: Indices of the activations that the path holds at their kinks.
    """

    weights: Tensor
    station: Station
    step: float
    slopes: Slopes
    reference: tuple[float, float]
    pairs: Tensor | None = None
    held: tuple[int, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Why a step was not taken.

    Attributes:
        reason: Reason that the path ends with if no shorter step succeeds.
        scale: Factor by which the step is shortened.
        detail: Explanation in a few words.
        is_final: Whether shorter steps are of no use.
    """

    reason: StopReason
    scale: float
    detail: str
    is_final: bool = False


@runtime_checkable
class Stepper(Protocol):
    """Goes from one station of a path to the next."""

    @property
    def first_step(self) -> float:
        """Length ``Δτ`` of the step to try first."""
        ...

    def start(self) -> State:
        """The state at the trained point."""
        ...

    def attempt(self, state: State, step: float) -> State | Refusal:
        """The state after a step of length ``Δτ``, or why there is none."""
        ...


@dataclass(frozen=True)
class Ending:
    """Why a path ended.

    Attributes:
        reason: Kind of the end.
        message: Sentence that says the same with the place.
    """

    reason: StopReason
    message: str
