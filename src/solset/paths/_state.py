"""Where a path stands, and what an attempt to go on returns."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from solset.paths._course import Station, StopReason
from solset.paths._multistep import Slopes


@dataclass(frozen=True)
class State:
    """All that the next step depends on.

    Attributes:
        weights: ``(p,)``.
        station: What was found there.
        step: ``Δτ`` to try next.
        slopes: ``dw/dτ`` here and before.
        reference: Of the first point: its smallest singular value or eigenvalue, and the length of its slope.
        pairs: Vectors and their products with the Hessian, ``(2, p, k)``, where there is one.
        held: Activations that the path keeps at their kinks.
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
        reason: What the path ends with, if no shorter step does better.
        scale: By which the step is shortened.
        detail: In a few words.
        is_final: Whether shorter steps are of no use.
    """

    reason: StopReason
    scale: float
    detail: str
    is_final: bool = False


@runtime_checkable
class Stepper(Protocol):
    """Goes from one point of a path to the next."""

    @property
    def first_step(self) -> float:
        """``Δτ`` that it tries first."""
        ...

    def start(self) -> State:
        """The trained point."""
        ...

    def attempt(self, state: State, step: float) -> State | Refusal:
        """The point a step further, or why there is none.

        Args:
            state: Where the path stands.
            step: ``Δτ``.
        """
        ...


@dataclass(frozen=True)
class Ending:
    """Why a path ended.

    Attributes:
        reason: Of which kind.
        message: In a sentence, with the place.
    """

    reason: StopReason
    message: str
