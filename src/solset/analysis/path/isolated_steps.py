"""Steps along an isolated solution: inexact Newton's method on the gradient of the moved risk."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from solset.analysis.path.cost import Meter
from solset.analysis.path.course import Station, StopReason
from solset.analysis.path.multistep import Slopes
from solset.analysis.path.recycling import Recycled, Watched, pairs_of, smallest_eigenvalue
from solset.analysis.path.state import Refusal, State
from solset.errors import Status, bad_value
from solset.linalg import LinearOperator
from solset.operators import GaussNewtonInverse, Hessian, InformativeInverse, Mixed
from solset.operators.cost import FACTOR_ROW, FORWARD, HESSIAN_PRODUCT, INPUT_JACOBIAN
from solset.problem import Problem
from solset.risk import EmpiricalRisk
from solset.solvers import CG

FORCING = 0.1  # relative residual of each Newton system
LOOSE = 0.01  # length of the last correction relative to the step, where the path only passes through
SHARE = 0.5  # of the last correction's length that is taken for the error it leaves
FARTHEST = 5.0  # times the predicted change: beyond it Newton's method has gone to another branch
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


class IsolatedSteps:
    """Predicts along the path and corrects by Newton's method, at as long steps as that converges for.

    Hessian systems are solved by CG with exact products, preconditioned by the Gauss–Newton matrix of the
    trained point and by every product paid for so far.

    Args:
        problem: The trained point, with weight decay.
        points: ``K``.
        dx: ``Δx``, ``(|K|, *input)``.
        tol: Error of the end relative to the change of the weights.
        reason: Why the problem is followed as an isolated solution.
        meter: Counts what is computed.

    Raises:
        ValueError: If there is no weight decay, so that solutions need not be isolated.
    """

    def __init__(
        self,
        problem: Problem,
        points: Sequence[int],
        dx: Tensor,
        *,
        tol: float,
        reason: str,
        meter: Meter,
    ) -> None:
        self._risk, self._points, self._dx, self._tol = problem.risk(), list(points), dx, tol
        self._meter, self._budget, self._outputs = meter, problem.memory_budget, problem.output_count
        if not self._risk.weight_decay > 0:
            raise bad_value(
                "problem",
                expected="a fitted one whose rows of J are independent, or one with weight decay",
                got=reason,
                cure="Without either its solutions are not isolated, and no path among them is singled out.",
            )
        self._inverse = self._preconditioner()

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

    def start(self) -> State:
        """The trained point, with the slope there to one digit: the graphical derivative ``-H⁻¹BΔx``.

        Raises:
            ValueError: If the Hessian there has a negative eigenvalue.
        """
        self._meter.add_points(INPUT_JACOBIAN, len(self._points))
        rhs = -(Mixed(self._risk, self._points, memory_budget=self._budget) @ self._dx.flatten())
        solved = self._solve(self._risk, rhs, None)
        if solved.status is Status.INDEFINITE:
            raise bad_value(
                "problem",
                expected="at a minimum of its risk",
                got=f"a Hessian with an eigenvalue of {solved.smallest:.3g} or less",
                cure="Train further: no minimum goes through a saddle.",
            )
        gradient = float(self._risk.gradient().norm())
        self._meter.add(1.0)
        station = self._station(0.0, self._risk, gradient, 0.0, solved.smallest, 0.0)
        reference = (solved.smallest, float(solved.value.norm()))
        return State(self._risk.weights, station, 1.0, Slopes(solved.value), reference, solved.pairs)

    def attempt(self, state: State, step: float) -> State | Refusal:
        """One step.

        Args:
            state: Where the path stands.
            step: ``Δτ``.

        Cost: some Newton steps, each a gradient and about ten Hessian products.
        """
        place = state.station.place + step
        guess = state.slopes.predict(step)
        risk = self._at(place).at(state.weights + guess)
        pairs, smallest, before = state.pairs, float("inf"), float("inf")
        for count in range(1, NEWTON_STEPS + 1):
            gradient = risk.gradient()
            self._meter.add(1.0)
            size = float(gradient.norm())
            if not size < float("inf"):
                return Refusal(StopReason.NONFINITE, 0.5, "the gradient is not finite")
            if not size < before:
                detail = f"Newton's method does not lower the gradient norm {size:.3g}"
                return self._refusal(state, smallest, detail)
            solved = self._solve(risk, -gradient, pairs)
            pairs, smallest, before = solved.pairs, min(smallest, solved.smallest), size
            if solved.status is Status.INDEFINITE:
                return Refusal(
                    StopReason.FOLD, 0.5, f"the Hessian has an eigenvalue of {smallest:.3g} or less"
                )
            risk = risk.at(risk.weights + solved.value)
            change, length = risk.weights - state.weights, float(solved.value.norm())
            # What the last station left to correct is part of this step too.
            if not float(change.norm()) <= FARTHEST * (float(guess.norm()) + 2 * state.station.error):
                return self._refusal(state, smallest, "Newton's method leaves the branch")
            if self._is_near(place, risk.weights, change, length):
                return self._accepted(state, step, risk, solved, smallest, length, count)
        return self._refusal(state, smallest, f"{NEWTON_STEPS} Newton steps are not enough")

    def _is_near(self, place: float, weights: Tensor, change: Tensor, length: float) -> bool:
        """Whether a correction of this length was short enough to be the last."""
        if place < 1.0:
            return length <= LOOSE * float(change.norm())
        return SHARE * length <= self._tol * float((weights - self._risk.weights).norm())

    def _at(self, place: float) -> EmpiricalRisk:
        return self._risk.move(self._points, place * self._dx)

    def _solve(self, risk: EmpiricalRisk, rhs: Tensor, pairs: Tensor | None) -> _Solved:
        hessian = Watched(Hessian(risk, memory_budget=self._budget))
        inverse = self._inverse if pairs is None else Recycled(self._inverse, pairs)
        solver = CG(tol=FORCING, max_steps=MOST_PRODUCTS, preconditioner=inverse)
        found = solver.solve(hessian, rhs)
        self._meter.add(HESSIAN_PRODUCT, times=hessian.count)
        known = pairs_of(hessian, pairs, self._budget)
        return _Solved(found.value, found.status, smallest_eigenvalue(hessian), known)

    def _refusal(self, state: State, smallest: float, detail: str) -> Refusal:
        lowest = min(smallest, state.station.smallest)
        is_flat = lowest < FLAT * state.reference[0]
        return Refusal(StopReason.FOLD if is_flat else StopReason.SMALL_STEP, 0.5, detail)

    def _accepted(
        self,
        state: State,
        step: float,
        risk: EmpiricalRisk,
        solved: _Solved,
        smallest: float,
        length: float,
        count: int,
    ) -> State:
        place, change = min(state.station.place + step, 1.0), risk.weights - state.weights
        gradient = float(risk.gradient().norm())
        self._meter.add(1.0)
        travelled = state.station.length + float(change.norm())
        station = self._station(place, risk, gradient, travelled, smallest, SHARE * length)
        longer = step * (2.0 if count <= 5 else 1.0)
        secant = Slopes(change / step)
        # Newton's steps search further than the first slope did: theirs is the eigenvalue to compare with.
        lowest = smallest if state.station.place == 0.0 else state.reference[0]
        return State(risk.weights, station, longer, secant, (lowest, state.reference[1]), solved.pairs)

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
