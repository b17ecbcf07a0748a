"""Steps along the set of weights that keep the training outputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.derivatives import GraphicalDerivative
from solset.paths._course import Station, StopReason
from solset.paths._crossing import Crossing
from solset.paths._fitted import Factor, KeptOutputs
from solset.paths._multistep import Correction, Slopes
from solset.paths._nearby import Nearby, Place
from solset.paths._state import Refusal, State
from solset.risk import fit_at, losses_at

FLOOR = 0.1  # a step shorter than this share of the path may carry as much error as one of this length
SHARE = 0.25  # of the difference of corrector and predictor that is taken for the corrector's error
SLOW = 0.5  # contraction of chord steps from which the path does not take longer ones
STUCK = 0.9  # contraction from which a new factorisation pays
MOST_VALUES = 10_000_000  # of activations, that are looked at one by one
MOST_KINKS = 1000  # of a step: beyond it they are taken for a bend
ACCURACY = 0.1  # of the tolerance, error of a slope between kinks relative to its length
CROWD = 0.02  # of the tolerance, length of path between kinks below which their places do not matter
EASY = 15.0  # iterations for a slope, from which steps across kinks do not become longer
SHORT = 0.02  # of the path: shorter steps across kinks make no slope easier
KINKED = 0.5  # of the error allowed, from which a switching activation is looked for
LEAST = 0.03  # of a switch's effect that its place is not trusted for: on a smooth network there is none
STEEP = 5.0  # times the slope at the start, with as small a singular value, that a fold is told by
PULL = 0.1  # of slope times singular value at the start: that product tends to zero where rows only meet
LONGEST = 3.0  # times the step before
FIRST = 0.2  # of the path, the first step at most
CORRECTIONS, REFRESHES = 40, 2


@dataclass(frozen=True)
class _Projected:
    """Where the corrector ended.

    Attributes:
        weights: On the set, as far as it came.
        outputs: There, ``(n, c)``.
        factor: The latest.
        residual: Largest error of an output in use.
        contraction: Of the slowest correction; 0 if there was one or none.
    """

    weights: Tensor
    outputs: Tensor
    factor: Factor
    residual: float
    contraction: float


@dataclass(frozen=True)
class _Move:
    """A step along the set.

    Attributes:
        change: Of the weights, ``(p,)``.
        error: Estimated, in weight units.
        growth: By what the next step may be longer.
        end: With its slope, where it was found from kink to kink.
    """

    change: Tensor
    error: float
    growth: float
    end: Place | None = None


class FittedSteps:
    """Adams predictor and corrector along ``w' = -J⁺ J_x Δx``, then Gauss–Newton steps onto the set.

    Args:
        kept: The constraint.
        derivative: At the trained point.
        tol: Error along the set, relative to the length of the path.
        output_tol: Largest error of an output at the end.
        fit_limit: Mean norm of the loss's gradient in the outputs, up to which the set counts as fitted.
    """

    def __init__(
        self,
        kept: KeptOutputs,
        derivative: GraphicalDerivative,
        *,
        tol: float,
        output_tol: float,
        fit_limit: float,
    ) -> None:
        self._kept, self._derivative = kept, derivative
        self._tol, self._output_tol, self._fit_limit = tol, output_tol, fit_limit
        self._sees_kinks = 0 < kept.switch_count <= MOST_VALUES

    @property
    def first_step(self) -> float:
        """A share of the perturbation that the tolerance allows."""
        return min(FIRST, self._tol**0.5)

    def start(self) -> State:
        """The trained point, with the slope there: the shortest element of the graphical derivative."""
        factor, risk = self._kept.first(self._derivative), self._kept.risk(0.0)
        losses = losses_at(risk, self._kept.target)
        station = Station(
            place=0.0,
            moved_loss=float(losses[self._kept.points].mean()),
            all_loss=float(losses.mean()),
            residual=0.0,
            length=0.0,
            smallest=factor.smallest,
            rows=factor.count,
            error=0.0,
            gradients=self._kept.meter.gradients,
        )
        reference = (factor.smallest, float(factor.slope.norm()))
        return State(risk.weights, station, self.first_step, Slopes(factor.slope), reference)

    def attempt(self, state: State, step: float) -> State | Refusal:
        """One step.

        Args:
            state: Where the path stands.
            step: ``Δτ``.

        Cost: one factorisation, and a forward pass for each correction.
        """
        place = state.station.place + step
        guess = state.slopes.predict(step)
        factor = self._kept.factor(place, state.weights + guess)
        refusal = _unusable(factor)
        if refusal is not None:
            return refusal
        move, allowed = self._move(state, step, factor, guess), self._allowed(state, step)
        if isinstance(move, Refusal):
            return move
        if move.error > allowed:
            detail = f"the slope changes by {float((factor.slope - state.slopes.now).norm()):.3g}"
            return Refusal(_cause(state, factor, StopReason.KINK), min(max(move.growth, 0.2), 0.7), detail)
        settle = None if place >= 1.0 else 0.1 * allowed
        found = self._project(state, factor, place, state.weights + move.change, settle)
        if isinstance(found, Refusal):
            return found
        fit = fit_at(self._kept.risk(place), found.outputs)
        if not fit <= self._fit_limit:
            detail = f"the loss pulls at the outputs with {fit:.3g}, more than {self._fit_limit:.3g}"
            return Refusal(StopReason.UNFITTED, 0.5, detail)
        return self._accepted(state, step, found, move)

    def _move(self, state: State, step: float, factor: Factor, guess: Tensor) -> _Move | Refusal:
        """The change over a step, by formulas for a smooth path where that is good enough.

        Args:
            state: Where the step starts.
            step: ``Δτ``.
            factor: At the predicted point.
            guess: The change predicted, ``(p,)``.
        """
        if state.held:
            return self._crossed(state, step, factor)
        corrected, allowed = state.slopes.correct(step, factor.slope), self._allowed(state, step)
        error, kinks = SHARE * corrected.difference, self._kinks(state, step, guess)
        if kinks is None and error > KINKED * allowed:
            switched = self._across_a_kink(state, step, factor)
            if switched.difference < error:
                corrected, error = switched, switched.difference
        elif kinks is not None and 0 < kinks <= MOST_KINKS:
            # All of the difference may be one jump of the slope at the worst place.
            error = 0.5 * step * float((factor.slope - state.slopes.now).norm())
            if error > step * self._rate(state):
                return self._crossed(state, step, factor)
        growth = 0.9 * (allowed / error) ** (1 / corrected.order) if error > 0 else LONGEST
        return _Move(corrected.change, error, growth)

    def _kinks(self, state: State, step: float, guess: Tensor) -> int | None:
        """How many activations switch over a predicted step; ``None`` where they are not seen."""
        if not self._sees_kinks:
            return None
        here = self._kept.switches(state.station.place, state.weights)
        there = self._kept.switches(state.station.place + step, state.weights + guess)
        return int(((here > 0) != (there > 0)).sum())

    def _crossed(self, state: State, step: float, factor: Factor) -> _Move | Refusal:
        """The change over a step from kink to kink."""
        rate = self._rate(state)
        nearby = Nearby(self._kept, factor, ACCURACY * self._tol)
        beyond = torch.finfo(state.weights.dtype).eps ** 0.5
        crossing = Crossing(self._kept, nearby, rate=rate, smallest=CROWD * self._tol, beyond=beyond)
        start = nearby.known(state.station.place, state.weights, state.slopes.now, state.held)
        crossed = crossing.cross(start, step)
        if crossed is None:
            detail = "the kinks on the way, or slopes between them, are not found"
            return Refusal(_cause(state, factor, StopReason.KINK), 0.5, detail)
        growth = EASY / crossed.steps if crossed.steps else LONGEST
        growth = max(growth, min(1.0, SHORT / step))
        end = nearby.settled(crossed.place, self._output_tol)
        return _Move(end.weights - state.weights, crossed.error, growth, end)

    def _across_a_kink(self, state: State, step: float, factor: Factor) -> Correction:
        """The change over a step in which the slope switches at once, at a place that the outputs tell.

        Along the chord of Euler's step the outputs keep their values to first order until the switch, and
        then change at the rate ``J s + J_x Δx`` of the rows beyond it: what they have changed at its end
        tells how long ago that was. The difference is the part of it that one switch does not explain.

        Args:
            state: Where the step starts.
            step: ``Δτ``.
            factor: At the predicted point.

        Cost: a forward pass.
        """
        now, place = state.slopes.now, state.station.place + step
        outputs = self._kept.outputs(self._kept.risk(place, state.weights + step * now))
        changed = factor.rows_of(outputs - self._kept.target)
        beyond = step * (factor.prepared.operator @ now + factor.answer)
        square = float(beyond @ beyond)
        since = min(max(float(changed @ beyond) / square, 0.0), 1.0) if square > 0 else 0.5
        left = float((changed - since * beyond).norm()) / square**0.5 if square > 0 else 0.0
        jump = step * (factor.slope - now)
        return Correction(step * now + since * jump, max(left, LEAST) * float(jump.norm()), 2)

    def _rate(self, state: State) -> float:
        """Error along the set, in weight units, that a unit of ``τ`` may make."""
        ahead = (1.0 - state.station.place) * float(state.slopes.now.norm())
        return self._tol * (state.station.length + ahead)

    def _allowed(self, state: State, step: float) -> float:
        """Error along the set that this step may make, in weight units."""
        return max(step, FLOOR) * self._rate(state)

    def _project(
        self, state: State, factor: Factor, place: float, weights: Tensor, settle: float | None
    ) -> _Projected | Refusal:
        """Chord steps ``w ← w - J⁺ (f - f̄)``; a new factorisation where they contract too slowly.

        Args:
            state: Where the step starts.
            factor: At the predicted point.
            place: ``τ``.
            weights: Where to start.
            settle: Length of a correction after which it is near enough; ``None`` goes on to ``output_tol``.
        """
        outputs = self._kept.outputs(self._kept.risk(place, weights))
        error = factor.rows_of(outputs - self._kept.target)
        slowest, refreshes = 0.0, 0
        for _ in range(CORRECTIONS):
            residual = float(error.abs().max())
            if not residual < float("inf"):
                return Refusal(StopReason.NONFINITE, 0.3, "the outputs are not finite")
            if residual <= self._output_tol:
                return _Projected(weights, outputs, factor, residual, slowest)
            correction = factor.pull(outputs - self._kept.target)
            weights, before = weights - correction, float(error.norm())
            outputs = self._kept.outputs(self._kept.risk(place, weights))
            error = factor.rows_of(outputs - self._kept.target)
            contraction = float(error.norm()) / before
            slowest = max(slowest, contraction)
            # What all further corrections would add up to, if they went on contracting like this one.
            left = float(correction.norm()) * contraction / max(1.0 - contraction, 1e-9)
            if settle is not None and left <= settle:
                return _Projected(weights, outputs, factor, float(error.abs().max()), slowest)
            if contraction > STUCK and float(error.abs().max()) > self._output_tol:
                if refreshes == REFRESHES:
                    break
                factor, refreshes = self._kept.factor(place, weights), refreshes + 1
                error = factor.rows_of(outputs - self._kept.target)
                refusal = _unusable(factor)
                if refusal is not None:
                    return refusal
        detail = f"corrections leave an output error of {float(error.abs().max()):.3g}"
        return Refusal(_cause(state, factor, StopReason.SMALL_STEP), 0.5, detail)

    def _accepted(self, state: State, step: float, found: _Projected, move: _Move) -> State:
        risk = self._kept.risk(state.station.place + step)
        losses, factor = losses_at(risk, found.outputs), found.factor
        station = Station(
            place=min(state.station.place + step, 1.0),
            moved_loss=float(losses[self._kept.points].mean()),
            all_loss=float(losses.mean()),
            residual=found.residual,
            length=state.station.length + float((found.weights - state.weights).norm()),
            smallest=factor.smallest,
            rows=factor.count,
            error=move.error,
            gradients=self._kept.meter.gradients,
            held=0 if move.end is None else len(move.end.held),
        )
        growth = min(move.growth, 1.0) if found.contraction > SLOW else move.growth
        longer = step * min(max(growth, 0.2), LONGEST)
        if move.end is None:
            ahead = state.slopes.advance(step, factor.slope)
            return State(found.weights, station, longer, ahead, state.reference)
        # Behind kinks the slopes before them tell nothing.
        ahead = Slopes(move.end.slope)
        return State(found.weights, station, longer, ahead, state.reference, held=move.end.held)


def _unusable(factor: Factor) -> Refusal | None:
    """Why a factorisation cannot serve, or nothing."""
    if not bool(torch.isfinite(factor.slope).all()):
        return Refusal(StopReason.NONFINITE, 0.3, "the slope of the path is not finite")
    if not factor.has_full_rank:
        rank = factor.prepared.rank
        found = "an unknown rank, not the full one" if rank is None else f"numerical rank {rank}"
        detail = f"the {factor.count} rows of J in use have {found}"
        return Refusal(StopReason.RANK_LOSS, 0.3, detail)
    return None


def _cause(state: State, factor: Factor, otherwise: StopReason) -> StopReason:
    """A fold or rank loss, if a singular value vanishes and the slope seems to grow; else what is given.

    At a fold the slope grows as the inverse of the singular value, at the last station too. Where rows only
    become dependent the path does not turn: steep is what is tried beside it, by an error over that value.
    """
    smallest, length = state.reference
    is_small = min(factor.smallest, state.station.smallest) < smallest / STEEP
    if not is_small or not float(factor.slope.norm()) > STEEP * length:
        return otherwise
    steepness = float(state.slopes.now.norm())
    is_pulled = steepness * state.station.smallest > PULL * length * smallest
    return StopReason.FOLD if steepness > STEEP * length and is_pulled else StopReason.RANK_LOSS
