"""A step of the path from kink to kink: the slope is smooth between kinks and jumps across them.

Where the slopes on both sides push towards a kink, the path goes along it: the shortest change that keeps the
outputs then also keeps the activation at its kink.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.courses import State
from solset.paths._fitted import Factor, KeptOutputs
from solset.paths._nearby import ActivationSwitches, Nearby, Place
from solset.paths._stepper import KINK_ERROR, PathOptions

_AFTER = 1.1  # share of a piece's span up to which its kink is looked for: the curve may meet it late


@dataclass(frozen=True)
class Crossed:
    """The end of a step across kinks."""

    place: Place  # Point reached, with its slope and the activations held at their kinks
    error: float  # Estimated error along the set, in weight units
    steps: int  # Largest number of iterations that a slope took


@dataclass(frozen=True)
class _Piece:
    """``w(t) = w + t s + t² b`` from one kink to the next, or to the end of the step."""

    start: Place  # Place where the piece begins
    values: Tensor  # Distance of each activation from its kink there
    ahead: Place  # Place near the end of the piece, with its slope
    bend: Tensor  # Coefficient ``b`` of the curve, ``(p,)``
    error: float  # Estimated error, in weight units for a unit of ``τ``
    span: float  # Length ``Δτ`` after which the piece should end

    def at(self, t: float) -> Tensor:
        """The weights after ``Δτ = t``, ``(p,)``."""
        return self.start.weights + t * self.start.slope + t**2 * self.bend


class Crossing:
    """Steps from kink to kink by Heun's method.

    Args:
        switches: Activations whose kinks are crossed.
        nearby: Source of the slopes.
        rate: Error in weight units that a unit of ``τ`` may make.
        accuracy: Error of a slope relative to its length.
        max_growth: Largest factor between a piece and the one before it.
    """

    def __init__(
        self,
        switches: ActivationSwitches,
        nearby: Nearby,
        rate: float,
        accuracy: float,
        max_growth: float,
    ) -> None:
        self._switches, self._nearby, self._rate, self._max_growth = switches, nearby, rate, max_growth
        self._smallest = 0.2 * accuracy  # closer kinks change the end by less than a slope's error
        self._bend: Tensor | None = None

    def cross(self, start: Place, step: float) -> Crossed | None:
        """The end of a step of length ``Δτ``, or ``None`` where a slope or a kink is not found.

        Cost: two slopes and some forward passes for every kink.
        """
        here, end = self._nearby.slope(start.tau, start.weights, start, start.held), start.tau + step
        # A kink is passed by this much, so that rounding does not blur the side.
        self._beyond = torch.finfo(start.weights.dtype).eps ** 0.5
        # A smooth piece is not divided below a thousandth of the step.
        self._reach, self._shortest = step, max(1e-3 * step, self._beyond)
        error, most, crowded = 0.0, 0, 0
        for _ in range(3000):  # pieces; a step that needs more is better taken shorter
            if here is None:
                return None
            most, rest = max(most, here.steps), end - here.tau
            if rest <= self._beyond:
                return Crossed(here, error, most)
            if crowded >= 6:  # six short pieces in a row are a crowd
                here, wrong, span = self._through_crowd(here, min(self._smallest, rest))
            else:
                here, wrong, span = self._next(here, rest)
            error, crowded = error + wrong, crowded + 1 if span < self._smallest else 0
        return None

    def _through_crowd(self, here: Place, span: float) -> tuple[Place | None, float, float]:
        """As :meth:`_next`, without a look for each of the kinks, whose places matter too little."""
        weights = here.weights + span * here.slope
        there = self._nearby.slope(here.tau + span, weights, here, here.held)
        return there, 0.0 if there is None else span * float((there.slope - here.slope).norm()), span

    def _next(self, here: Place, rest: float) -> tuple[Place | None, float, float]:
        """The place just beyond the next kink or at the end of a smooth piece, its error and its length."""
        values = self._switches.values(here.tau, here.weights)
        free = self._released(here, values)
        piece = None if free is None else self._piece(free, values, rest)
        if piece is None:
            return None, 0.0, 0.0
        span, changed = self._end_of(piece, rest)
        there = replace(piece.ahead, tau=here.tau + span, weights=piece.at(span))
        return self._entered(there, changed) if changed else there, span * piece.error, span

    def _released(self, here: Place, values: Tensor) -> Place | None:
        """The same place without the held activations that one of their sides now pulls off their kinks."""
        grips = self._nearby.grips(here, values)
        if not grips or min(grips) > 0:
            return here
        loose = here.held[grips.index(min(grips))]
        rest = tuple(switch for switch in here.held if switch != loose)
        free = self._nearby.slope(here.tau, here.weights, here, rest)
        return None if free is None else self._released(free, values)

    def _share_until_loose(self, here: Place, values: Tensor, ahead: Place) -> float | None:
        """The share of the way at which the first held activation is no longer pushed to its kink."""
        if not here.held:
            return None
        there = self._switches.values(ahead.tau, ahead.weights)
        both = zip(self._nearby.grips(here, values), self._nearby.grips(ahead, there), strict=True)
        # A pull away of less than a twentieth of the push before is within the error of the slopes.
        return min((now / (now - then) for now, then in both if then < -0.05 * now), default=None)

    def _entered(self, there: Place, changed: tuple[int, ...]) -> Place | None:
        """The slope beyond a kink, or the slope along the kink if the slope beyond pushes back."""
        here = self._nearby.slope(there.tau, there.weights, there, there.held)
        if here is None:
            return None
        rates = self._nearby.switch_rates(here, changed)
        back = rates * self._switches.values(here.tau, here.weights)[list(changed)] < 0
        stuck = tuple(switch for switch, turns in zip(changed, back.tolist(), strict=True) if turns)
        return self._nearby.slope(here.tau, here.weights, here, here.held + stuck) if stuck else here

    def _piece(self, here: Place, values: Tensor, rest: float) -> _Piece | None:
        """The longest piece without a kink whose two slopes differ by no more than the error allows."""
        span = min(self._reach, rest)
        straight = self._switches.values(here.tau + span, here.weights + span * here.slope)
        first = _first_change(values, straight, here.held)
        # The slope before a kink is taken at nine tenths of the way, safely on this side of it.
        lead, is_kinked = (span, False) if first is None else (max(0.9 * first * span, self._beyond), True)
        while True:
            ahead = self._nearby.slope(here.tau + lead, here.weights + lead * here.slope, here, here.held)
            if ahead is None:
                return None
            share = self._share_until_loose(here, values, ahead) if lead > self._shortest else None
            if share is not None:
                lead, is_kinked = max(share * lead, 0.9 * self._shortest), False
                continue
            bend = (ahead.slope - here.slope) / (2 * lead)
            # A tenth of the difference of Heun's and Euler's formula stands for the error of Heun's.
            error = 0.1 * lead * self._change_of(bend)
            longer = 0.9 * (self._rate / error) ** 0.5 if error > 0 else self._max_growth
            if error <= self._rate or lead <= self._shortest:
                self._bend = bend if lead > self._shortest else self._bend
                self._reach = self._reach if is_kinked else lead * min(max(longer, 1.0), self._max_growth)
                return _Piece(here, values, ahead, bend, error, lead / 0.9 if is_kinked else lead / _AFTER)
            lead, is_kinked = max(min(max(longer, 0.1), 0.7) * lead, 0.9 * self._shortest), False

    def _change_of(self, bend: Tensor) -> float:
        """The distance of a bend from that of the piece before, or from zero where that is smaller."""
        size = float(bend.norm())
        return size if self._bend is None else min(size, float((bend - self._bend).norm()))

    def _end_of(self, piece: _Piece, rest: float) -> tuple[float, tuple[int, ...]]:
        """``Δτ`` to just beyond the first kink on a piece, and what switches there; else to its end."""
        held, low, high = piece.start.held, 0.0, min(_AFTER * piece.span, rest)
        before, after = piece.values, self._along(piece, high)
        for _ in range(30):  # forward passes; bisection alone would find a kink to 1e-9 of the piece
            first = _first_change(before, after, held)
            if first is None:
                return high, ()
            place = low + first * (high - low)
            if high - place <= 2 * self._beyond:
                break
            middle = self._along(piece, place + self._beyond)
            if _first_change(before, middle, held) is None:
                low, before = place + self._beyond, middle
            else:
                high, after = place + self._beyond, middle
        changed = ((piece.values > 0) != (after > 0)).nonzero()[:, 0].tolist()
        return high, tuple(switch for switch in changed if switch not in held)

    def _along(self, piece: _Piece, t: float) -> Tensor:
        return self._switches.values(piece.start.tau + t, piece.at(t))


def _first_change(before: Tensor, after: Tensor, held: tuple[int, ...]) -> float | None:
    """The share of the way at which the first entry changes its sign, if all are linear; ``None`` if none."""
    changed = (before > 0) != (after > 0)
    changed[list(held)] = False
    if not bool(changed.any()):
        return None
    return float((before[changed] / (before[changed] - after[changed])).min())


@dataclass(frozen=True)
class ActivationKinks:
    """The kinks of piecewise linear activations, in so far as a path crosses them or stays on them."""

    constraint: KeptOutputs  # Constraint that the path keeps
    switches: ActivationSwitches  # Activations whose kinks are crossed
    max_error: float  # Error along the set, relative to the length of the path
    output_tol: float  # Largest error of an output at the end of a step
    options: PathOptions  # Limits and accuracies of the iterations

    def count(self, state: State, step: float, change: Tensor) -> int:
        """The number of activations that switch over a predicted step. Cost: two forward passes."""
        here = self.switches.values(state.station.place, state.weights)
        there = self.switches.values(state.station.place + step, state.weights + change)
        return int(((here > 0) != (there > 0)).sum())

    def cross(self, state: State, step: float, factor: Factor, rate: float) -> Crossed | None:
        """The end of a step from kink to kink, on the set and on the kinks it holds; ``None`` if not found.

        ``factor`` is a factorisation near the step, ``rate`` the error that a unit of ``τ`` may make.
        """
        options = self.options
        accuracy = KINK_ERROR * self.max_error
        nearby = Nearby(self.constraint, self.switches, factor, accuracy, options.max_iterations)
        crossing = Crossing(self.switches, nearby, rate, accuracy, options.max_growth)
        start = nearby.start(state.station.place, state.weights, state.slopes.now, state.held)
        crossed = crossing.cross(start, step)
        if crossed is None:
            return None
        return replace(crossed, place=nearby.settled(crossed.place, self.output_tol))
