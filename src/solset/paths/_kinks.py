"""Kinks of the activations on the way of a path, behind one interface."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from solset.courses import State
from solset.paths._crossing import Crossed, Crossing
from solset.paths._fitted import Factor, KeptOutputs
from solset.paths._nearby import Nearby
from solset.paths._options import PathOptions
from solset.paths._switches import ActivationSwitches


@runtime_checkable
class Kinks(Protocol):
    """What a stepper asks about kinks; every network has a value of this kind."""

    def count(self, state: State, step: float, change: Tensor) -> int | None:
        """The number of activations that switch over a predicted step; ``None`` where they are not seen."""
        ...

    def cross(self, state: State, step: float, factor: Factor, rate: float) -> Crossed | None:
        """The end of a step from kink to kink, with the activations it holds; ``None`` if it is not found.

        ``factor`` is a factorisation near the step, ``rate`` the error that a unit of ``τ`` may make.
        """
        ...


class UnseenKinks:
    """The kinks of a smooth network, and of one with too many activations to watch: none are seen."""

    def count(self, state: State, step: float, change: Tensor) -> int | None:  # noqa: ARG002
        """``None``."""
        return None

    def cross(self, state: State, step: float, factor: Factor, rate: float) -> Crossed | None:  # noqa: ARG002
        """``None``."""
        return None


class ActivationKinks:
    """The kinks of piecewise linear activations.

    Args:
        constraint: Constraint that the path keeps.
        switches: Activations whose kinks are crossed.
        max_error: Error along the set, relative to the length of the path.
        output_tol: Largest error of an output at the end of a step.
        options: Limits and accuracies of the iterations.
    """

    def __init__(
        self,
        constraint: KeptOutputs,
        switches: ActivationSwitches,
        *,
        max_error: float,
        output_tol: float,
        options: PathOptions,
    ) -> None:
        self._constraint, self._switches, self._options = constraint, switches, options
        self._max_error, self._output_tol = max_error, output_tol

    def count(self, state: State, step: float, change: Tensor) -> int | None:
        """The number of activations that switch over a predicted step. Cost: two forward passes."""
        here = self._switches.values(state.station.place, state.weights)
        there = self._switches.values(state.station.place + step, state.weights + change)
        return int(((here > 0) != (there > 0)).sum())

    def cross(self, state: State, step: float, factor: Factor, rate: float) -> Crossed | None:
        """The end of a step from kink to kink, on the set and on the kinks it holds."""
        accuracy = self._options.kink_error * self._max_error
        nearby = Nearby(
            self._constraint,
            self._switches,
            factor,
            accuracy=accuracy,
            max_iterations=self._options.max_iterations,
        )
        crossing = Crossing(
            self._switches,
            nearby,
            rate=rate,
            smallest=0.2 * accuracy,  # closer kinks than this change the end by less than a slope's error
            beyond=torch.finfo(state.weights.dtype).eps ** 0.5,
            max_growth=self._options.max_growth,
        )
        start = nearby.start(state.station.place, state.weights, state.slopes.now, state.held)
        crossed = crossing.cross(start, step)
        if crossed is None:
            return None
        return Crossed(nearby.settled(crossed.place, self._output_tol), crossed.error, crossed.steps)


def kinks_of(constraint: KeptOutputs, *, max_error: float, output_tol: float, options: PathOptions) -> Kinks:
    """The kinks of a network, as far as they can be watched. Cost: a forward pass of one point."""
    switches = ActivationSwitches(constraint)
    if not 0 < switches.count <= options.max_activations:
        return UnseenKinks()
    return ActivationKinks(constraint, switches, max_error=max_error, output_tol=output_tol, options=options)
