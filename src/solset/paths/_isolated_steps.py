"""Steps along an isolated solution: inexact Newton's method on the gradient of the moved risk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.errors import Status, bad_value
from solset.linalg import LinearOperator
from solset.operators import GaussNewtonInverse, Hessian, InformativeInverse, Mixed
from solset.operators._cost import FACTOR_ROW, FORWARD, HESSIAN_PRODUCT, INPUT_JACOBIAN
from solset.paths._cost import Meter
from solset.paths._course import Station, StopReason
from solset.paths._multistep import Slopes
from solset.paths._recycling import Recycled, Watched, pairs_of, smallest_eigenvalue
from solset.paths._state import Refusal, State
from solset.problem import Problem
from solset.risk import EmpiricalRisk
from solset.solvers import CG

FORCING = 0.1  # relative residual of each Newton system
LOOSE = 0.01  # length of the last correction relative to the step, where the path only passes through
SHARE = 0.5  # of the last correction's length that is taken for the error it leaves
FARTHEST = 5.0  # times the predicted change: beyond it Newton's method has gone to another branch
SLOWER, FASTER = 0.5, 5.0  # times the chord of a step, between which the slope at its end is long
ALIGNED = 0.5  # smallest cosine between the two
FINE = 0.02  # relative residual of the slopes that the next step is predicted by
EXPECTED, UNEXPECTED = 0.1, 0.5  # relative error of a prediction: that steps aim at, that refuses one
NEWTON_STEPS, MOST_PRODUCTS = 12, 300
FLAT = 0.2  # of the first Hessian's smallest eigenvalue, below which a path that stops has met a fold


@dataclass(frozen=True)
class _Solved:
    """An answer to a Newton system, with what its products showed.

    Attributes:
        value: ``(p,)``.
        status: How CG ended.
        smallest: Eigenvalue of the Hessian on the directions searched.
        pairs: Earlier ones and those of this solve, ``(2, p, k)``.
    """

    value: Tensor
    status: Status
    smallest: float
    pairs: Tensor


@dataclass(frozen=True)
class _Converged:
    """Where Newton's method ended.

    Attributes:
        risk: At the solution.
        pairs: As above.
        smallest: Eigenvalue seen on the way.
        length: Of the last correction.
        count: Newton steps.
    """

    risk: EmpiricalRisk
    pairs: Tensor | None
    smallest: float
    length: float
    count: int


class IsolatedSteps:
    """Predicts along the path and corrects by Newton's method, at as long steps as that converges for.

    Hessian systems are solved by CG with exact products, preconditioned by the Gauss–Newton matrix of the
    trained point and by every product paid for so far.

    Args:
        problem: The trained point, with weight decay.
        points: ``K``.
        dx: ``Δx``, ``(|K|, *input)``.
        tol: Error of the end relative to the change of the weights.
        meter: Counts what is computed.
    """

    def __init__(
        self,
        problem: Problem,
        points: Sequence[int],
        dx: Tensor,
        *,
        tol: float,
        meter: Meter,
    ) -> None:
        self._risk, self._points, self._dx, self._tol = problem.risk(), list(points), dx, tol
        self._meter, self._budget, self._outputs = meter, problem.memory_budget, problem.output_count
        self._inverse = self._preconditioner()
        self._floor = float(self._risk.gradient().norm())
        self._meter.add(1.0)

    def _preconditioner(self) -> LinearOperator:
        """The Gauss–Newton inverse on its smaller side: that of the informative rows, if they are few."""
        chosen = InformativeInverse(self._risk, self._points, memory_budget=self._budget)
        self._meter.add(FORWARD)
        size, total = self._risk.layout.size, len(self._risk.points) * self._outputs
        if chosen.count < size and 8 * chosen.count * (size + 2 * chosen.count) <= self._budget:
            self._meter.add_points(FACTOR_ROW, chosen.count)
            return chosen
        self._meter.add_points(FACTOR_ROW, total)
        return GaussNewtonInverse(self._risk, memory_budget=self._budget)

    @property
    def first_step(self) -> float:
        """All of the perturbation."""
        return 1.0

    def start(self) -> State:
        """The trained point, with the slope there to one digit: the graphical derivative ``-H⁻¹BΔx``.

        Raises:
            ValueError: If the Hessian there has a negative eigenvalue.
        """
        solved = self._slope(self._risk, FORCING)
        if solved.status is Status.INDEFINITE:
            raise bad_value(
                "problem",
                expected="at a minimum of its risk",
                got=f"a Hessian with an eigenvalue of {solved.smallest:.3g} or less",
                cure="Train further: no minimum goes through a saddle.",
            )
        station = self._station(0.0, self._risk, self._floor, 0.0, solved.smallest, 0.0)
        reference = (solved.smallest, float(solved.value.norm()))
        return State(
            self._risk.weights, station, self.first_step, Slopes(solved.value), reference, solved.pairs
        )

    def attempt(self, state: State, step: float) -> State | Refusal:
        """One step, if its end lies on the branch that it set out on.

        Where a path folds, Newton's method may well converge, to a solution far away. There the slope of the
        solution is not that of the chord which led to it.

        Args:
            state: Where the path stands.
            step: ``Δτ``.

        Cost: some Newton steps, each a gradient and about ten Hessian products; a few more products for the
        slope at the end.
        """
        found = self._newton(state, step)
        if isinstance(found, Refusal):
            return found
        change = found.risk.weights - state.weights
        # The last slope only has to tell branches apart; the others are what the next step is predicted by.
        tol = FORCING if state.station.place + step >= 1.0 else FINE
        ahead = self._slope(found.risk, tol, found.pairs, change / step)
        smallest = _lower(found.smallest, ahead.smallest)
        if ahead.status is Status.INDEFINITE:
            return _saddle(smallest)
        surprise = _difference(change, state.slopes.predict(step))
        if not self._is_negligible(found.risk.weights, step * ahead.value - change):
            if not _agree(change, step * ahead.value):
                return self._refusal(state, smallest, "the slope at the end is not that of the step")
            if state.station.place > 0.0 and not surprise <= UNEXPECTED:
                return self._refusal(state, smallest, "the end of the step is not where it was predicted")
        return self._accepted(state, step, replace(found, smallest=smallest), ahead, surprise)

    def _is_negligible(self, weights: Tensor, difference: Tensor) -> bool:
        """Whether a difference is within the error that is allowed."""
        return float(difference.norm()) <= self._tol * float((weights - self._risk.weights).norm())

    def _newton(self, state: State, step: float) -> _Converged | Refusal:
        """Newton's method from the predicted point."""
        place = state.station.place + step
        guess = state.slopes.predict(step)
        predicted = float(guess.norm())
        risk = self._at(place).at(state.weights + guess)
        pairs, smallest, before, length = state.pairs, float("nan"), float("inf"), 0.0
        for count in range(NEWTON_STEPS):
            gradient = risk.gradient()
            self._meter.add(1.0)
            size = float(gradient.norm())
            if not size < float("inf"):
                return Refusal(StopReason.NONFINITE, 0.5, "the gradient is not finite")
            if predicted == 0.0 and size <= self._floor:
                return _Converged(risk, pairs, smallest, 0.0, count)  # as good a solution as the first was
            if not size < before:
                detail = f"Newton's method does not lower the gradient norm {size:.3g}"
                return self._refusal(state, smallest, detail)
            solved = self._solve(risk, -gradient, FORCING, pairs)
            pairs, smallest, before = solved.pairs, _lower(smallest, solved.smallest), size
            if solved.status is Status.INDEFINITE:
                return _saddle(smallest)
            risk = risk.at(risk.weights + solved.value)
            change, length = risk.weights - state.weights, float(solved.value.norm())
            # What the last station left to correct is part of this step too.
            farthest = FARTHEST * (predicted + 2 * state.station.error)
            if predicted > 0.0 and not float(change.norm()) <= farthest:
                return self._refusal(state, smallest, "Newton's method leaves the branch")
            if self._is_near(place, risk.weights, change, length):
                return _Converged(risk, pairs, smallest, length, count + 1)
        return self._refusal(state, smallest, f"{NEWTON_STEPS} Newton steps are not enough")

    def _slope(
        self, risk: EmpiricalRisk, tol: float, pairs: Tensor | None = None, near: Tensor | None = None
    ) -> _Solved:
        """``-H⁻¹BΔx`` at the weights of a risk.

        Args:
            risk: On the data there.
            tol: Relative residual.
            pairs: Known products.
            near: Where to start, ``(p,)``.
        """
        self._meter.add_points(INPUT_JACOBIAN, len(self._points))
        rhs = -(Mixed(risk, self._points, memory_budget=self._budget) @ self._dx.flatten())
        return self._solve(risk, rhs, tol, pairs, near)

    def _is_near(self, place: float, weights: Tensor, change: Tensor, length: float) -> bool:
        """Whether a correction of this length was short enough to be the last."""
        if place < 1.0:
            return length <= LOOSE * float(change.norm())
        return SHARE * length <= self._tol * float((weights - self._risk.weights).norm())

    def _at(self, place: float) -> EmpiricalRisk:
        return self._risk.move(self._points, place * self._dx)

    def _solve(
        self,
        risk: EmpiricalRisk,
        rhs: Tensor,
        tol: float,
        pairs: Tensor | None,
        near: Tensor | None = None,
    ) -> _Solved:
        """``H⁻¹`` times a vector, to a residual relative to the larger of it and of what ``near`` leaves."""
        hessian = Watched(Hessian(risk, memory_budget=self._budget))
        inverse = self._inverse if pairs is None else Recycled(self._inverse, pairs)
        value, status = torch.zeros_like(rhs), Status.CONVERGED
        if near is not None and bool(near.any()):
            size, value, rhs = float(rhs.norm()), near, rhs - hessian @ near
            left = float(rhs.norm())
            tol = tol * max(1.0, size / left) if left > 0 else 1.0
        if tol < 1.0:
            found = CG(tol=tol, max_steps=MOST_PRODUCTS, preconditioner=inverse).solve(hessian, rhs)
            value, status = value + found.value, found.status
        self._meter.add(HESSIAN_PRODUCT, times=hessian.count)
        known = pairs_of(hessian, pairs, self._budget)
        return _Solved(value, status, smallest_eigenvalue(hessian), known)

    def _refusal(self, state: State, smallest: float, detail: str) -> Refusal:
        lowest = _lower(smallest, state.station.smallest)
        is_flat = lowest < FLAT * state.reference[0]
        return Refusal(StopReason.FOLD if is_flat else StopReason.SMALL_STEP, 0.5, detail)

    def _accepted(
        self, state: State, step: float, found: _Converged, ahead: _Solved, surprise: float
    ) -> State:
        place, change = min(state.station.place + step, 1.0), found.risk.weights - state.weights
        gradient = float(found.risk.gradient().norm())
        self._meter.add(1.0)
        travelled, left = state.station.length + float(change.norm()), SHARE * found.length
        station = self._station(place, found.risk, gradient, travelled, found.smallest, left)
        longer = step * (2.0 if found.count <= 5 else 1.0)
        if surprise > 0.0:
            longer = min(longer, step * max((EXPECTED / surprise) ** 0.5, 0.5))
        # Newton's steps search further than the first slope did: theirs is the eigenvalue to compare with.
        lowest = found.smallest if state.station.place == 0.0 else state.reference[0]
        reference = (lowest, state.reference[1])
        slopes = state.slopes.advance(step, ahead.value)
        return State(found.risk.weights, station, longer, slopes, reference, ahead.pairs)

    def _station(
        self, place: float, risk: EmpiricalRisk, gradient: float, length: float, smallest: float, error: float
    ) -> Station:
        losses = risk.losses()
        self._meter.add(FORWARD)
        return Station(
            place=place,
            moved_loss=float(losses[self._points].mean()),
            all_loss=float(losses.mean()),
            residual=gradient,
            length=length,
            smallest=smallest,
            rows=0,
            error=error,
            gradients=self._meter.gradients,
        )


def _agree(change: Tensor, ahead: Tensor) -> bool:
    """Whether a step may have followed one smooth branch to where the slope would change as much as this."""
    length, other = float(change.norm()), float(ahead.norm())
    if not SLOWER * length <= other <= FASTER * length:
        return False
    return float(change @ ahead) >= ALIGNED * length * other


def _difference(one: Tensor, other: Tensor) -> float:
    """Between two changes, relative to the longer one."""
    longest = max(float(one.norm()), float(other.norm()))
    return float((one - other).norm()) / longest if longest > 0 else 0.0


def _saddle(smallest: float) -> Refusal:
    return Refusal(StopReason.FOLD, 0.5, f"the Hessian has an eigenvalue of {smallest:.3g} or less")


def _lower(one: float, other: float) -> float:
    """The smaller of two eigenvalues, where ``nan`` is none."""
    return other if other < one or one != one else one
