"""Steps along an isolated solution, by inexact Newton's method on the gradient of the moved risk."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.changes import Change
from solset.courses import Meter, Slopes, State, Station, StopReason, stated_losses
from solset.errors import Status, bad_value
from solset.linalg import Identity, LinearOperator, SmallestEigenvalue, smallest_eigenpair
from solset.operators import (
    FACTOR_ROW,
    FORWARD,
    HESSIAN_PRODUCT,
    INPUT_JACOBIAN,
    GaussNewtonInverse,
    Hessian,
    InformativeInverse,
)
from solset.paths._recycling import Recycled, Watched, pairs_of, smallest_eigenvalue
from solset.paths._stepper import BETWEEN, BRANCH, FOLD, NEWTON_RESIDUAL, PAIRS, PathOptions, Refusal
from solset.problem import Problem
from solset.risk import EmpiricalRisk
from solset.solvers import CG

OFF = 0.1  # gradient there, relative to the one that the data would make, up to which the step is believed
NEGATIVE = 1e-8  # share of the largest eigenvalue met below which a negative one is more than rounding
SHARE = 0.5  # of the length of the last correction, taken for the error that it leaves


@dataclass(frozen=True)
class _Solved:
    """The answer to a Newton system, with what its products showed."""

    value: Tensor  # Solution of the system, ``(p,)``
    status: Status  # Status that conjugate gradients ended with
    smallest: float  # Smallest eigenvalue of the Hessian on the directions searched
    pairs: Tensor  # Earlier pairs and those of this solve, ``(2, p, k)``
    size: float  # Length of the right-hand side


@dataclass(frozen=True)
class _Converged:
    """Where Newton's method ended."""

    risk: EmpiricalRisk  # Risk at the solution
    pairs: Tensor | None  # Pairs of vectors and Hessian products so far, ``(2, p, k)``
    smallest: float  # Smallest eigenvalue seen on the way
    length: float  # Length of the last correction, in weight units
    count: int  # Number of Newton steps


