"""A step of the path from kink to kink: between them its slope is smooth, and across them it jumps.

Where the slopes on both sides push towards a kink, the path goes along it: the shortest change that keeps the
outputs is then one that keeps the activation at its kink too.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from solset.paths._fitted import KeptOutputs
from solset.paths._nearby import Nearby, Place

LEAD = 0.9  # of the way to the next kink, where the slope before it is taken
AFTER = 1.1  # of that way, up to where the kink is looked for
SHARE = 0.1  # of the difference of Heun's and Euler's formula that is taken for the error of Heun's
SHORTEST = 1e-3  # of the step: a smooth piece is not divided further
LONGER = 3.0  # times the piece before
LOOSE = 0.05  # of the push to a kink: as much to the other side is as good as none
LOCATING = 30  # forward passes at most to find a kink
MOST_PIECES = 3000
PATIENCE = 6  # pieces in a row that are shorter than is worth following


@dataclass(frozen=True)
class Crossed:
    """The end of a step across kinks.

    Attributes:
        place: With its slope, and the activations held at their kinks.
        error: Estimated, in weight units.
        steps: Of conjugate gradients for a slope, the most.
    """

    place: Place
    error: float
    steps: int


@dataclass(frozen=True)
class _Piece:
    """``w(t) = w + t s + t² b`` from one kink to the next, or to where the step ends.

    Attributes:
        start: Where it begins.
        values: How far each activation is from its kink there.
        ahead: The slope near its end.
        bend: ``b``, ``(p,)``.
        error: Estimated, in weight units for a unit of ``τ``.
        span: ``Δτ`` up to where it should end.
    """

    start: Place
    values: Tensor
    ahead: Place
    bend: Tensor
    error: float
    span: float

    def at(self, t: float) -> Tensor:
        """The weights after ``Δτ = t``, ``(p,)``."""
        return self.start.weights + t * self.start.slope + t**2 * self.bend


class Crossing:
    """Steps from kink to kink by Heun's method.

    Args:
        kept: The constraint.
        nearby: Slopes.
        rate: Error in weight units that a unit of ``τ`` may make.
        smallest: ``Δτ`` between kinks that is worth following, where many are closer.
        beyond: ``Δτ`` by which a kink is passed, so that rounding does not blur the side.
    """

    def __init__(
        self, kept: KeptOutputs, nearby: Nearby, *, rate: float, smallest: float, beyond: float
    ) -> None:
        self._kept, self._nearby = kept, nearby
        self._rate, self._smallest, self._beyond = rate, smallest, beyond
        self._bend: Tensor | None = None

    def cross(self, start: Place, step: float) -> Crossed | None:
        """The end of a step, or nothing where a slope or a kink is not found.

        Args:
            start: Where it starts.
            step: ``Δτ``.

        Cost: two slopes and some forward passes for every kink.
        """
        here, end = self._nearby.slope(start.tau, start.weights, start, start.held), start.tau + step
        self._reach, self._shortest = step, max(SHORTEST * step, self._beyond)
        error, most, crowded = 0.0, 0, 0
        for _ in range(MOST_PIECES):
            if here is None:
                return None
            most, rest = max(most, here.steps), end - here.tau
            if rest <= self._beyond:
                return Crossed(here, error, most)
            if crowded >= PATIENCE:
                here, wrong, span = self._blind(here, min(self._smallest, rest))
            else:
                here, wrong, span = self._next(here, rest)
            error, crowded = error + wrong, crowded + 1 if span < self._smallest else 0
        return None

    def _blind(self, here: Place, span: float) -> tuple[Place | None, float, float]:
        """As :meth:`_next` through a crowd of kinks, whose places matter less than the tolerance."""
        weights = here.weights + span * here.slope
        there = self._nearby.slope(here.tau + span, weights, here, here.held)
        return there, 0.0 if there is None else span * float((there.slope - here.slope).norm()), span

    def _next(self, here: Place, rest: float) -> tuple[Place | None, float, float]:
        """Just beyond the next kink or at the end of a smooth piece, its error and length."""
        values = self._kept.switches(here.tau, here.weights)
        found = self._freed(here, values)
        piece = None if found is None else self._piece(found, values, rest)
        if piece is None:
            return None, 0.0, 0.0
        span, changed = self._end_of(piece, rest)
        there = replace(piece.ahead, tau=here.tau + span, weights=piece.at(span))
        return self._entered(there, changed) if changed else there, span * piece.error, span

    def _freed(self, here: Place, values: Tensor) -> Place | None:
        """The same with the slope that leaves a kink, if that of one of its sides does so now."""
        grips = self._nearby.grips(here, values)
        if not grips or min(grips) > 0:
            return here
        loose = here.held[grips.index(min(grips))]
        rest = tuple(switch for switch in here.held if switch != loose)
        found = self._nearby.slope(here.tau, here.weights, here, rest)
        return None if found is None else self._freed(found, values)

    def _let_go(self, here: Place, values: Tensor, ahead: Place) -> float | None:
        """The share of the way at which the first held activation is no longer pushed to its kink."""
        if not here.held:
            return None
        there = self._kept.switches(ahead.tau, ahead.weights)
        both = zip(self._nearby.grips(here, values), self._nearby.grips(ahead, there), strict=True)
        return min((now / (now - then) for now, then in both if then < -LOOSE * now), default=None)

    def _entered(self, there: Place, changed: tuple[int, ...]) -> Place | None:
        """The slope beyond a kink; along it, if that slope pushes back."""
        here = self._nearby.slope(there.tau, there.weights, there, there.held)
        if here is None:
            return None
        risk = self._kept.risk(here.tau, here.weights)
        rows, rates = self._kept.switch_rows(risk, changed)
        values = self._kept.switches(here.tau, here.weights)[list(changed)]
        back = (rows @ here.slope + rates) * values < 0
        stuck = tuple(switch for switch, turns in zip(changed, back.tolist(), strict=True) if turns)
        if not stuck:
            return here
        return self._nearby.slope(here.tau, here.weights, here, here.held + stuck)

    def _piece(self, here: Place, values: Tensor, rest: float) -> _Piece | None:
        """As long a piece as has no kink on its way, and whose two slopes differ by no more than they may."""
        span = min(self._reach, rest)
        straight = self._kept.switches(here.tau + span, here.weights + span * here.slope)
        first = _first_change(values, straight, here.held)
        lead, is_kinked = (span, False) if first is None else (max(LEAD * first * span, self._beyond), True)
        while True:
            ahead = self._nearby.slope(here.tau + lead, here.weights + lead * here.slope, here, here.held)
            if ahead is None:
                return None
            freed = self._let_go(here, values, ahead) if lead > self._shortest else None
            if freed is not None:
                lead, is_kinked = max(freed * lead, 0.9 * self._shortest), False
                continue
            bend = (ahead.slope - here.slope) / (2 * lead)
            error = SHARE * lead * self._doubt(bend)
            longer = 0.9 * (self._rate / error) ** 0.5 if error > 0 else LONGER
            if error <= self._rate or lead <= self._shortest:
                self._bend = bend if lead > self._shortest else self._bend
                self._reach = self._reach if is_kinked else lead * min(max(longer, 1.0), LONGER)
                return _Piece(here, values, ahead, bend, error, lead / LEAD if is_kinked else lead / AFTER)
            lead, is_kinked = max(min(max(longer, 0.1), 0.7) * lead, 0.9 * self._shortest), False

    def _doubt(self, bend: Tensor) -> float:
        """How far the bend is from that of the piece before, or from none where that is nearer."""
        size = float(bend.norm())
        return size if self._bend is None else min(size, float((bend - self._bend).norm()))

    def _end_of(self, piece: _Piece, rest: float) -> tuple[float, tuple[int, ...]]:
        """``Δτ`` to just beyond the first kink on the curve of a piece, and what switches there.

        To the end of the piece, if nothing does.
        """
        held, low, high = piece.start.held, 0.0, min(AFTER * piece.span, rest)
        before, after = piece.values, self._along(piece, high)
        for _ in range(LOCATING):
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
        return self._kept.switches(piece.start.tau + t, piece.at(t))


def _first_change(before: Tensor, after: Tensor, held: tuple[int, ...]) -> float | None:
    """The share of the way at which the first entry changes its sign, as of a straight line; or nothing."""
    changed = (before > 0) != (after > 0)
    changed[list(held)] = False
    if not bool(changed.any()):
        return None
    return float((before[changed] / (before[changed] - after[changed])).min())
