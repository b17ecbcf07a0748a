"""What goes from one station of a path to the next."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from solset.courses import State, StopReason


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