class IsolatedSteps:
    """Predicts along the path and corrects by Newton's method, at as long steps as that converges for.

    Hessian systems are solved by conjugate gradients with exact products, preconditioned by the Gauss–Newton
    matrix of the trained point and by every product computed so far.

    Args:
        problem: The trained point, with weight decay.
        change: Change of the data, which is made in part on the way.
        max_error: Error of the end relative to the change of the weights.
        meter: Meter that adds up the cost.
        options: Lengths of steps, limits and accuracies.
    """

    def __init__(
        self,
        problem: Problem,
        change: Change,
        *,
        max_error: float,
        meter: Meter,
        options: PathOptions,
    ) -> None:
        self._risk, self._change = problem.risk(), change
        self._points = change.chosen(self._risk)
        self._max_error, self._options = max_error, options
        self.meter, self._budget, self._outputs = meter, problem.memory_budget, problem.output_count
        self._inverse = self._preconditioner()
        self._floor = float(self._risk.gradient().norm())
        self.meter.add(1.0)

    def _preconditioner(self) -> LinearOperator:
        """The Gauss–Newton inverse, on the informative rows alone if they are few; none for dense outputs."""
        size, total = self._risk.layout.size, len(self._risk.points) * self._outputs
        if self._risk.is_whole or 24 * total * self._outputs > self._budget:  # curvature couples, or is large
            return Identity(size, self._risk.weights.dtype, self._risk.weights.device)
        chosen = InformativeInverse(self._risk, self._points, memory_budget=self._budget)
        self.meter.add(FORWARD)
        if chosen.count < size and 8 * chosen.count * (size + 2 * chosen.count) <= self._budget:
            self.meter.add_points(FACTOR_ROW, chosen.count)
            return chosen
        self.meter.add_points(FACTOR_ROW, total)
        return GaussNewtonInverse(self._risk, memory_budget=self._budget)

    @property
    def first_step(self) -> float:
        """The whole perturbation."""
        return 1.0

    def start(self) -> State:
        """The trained point, with the slope there to one digit: the graphical derivative ``-H⁻¹BΔx``.

        Raises:
            ValueError: If the Hessian there has a negative eigenvalue.
        """
        solved = self._slope(self._risk, 0.0, NEWTON_RESIDUAL)
        if solved.status is Status.INDEFINITE:
            raise _not_a_minimum(f"{solved.smallest:.3g} or less")
        lowest = self._lowest(self._risk, solved.pairs)
        if lowest.relative < -NEGATIVE:
            raise _not_a_minimum(f"{lowest.value:.3g}")
        smallest = _lower(solved.smallest, lowest.value)
        station = self._station(0.0, self._risk, self._floor, 0.0, smallest, 0.0)
        reference = (smallest, float(solved.value.norm()))
        return State(
            self._risk.weights, station, self.first_step, Slopes(solved.value), reference, solved.pairs
        )

    def attempt(self, state: State, step: float) -> State | Refusal:
        """One step of length ``Δτ``, if its end lies on the branch that it started on.

        Where a path folds, Newton's method may still converge, to a solution far away. Then the slope of the
        solution there differs from the chord that led to it, or the gradient does not vanish between them.
        Where a branch of minima becomes one of saddles, a negative eigenvalue tells; the slope may not.

        Cost: some Newton steps, each a gradient and about ten Hessian products; a few more products for the
        slope at the end, six gradients between, and up to 16 products for the smallest eigenvalue.
        """
        end = self._newton(state, step)
        if isinstance(end, Refusal):
            return end
        change = end.risk.weights - state.weights
        # The last slope only has to tell branches apart; earlier ones predict the next step, to two digits.
        tol = NEWTON_RESIDUAL if state.station.place + step >= 1.0 else 0.02
        ahead = self._slope(end.risk, state.station.place + step, tol, end.pairs, change / step)
        smallest = _lower(end.smallest, ahead.smallest)
        if ahead.status is Status.INDEFINITE:
            return _saddle(smallest)
        surprise = _difference(change, state.slopes.predict(step))
        if not self._is_negligible(end.risk.weights, step * ahead.value - change):
            if not self._agree(change, step * ahead.value):
                return self._refusal(state, smallest, "the slope at the end is not that of the step")
            if state.station.place > 0.0 and not surprise <= 0.5:  # more than half of the step is unexpected
                return self._refusal(state, smallest, "the end of the step is not where it was predicted")
        between = self._between(state, step, change, ahead)
        if between is None:
            return self._refusal(state, smallest, "points between the ends of the step are no solutions")
        lowest = self._lowest(end.risk, ahead.pairs)
        if lowest.relative < -NEGATIVE or self._dips(between, lowest):
            detail = f"beyond it the Hessian has an eigenvalue of {lowest.value:.3g}: saddles, no minima"
            return Refusal(StopReason.BIFURCATION, 0.5, detail)
        smallest = _lower(smallest, lowest.value)
        return self._accepted(state, step, replace(end, smallest=smallest), ahead, surprise)

    def _between(
        self, state: State, step: float, change: Tensor, ahead: _Solved
    ) -> list[tuple[EmpiricalRisk, Tensor]] | None:
        """Risks on the cubic through a step, with their gradients; ``None`` if they are no solutions.

        A gradient may be a tenth of the one that the move of the data makes where no weight moves.
        """
        allowed, places = max(OFF * step * ahead.size, 10 * self._floor), []
        for share in BETWEEN:
            weights = state.weights + state.slopes.between(share, step, change, ahead.value)
            risk = self._at(state.station.place + share * step).at(weights)
            places.append((risk, risk.gradient()))
            self.meter.add(1.0)
            if not float(places[-1][1].norm()) <= allowed:
                return None
        return places

    def _dips(self, places: list[tuple[EmpiricalRisk, Tensor]], lowest: SmallestEigenvalue) -> bool:
        """Whether the curvature along an eigenvector of the end is negative between, by differences."""
        vector = lowest.vector
        for risk, gradient in places:
            length = torch.finfo(vector.dtype).eps ** 0.4 * (float(risk.weights.norm()) or 1.0)
            beside = risk.at(risk.weights + length * vector).gradient()
            self.meter.add(1.0)
            if float(vector @ (beside - gradient)) / length < -0.01 * abs(lowest.value):
                return True
        return False

    def _lowest(self, risk: EmpiricalRisk, pairs: Tensor) -> SmallestEigenvalue:
        """The smallest eigenvalue of the Hessian, in all directions and not only those that the data push."""
        inverse = Recycled(self._inverse, pairs) if pairs.shape[2] else self._inverse
        hessian = Hessian(risk, memory_budget=self._budget)
        lowest = smallest_eigenpair(hessian, inverse=inverse, steps=8, restarts=2, tol=0.02)
        self.meter.add(HESSIAN_PRODUCT, times=lowest.products)
        return lowest

    def _agree(self, change: Tensor, ahead: Tensor) -> bool:
        """Whether a step may have followed one smooth branch to where the slope would change this much."""
        length, other = float(change.norm()), float(ahead.norm())
        # A slope may shrink to a half along a smooth branch, grow near a fold, and turn by 60 degrees.
        if not 0.5 * length <= other <= BRANCH * length:
            return False
        return float(change @ ahead) >= 0.5 * length * other

    def _is_negligible(self, weights: Tensor, difference: Tensor) -> bool:
        """Whether a difference is within the error that is allowed."""
        return float(difference.norm()) <= self._max_error * float((weights - self._risk.weights).norm())

    def _newton(self, state: State, step: float) -> _Converged | Refusal:
        """Newton's method from the predicted point."""
        place = state.station.place + step
        guess = state.slopes.predict(step)
        predicted = float(guess.norm())
        risk = self._at(place).at(state.weights + guess)
        pairs, smallest, before, length = state.pairs, float("nan"), float("inf"), 0.0
        for count in range(self._options.max_newton_steps):
            gradient = risk.gradient()
            self.meter.add(1.0)
            size = float(gradient.norm())
            if not size < float("inf"):
                return Refusal(StopReason.NONFINITE, 0.5, "the gradient is not finite")
            if predicted == 0.0 and size <= self._floor:
                return _Converged(risk, pairs, smallest, 0.0, count)  # as good a solution as the first was
            if not size < before:
                detail = f"Newton's method does not lower the gradient norm {size:.3g}"
                return self._refusal(state, smallest, detail)
            solved = self._solve(risk, -gradient, NEWTON_RESIDUAL, pairs)
            pairs, smallest, before = solved.pairs, _lower(smallest, solved.smallest), size
            if solved.status is Status.INDEFINITE:
                return _saddle(smallest)
            risk = risk.at(risk.weights + solved.value)
            change, length = risk.weights - state.weights, float(solved.value.norm())
            # What the last station left to correct is part of this step too.
            farthest = BRANCH * (predicted + 2 * state.station.error)
            if predicted > 0.0 and not float(change.norm()) <= farthest:
                return self._refusal(state, smallest, "Newton's method leaves the branch")
            if self._is_near(place, risk.weights, change, length):
                return _Converged(risk, pairs, smallest, length, count + 1)
        detail = f"{self._options.max_newton_steps} Newton steps are not enough"
        return self._refusal(state, smallest, detail)

    def _slope(
        self,
        risk: EmpiricalRisk,
        place: float,
        tol: float,
        pairs: Tensor | None = None,
        near: Tensor | None = None,
    ) -> _Solved:
        """The slope at the weights of a risk on the way, to a relative residual, starting from ``near``."""
        self.meter.add_points(INPUT_JACOBIAN, len(self._points))
        rhs = -self._change.rate(self._risk.at(risk.weights), place)
        return self._solve(risk, rhs, tol, pairs, near)

    def _is_near(self, place: float, weights: Tensor, change: Tensor, length: float) -> bool:
        """Whether a correction of this length was short enough to be the last."""
        if place < 1.0:
            return length <= 0.01 * float(change.norm())  # the path only passes through
        return SHARE * length <= self._max_error * float((weights - self._risk.weights).norm())

    def _at(self, place: float) -> EmpiricalRisk:
        return self._change.partly(self._risk, place)

    def _solve(
        self, risk: EmpiricalRisk, rhs: Tensor, tol: float, pairs: Tensor | None, near: Tensor | None = None
    ) -> _Solved:
        """``H⁻¹`` times a vector; ``tol`` is relative to the larger of it and of what ``near`` leaves."""
        hessian, force = Watched(Hessian(risk, memory_budget=self._budget)), float(rhs.norm())
        inverse = self._inverse if pairs is None else Recycled(self._inverse, pairs)
        value, status = torch.zeros_like(rhs), Status.CONVERGED
        if near is not None and bool(near.any()):
            size, value, rhs = float(rhs.norm()), near, rhs - hessian @ near
            left = float(rhs.norm())
            tol = tol * max(1.0, size / left) if left > 0 else 1.0
        if tol < 1.0:
            solver = CG(tol=tol, max_steps=self._options.max_iterations, preconditioner=inverse)
            solution = solver.solve(hessian, rhs)
            value, status = value + solution.value, solution.status
        self.meter.add(HESSIAN_PRODUCT, times=hessian.count)
        all_pairs = pairs_of(hessian, pairs, PAIRS, self._budget)
        return _Solved(value, status, smallest_eigenvalue(hessian), all_pairs, force)

    def _refusal(self, state: State, smallest: float, detail: str) -> Refusal:
        lowest = _lower(smallest, state.station.smallest)
        is_flat = lowest < state.reference[0] / FOLD
        return Refusal(StopReason.FOLD if is_flat else StopReason.SMALL_STEP, 0.5, detail)

    def _accepted(self, state: State, step: float, end: _Converged, ahead: _Solved, surprise: float) -> State:
        place, change = min(state.station.place + step, 1.0), end.risk.weights - state.weights
        gradient = float(end.risk.gradient().norm())
        self.meter.add(1.0)
        travelled, left = state.station.length + float(change.norm()), SHARE * end.length
        station = self._station(place, end.risk, gradient, travelled, end.smallest, left)
        longer = step * (2.0 if end.count <= 5 else 1.0)
        if surprise > 0.0:
            # The next prediction should be wrong by a tenth; its error grows with the square of the step.
            longer = min(longer, step * max((0.1 / surprise) ** 0.5, 0.5))
        # Newton's steps search more directions than the first slope did: compare with their eigenvalue.
        lowest = end.smallest if state.station.place == 0.0 else state.reference[0]
        reference = (lowest, state.reference[1])
        slopes = state.slopes.advance(step, ahead.value)
        return State(end.risk.weights, station, longer, slopes, reference, ahead.pairs)

    def _station(
        self, place: float, risk: EmpiricalRisk, gradient: float, length: float, smallest: float, error: float
    ) -> Station:
        if risk.is_whole:  # a point has no loss of its own
            of_moved, of_all = float("nan"), risk.without_regularisation().value()
        else:
            of_moved, of_all = stated_losses(self._change, self._risk, risk, risk.losses(), self._points)
        self.meter.add(FORWARD)
        return Station(
            place=place,
            moved_loss=of_moved,
            all_loss=of_all,
            residual=gradient,
            length=length,
            smallest=smallest,
            rows=0,
            error=error,
            gradients=self.meter.gradients,
        )


def _difference(one: Tensor, other: Tensor) -> float:
    """The distance between two changes, relative to the longer one."""
    longest = max(float(one.norm()), float(other.norm()))
    return float((one - other).norm()) / longest if longest > 0 else 0.0


def _not_a_minimum(eigenvalue: str) -> ValueError:
    return bad_value(
        "problem",
        expected="at a minimum of its risk",
        got=f"a Hessian with an eigenvalue of {eigenvalue}",
        cure="Train further: no minimum goes through a saddle.",
    )


def _saddle(smallest: float) -> Refusal:
    return Refusal(StopReason.FOLD, 0.5, f"the Hessian has an eigenvalue of {smallest:.3g} or less")


def _lower(one: float, other: float) -> float:
    """The smaller of two eigenvalues; ``nan`` stands for none."""
    return other if other < one or one != one else one
