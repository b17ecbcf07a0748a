"""Steps along the set of weights that keep the training outputs, or take them to those that fit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.courses import Correction, Meter, Slopes, State, Station, StopReason
from solset.derivatives import GraphicalDerivative
from solset.paths._crossing import ActivationKinks
from solset.paths._fitted import Factor, KeptOutputs
from solset.paths._nearby import ActivationSwitches, Place
from solset.paths._stepper import BETWEEN, CORRECTIONS, FOLD, PathOptions, Refusal
from solset.risk import fit_at, losses_at

BETWEEN_OFF = 0.5  # change of the outputs there, relative to that without a move of the weights


@dataclass(frozen=True)
class _Projected:
    """Where the corrections onto the set ended."""

    weights: Tensor  # Weights on the set, as far as the corrections came, ``(p,)``
    outputs: Tensor  # Outputs at these weights, ``(n, c)``
    factor: Factor  # Latest factorisation of the rows
    residual: float  # Largest error of an output in use
    contraction: float  # Contraction of the slowest correction; 0 after one correction or none


@dataclass(frozen=True)
class _Step:
    """A step along the set."""

    change: Tensor  # Change of the weights, ``(p,)``
    error: float  # Estimated error along the set, in weight units
    growth: float  # Factor by which the next step may be longer
    end: Place | None = None  # Place with its slope, if the step went from kink to kink


class FittedSteps:
    """Adams predictor and corrector along ``w' = -J⁺ J_x Δx``, then Gauss–Newton steps onto the set.

    Args:
        constraint: Constraint that the outputs follow.
        derivative: Graphical derivative at the trained point.
        max_error: Error along the set, relative to the length of the path.
        max_fit: Mean norm of the loss's gradient in the outputs up to which the set counts as fitted.
        options: Lengths of steps, limits and accuracies.
    """

    def __init__(
        self,
        constraint: KeptOutputs,
        derivative: GraphicalDerivative,
        *,
        max_error: float,
        max_fit: float,
        options: PathOptions,
    ) -> None:
        self._constraint, self._derivative, self._options = constraint, derivative, options
        self._max_error, self._max_fit = max_error, max_fit
        ends = torch.stack([constraint.target(0.0), constraint.target(1.0)])
        rounding = max(1e-10, 1000 * torch.finfo(ends.dtype).eps)
        self._output_tol = rounding * max(1.0, float(ends.abs().max()))
        switches = ActivationSwitches(constraint)
        self._kinks: ActivationKinks | None = None  # none of a smooth network, or of too many activations
        if 0 < switches.count <= options.max_activations:
            self._kinks = ActivationKinks(constraint, switches, max_error, self._output_tol, options)

    @property
    def meter(self) -> Meter:
        """The meter that adds up the cost."""
        return self._constraint.meter

    @property
    def first_step(self) -> float:
        """The share of the perturbation that a formula of second order allows for the error."""
        return min(self._options.first_step, self._max_error**0.5)

    def start(self) -> State:
        """The trained point, with the slope there: the shortest element of the graphical derivative."""
        factor, weights = self._constraint.first(self._derivative), self._constraint.risk(0.0).weights
        start = _Projected(weights, self._constraint.target(0.0), factor, residual=0.0, contraction=0.0)
        station = self._station(0.0, start, length=0.0, error=0.0, held=0)
        reference = (factor.smallest, float(factor.slope.norm()))
        return State(weights, station, self.first_step, Slopes(factor.slope), reference)

    def attempt(self, state: State, step: float) -> State | Refusal:
        """One step of length ``Δτ``. Cost: one factorisation, and a forward pass for each correction."""
        place = state.station.place + step
        guess = state.slopes.predict(step)
        factor = self._constraint.factor(place, state.weights + guess)
        refusal = _unusable(factor)
        if refusal is not None:
            return refusal
        along, allowed = self._along(state, step, factor, guess), self._allowed(state, step)
        if isinstance(along, Refusal):
            return along
        if along.error > allowed:
            detail = f"the slope changes by {float((factor.slope - state.slopes.now).norm()):.3g}"
            reason = self._cause(state, factor, StopReason.KINK)
            return Refusal(reason, min(max(along.growth, 0.2), 0.7), detail)
        settle = None if place >= 1.0 else 0.1 * allowed
        end = self._project(state, factor, place, state.weights + along.change, settle)
        if isinstance(end, Refusal):
            return end
        fit = fit_at(*self._constraint.at_fit(place, end.outputs))
        if not fit <= self._max_fit:
            detail = f"the loss pulls at the outputs with {fit:.3g}, more than {self._max_fit:.3g}"
            return Refusal(StopReason.UNFITTED, 0.5, detail)
        if along.end is None and not self._is_between(state, step, end):
            detail = "points between the ends of the step do not keep the outputs"
            return Refusal(self._cause(state, end.factor, StopReason.SMALL_STEP), 0.5, detail)
        return self._accepted(state, step, end, along)

    def _is_between(self, state: State, step: float, end: _Projected) -> bool:
        """Whether the cubic through a step with its slopes keeps the outputs, but for half of their change.

        Corrections may end on another sheet of the set, even one with the same slope; between them outputs
        change. Cost: three forward passes.
        """
        change, factor = end.weights - state.weights, end.factor
        if factor.picked is not None:  # chosen rows leave the other outputs as far off as their choice allows
            return True
        allowed = max(BETWEEN_OFF * step * float(factor.answer.norm()), 10 * self._output_tol)
        for share in BETWEEN:
            weights = state.weights + state.slopes.between(share, step, change, factor.slope)
            between = state.station.place + share * step
            outputs = self._constraint.outputs(self._constraint.risk(between, weights))
            error = factor.rows_of(outputs - self._constraint.target(between))
            if not float(error.norm()) <= allowed:
                return False
        return True

    def _along(self, state: State, step: float, factor: Factor, guess: Tensor) -> _Step | Refusal:
        """The change over a step: by formulas for a smooth path where that is good enough."""
        if state.held:
            return self._crossed(state, step, factor)
        corrected, allowed = state.slopes.correct(step, factor.slope), self._allowed(state, step)
        # A quarter of the difference of corrector and predictor stands for the corrector's error.
        error = 0.25 * corrected.difference
        if self._kinks is None:
            if error > 0.5 * allowed:
                switched = self._across_a_kink(state, step, factor)
                if switched.difference < error:
                    corrected, error = switched, switched.difference
        elif 0 < self._kinks.count(state, step, guess) <= self._options.max_kinks:
            # All of the difference may be one jump of the slope at the worst place.
            error = 0.5 * step * float((factor.slope - state.slopes.now).norm())
            if error > step * self._rate(state):
                return self._crossed(state, step, factor)
        longest = self._options.max_growth
        growth = 0.9 * (allowed / error) ** (1 / corrected.order) if error > 0 else longest
        return _Step(corrected.change, error, growth)

    def _crossed(self, state: State, step: float, factor: Factor) -> _Step | Refusal:
        """The change over a step from kink to kink."""
        rate, kinks = self._rate(state), self._kinks
        crossed = None if kinks is None else kinks.cross(state, step, factor, rate)
        if crossed is None:
            detail = "the kinks on the way, or slopes between them, are not found"
            return Refusal(self._cause(state, factor, StopReason.KINK), 0.5, detail)
        # Fifteen iterations for a slope are as dear as a new factorisation: longer steps would need more of
        # them. Steps below a fiftieth of the path make no slope easier.
        growth = 15.0 / crossed.steps if crossed.steps else self._options.max_growth
        growth = max(growth, min(1.0, 0.02 / step))
        return _Step(crossed.place.weights - state.weights, crossed.error, growth, crossed.place)

    def _across_a_kink(self, state: State, step: float, factor: Factor) -> Correction:
        """The change over a step in which the slope jumps once, at a place that the outputs tell.

        Along the chord of Euler's step the outputs keep their values to first order until the jump, and then
        change at the rate ``J s + J_x Δx`` of the rows beyond it. How far they have changed at the end of the
        step tells how long ago the jump was. The difference is the part that one jump does not explain.

        Cost: a forward pass.
        """
        now, place = state.slopes.now, state.station.place + step
        outputs = self._constraint.outputs(self._constraint.risk(place, state.weights + step * now))
        changed = factor.rows_of(outputs - self._constraint.target(place))
        beyond = step * (factor.prepared.operator @ now + factor.answer)
        square = float(beyond @ beyond)
        since = min(max(float(changed @ beyond) / square, 0.0), 1.0) if square > 0 else 0.5
        left = float((changed - since * beyond).norm()) / square**0.5 if square > 0 else 0.0
        jump = step * (factor.slope - now)
        # At least 3 % of the jump is doubted: on a smooth network there is none, and its place means nothing.
        return Correction(step * now + since * jump, max(left, 0.03) * float(jump.norm()), 2)

    def _rate(self, state: State) -> float:
        """Error along the set, in weight units, that a unit of ``τ`` may make."""
        ahead = (1.0 - state.station.place) * float(state.slopes.now.norm())
        return self._max_error * (state.station.length + ahead)

    def _allowed(self, state: State, step: float) -> float:
        """Error along the set, in weight units, that this step may make; a short one as much as a tenth."""
        return max(step, 0.1) * self._rate(state)

    def _project(
        self, state: State, factor: Factor, place: float, weights: Tensor, settle: float | None
    ) -> _Projected | Refusal:
        """Chord steps ``w ← w - J⁺ (f - f̄)`` onto the set, factorised again where they contract too slowly.

        They end once what all further ones would add is shorter than ``settle``, or at ``output_tol``.
        """
        outputs = self._constraint.outputs(self._constraint.risk(place, weights))
        error = factor.rows_of(outputs - self._constraint.target(place))
        slowest, refreshes = 0.0, 0
        for _ in range(CORRECTIONS):
            residual = float(error.abs().max())
            if not residual < float("inf"):
                return Refusal(StopReason.NONFINITE, 0.3, "the outputs are not finite")
            if residual <= self._output_tol:
                return _Projected(weights, outputs, factor, residual, slowest)
            correction = factor.pull(outputs - self._constraint.target(place))
            weights, before = weights - correction, float(error.norm())
            outputs = self._constraint.outputs(self._constraint.risk(place, weights))
            error = factor.rows_of(outputs - self._constraint.target(place))
            contraction = float(error.norm()) / before
            slowest = max(slowest, contraction)
            # What all further corrections would add up to, if they went on contracting like this one.
            left = float(correction.norm()) * contraction / max(1.0 - contraction, 1e-9)
            if settle is not None and left <= settle:
                return _Projected(weights, outputs, factor, float(error.abs().max()), slowest)
            if contraction > 0.9 and float(error.abs().max()) > self._output_tol:
                if refreshes == 2:  # a third factorisation costs more than a shorter step
                    break
                factor, refreshes = self._constraint.factor(place, weights), refreshes + 1
                error = factor.rows_of(outputs - self._constraint.target(place))
                refusal = _unusable(factor)
                if refusal is not None:
                    return refusal
        detail = f"corrections leave an output error of {float(error.abs().max()):.3g}"
        return Refusal(self._cause(state, factor, StopReason.SMALL_STEP), 0.5, detail)

    def _station(self, place: float, end: _Projected, *, length: float, error: float, held: int) -> Station:
        """The numbers at a place on the set."""
        losses = losses_at(*self._constraint.at_fit(place, end.outputs))
        return Station(
            place=min(place, 1.0),
            moved_loss=self._of_changed(losses),
            all_loss=float(losses.mean()),
            residual=end.residual,
            length=length,
            smallest=end.factor.smallest,
            rows=end.factor.count,
            error=error,
            gradients=self.meter.gradients,
            held=held,
        )

    def _accepted(self, state: State, step: float, end: _Projected, along: _Step) -> State:
        place, length = state.station.place + step, float((end.weights - state.weights).norm())
        held = 0 if along.end is None else len(along.end.held)
        station = self._station(
            place, end, length=state.station.length + length, error=along.error, held=held
        )
        # Where corrections contract by less than half, the step was long enough.
        growth = min(along.growth, 1.0) if end.contraction > 0.5 else along.growth
        longer = step * min(max(growth, 0.2), self._options.max_growth)
        if along.end is None:
            slopes = state.slopes.advance(step, end.factor.slope)
            return State(end.weights, station, longer, slopes, state.reference)
        # After kinks the slopes before them say nothing.
        slopes = Slopes(along.end.slope)
        return State(end.weights, station, longer, slopes, state.reference, held=along.end.held)

    def _of_changed(self, losses: Tensor) -> float:
        """The mean loss of the points that change; of all where only weights of points do."""
        return float((losses[self._constraint.changed] if self._constraint.changed else losses).mean())

    def _cause(self, state: State, factor: Factor, otherwise: StopReason) -> StopReason:
        """A fold or loss of rank if a singular value vanishes and the slope grows; else the given reason.

        At a fold the slope grows as the inverse of the singular value, at the last station too. Where rows
        only become dependent the path does not turn: there only the slope at the refused point is steep, by
        an error divided by the small singular value.
        """
        smallest, length = state.reference
        is_small = min(factor.smallest, state.station.smallest) < smallest / FOLD
        if not is_small or not float(factor.slope.norm()) > FOLD * length:
            return otherwise
        steepness = float(state.slopes.now.norm())
        # The product of slope and singular value tends to zero where rows only become dependent.
        is_pulled = steepness * state.station.smallest > 0.1 * length * smallest
        return StopReason.FOLD if steepness > FOLD * length and is_pulled else StopReason.RANK_LOSS


def _unusable(factor: Factor) -> Refusal | None:
    """Why a factorisation cannot be used; ``None`` if it can."""
    if not bool(torch.isfinite(factor.slope).all()):
        return Refusal(StopReason.NONFINITE, 0.3, "the slope of the path is not finite")
    if not factor.has_full_rank:
        rank = factor.prepared.rank
        text = "an unknown rank, not the full one" if rank is None else f"numerical rank {rank}"
        return Refusal(StopReason.RANK_LOSS, 0.3, f"the {factor.count} rows of J in use have {text}")
    return None
