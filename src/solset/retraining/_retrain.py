"""Ground truth: real retraining on moved data, and the tangent of training itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from tqdm import trange

from solset.changes import Change
from solset.checks import checked
from solset.errors import Status, bad_value
from solset.operators import Hessian, Jacobian
from solset.problem import Problem
from solset.risk import EmpiricalRisk
from solset.solvers import MINRES, Dense, Dual, Solver


@dataclass(frozen=True)
class Retrained:
    """Where real training on the moved data ended.

    Attributes:
        weights: ``(p,)``.
        change: ``weights - w̄``.
        gradient_norm: Of the moved risk at the end.
        risk: The moved risk at the end.
        gradients: Full-batch gradients taken (or their equivalent in passes over the data).
        status: ``converged`` if the method's own target was met, else ``max_steps`` or ``nonfinite``.
        course: Weights at the recorded steps (gradient descent) or gradient counts (L-BFGS).
    """

    weights: Tensor
    change: Tensor
    gradient_norm: float
    risk: float
    gradients: int
    status: Status
    course: dict[int, Tensor] = field(default_factory=dict)


@checked
@dataclass(frozen=True)
class GradientDescent:
    """Full-batch gradient descent from ``w̄`` for a stated number of steps.

    Attributes:
        steps: ``k``.
        learning_rate: ``η``, for the loss as reduced.
        record_at: Steps at which to keep the weights, from 1 to ``steps``.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the number of steps is negative, or a step to record is not taken.
    """

    steps: int
    learning_rate: float
    record_at: tuple[int, ...] = ()
    progress: bool = False

    def __post_init__(self) -> None:
        _require_steps(self.steps)
        if not all(1 <= step <= self.steps for step in self.record_at):
            raise bad_value(
                "record_at", expected=f"in 1..{self.steps}", got=self.record_at, cure="Take more steps."
            )

    def run(self, start: EmpiricalRisk, target: Tensor) -> Retrained:  # noqa: ARG002 - part of the interface
        """Descend.

        Args:
            start: The moved risk at ``w̄``.
            target: Outputs to keep; not used.
        """
        risk, course = start, {}
        for step in trange(1, self.steps + 1, desc="retraining", disable=not self.progress, leave=False):
            risk = risk.at(risk.weights - self.learning_rate * risk.gradient())
            if step in self.record_at:
                course[step] = risk.weights
        finite = bool(torch.isfinite(risk.weights).all())
        return finish(start, risk, self.steps, Status.CONVERGED if finite else Status.NONFINITE, course)


@checked
@dataclass(frozen=True)
class LBFGS:
    """L-BFGS from ``w̄`` (SciPy's L-BFGS-B without bounds): what warm retraining means in practice.

    Attributes:
        tol: Largest entry of the gradient at which to stop.
        max_gradients: Budget of function-and-gradient evaluations.
        memory: Pairs kept.
    """

    tol: float = 1e-10
    max_gradients: int = 500
    memory: int = 20

    def run(self, start: EmpiricalRisk, target: Tensor) -> Retrained:  # noqa: ARG002 - part of the interface
        """Minimise the moved risk.

        Args:
            start: The moved risk at ``w̄``.
            target: Outputs to keep; not used.
        """
        course: dict[int, Tensor] = {}
        count = 0

        def as_weights(x: np.ndarray) -> Tensor:
            return torch.from_numpy(x.copy()).to(start.weights)

        def both(x: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal count
            count += 1
            value, gradient = start.at(as_weights(x)).value_and_gradient()
            return value, gradient.to("cpu", torch.float64).numpy()

        def keep(x: np.ndarray) -> None:
            course[count] = as_weights(x)

        out = minimize(
            both,
            start.weights.to("cpu", torch.float64).numpy(),
            jac=True,
            method="L-BFGS-B",
            callback=keep,
            options={
                "maxfun": self.max_gradients,
                "maxiter": self.max_gradients,
                "gtol": self.tol,
                "ftol": 0.0,
                "maxcor": self.memory,
            },
        )
        end = start.at(as_weights(out.x))
        met = float(end.gradient().abs().max()) <= self.tol
        return finish(start, end, count, Status.CONVERGED if met else Status.MAX_STEPS, course)


@checked
@dataclass(frozen=True)
class Newton:
    """Newton's method on ``R(x̄ + Δx, w) = 0``: the nearest solution of an isolated, regularised problem.

    Attributes:
        tol: Gradient norm at which to stop.
        max_steps: Newton steps.
        solver: For the Hessian systems; ``None`` takes Dense up to 1000 weights, else MINRES.
    """

    tol: float = 1e-10
    max_steps: int = 30
    solver: Solver | None = None

    def run(self, start: EmpiricalRisk, target: Tensor) -> Retrained:  # noqa: ARG002 - part of the interface
        """Iterate; a step is halved while it does not lower the gradient norm.

        Args:
            start: The moved risk at ``w̄``.
            target: Outputs to keep; not used.
        """
        solver = self.solver or (Dense() if start.layout.size <= 1000 else MINRES(tol=1e-10))
        risk, gradient, passes = start, start.gradient(), 1
        for _ in range(self.max_steps):
            size = float(gradient.norm())
            if size <= self.tol:
                break
            found = solver.solve(Hessian(risk), -gradient)
            passes += 2 * max(found.steps, 1)
            risk, gradient, tried = _backtrack(risk, found.value, lambda r: r.gradient(), size)
            passes += tried
        met = float(gradient.norm()) <= self.tol
        return finish(start, risk, passes, Status.CONVERGED if met else Status.MAX_STEPS)


@checked
@dataclass(frozen=True)
class LevenbergMarquardt:
    """The nearest weights to ``w̄`` that keep the training outputs: ``min ‖w - w̄‖`` with ``f(x̄ + Δx, w) = f̄``.

    For fitted, overparameterised problems. Each step solves the linearised constraint for the element
    nearest to ``w̄`` (not to the current iterate) through the Gram matrix of the rows, and is shortened while
    the steps do not shrink. Activation kinks can keep it from settling: it then ends *on* the set, near the
    nearest point, with status ``max_steps``.

    Attributes:
        tol: Largest output error at which to stop.
        max_steps: Gram builds in search of the nearest point; a few more may end on the set.
        step_tol: Relative step at which to stop; ``tol`` by default.
        solver: Keeps the rows and their Gram matrix, within its memory budget.
    """

    tol: float = 1e-10
    max_steps: int = 20
    step_tol: float | None = None
    solver: Dual = field(default_factory=Dual)

    def run(self, start: EmpiricalRisk, target: Tensor) -> Retrained:
        """Iterate.

        Args:
            start: The moved risk at ``w̄``.
            target: ``f̄``, the outputs to keep, ``(n, c)``.
        """
        return self.run_towards(start.weights, start, target)

    def run_towards(self, anchor: Tensor, start: EmpiricalRisk, target: Tensor) -> Retrained:
        """Iterate from elsewhere for the point nearest to ``w̄``.

        Args:
            anchor: ``w̄``.
            start: The moved risk at the weights to begin with.
            target: ``f̄``, the outputs to keep, ``(n, c)``.
        """
        risk, scale, previous = start, 1.0, float("inf")
        for step in range(1, self.max_steps + 1):
            error = (risk.outputs() - target).flatten()
            rows = self.solver.prepare(Jacobian(risk, memory_budget=0))
            nearest = anchor + rows.solve(rows.operator @ (risk.weights - anchor) - error).value
            direction = nearest - risk.weights
            length, travelled = float(direction.norm()), float((risk.weights - anchor).norm())
            still = length <= (self.step_tol or self.tol) * max(travelled, self.tol)
            if float(error.abs().max()) <= self.tol and still:
                return finish(start, risk, step, Status.CONVERGED)
            scale = scale / 2 if length > 0.9 * previous and scale > 0.1 else scale
            risk, previous = risk.at(risk.weights + scale * direction), length
        risk, steps = self._onto_set(risk, target)
        return finish(start, risk, self.max_steps + steps, Status.MAX_STEPS)

    def _onto_set(self, risk: EmpiricalRisk, target: Tensor) -> tuple[EmpiricalRisk, int]:
        """Gauss–Newton steps until the outputs are kept, each halved while it raises the output error."""
        for step in range(10):
            error = (risk.outputs() - target).flatten()
            if float(error.abs().max()) <= self.tol:
                return risk, step
            direction = self.solver.solve(Jacobian(risk, memory_budget=0), -error).value
            limit = float(error.norm())
            risk, _, _ = _backtrack(risk, direction, lambda r: (r.outputs() - target).flatten(), limit)
        return risk, 10


@runtime_checkable
class Method(Protocol):
    """A way to retrain: :class:`GradientDescent`, :class:`LBFGS`, … or one of your own."""

    def run(self, start: EmpiricalRisk, target: Tensor) -> Retrained:
        """From the moved risk at ``w̄``, with the outputs ``f̄`` before the move, to where it ends.

        Args:
            start: The moved risk at ``w̄``.
            target: ``f̄``, ``(n, c)``.
        """
        ...


@checked
def retrain(
    problem: Problem,
    change: Change,
    *,
    method: Method,
) -> Retrained:
    """Where training from ``w̄`` on the moved data really ends: the ground truth for every estimate.

    Args:
        problem: The trained point.
        change: Change of the training data, such as :class:`solset.Move`.
        method: :class:`GradientDescent` (a stated duration), :class:`LBFGS`, ``WithOptimizer`` (any optimiser
            of PyTorch), :class:`Newton` (an isolated solution) or :class:`LevenbergMarquardt` (the nearest
            solution of a fitted problem).

    Cost: real training; the result counts its gradients.
    """
    return method.run(change.applied_to(problem.risk()), problem.risk().outputs())


@checked
def tangent_recursion(
    problem: Problem,
    change: Change,
    *,
    steps: int,
    learning_rate: float,
    progress: bool = False,
) -> Tensor:
    """The first-order difference between training on for a while on moved and on clean data, ``(p,)``.

    ``δ ← δ - η(H(w_k) δ + B(w_k) Δx)`` along the clean run ``w_{k+1} = w_k - η∇E(w_k)``: valid where a
    leftover gradient makes the weights drift, where a frozen filter is not.

    Args:
        problem: The trained point; it need not be stationary.
        change: Change of the training data, such as :class:`solset.Move`.
        steps: Gradient-descent steps.
        learning_rate: ``η``, for the loss as reduced.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the number of steps is negative.

    Cost: one gradient, one Hessian product and one product with ``B`` a step.
    """
    _require_steps(steps)
    risk = problem.risk()
    points, direction = change.chosen(risk), change.direction(risk)
    tangent = torch.zeros_like(risk.weights)
    for _ in trange(steps, desc="tangent", disable=not progress, leave=False):
        pull = change.of_gradient(risk, points, 0) @ direction
        tangent = tangent - learning_rate * (Hessian(risk, memory_budget=0) @ tangent + pull)
        risk = risk.at(risk.weights - learning_rate * risk.gradient())
    return tangent


def _require_steps(steps: int) -> None:
    if steps < 0:
        raise bad_value("steps", expected="zero or more", got=steps, cure="Count the steps taken.")


def _backtrack(
    risk: EmpiricalRisk, direction: Tensor, measure: Callable[[EmpiricalRisk], Tensor], limit: float
) -> tuple[EmpiricalRisk, Tensor, int]:
    """The longest of the steps 1, 1/2, … whose measure does not exceed the limit (the shortest if none)."""
    scale, tried = 1.0, 1
    new = risk.at(risk.weights + direction)
    found = measure(new)
    while not float(found.norm()) <= limit and tried < 12:
        scale, tried = scale / 2, tried + 1
        new = risk.at(risk.weights + scale * direction)
        found = measure(new)
    return new, found, tried


def finish(
    start: EmpiricalRisk,
    end: EmpiricalRisk,
    gradients: int,
    status: Status,
    course: dict[int, Tensor] | None = None,
) -> Retrained:
    """The result of a run, with the gradient and the risk at its end.

    Args:
        start: The moved risk at ``w̄``.
        end: The moved risk at the weights reached.
        gradients: That the run took.
        status: How it ended.
        course: Weights on the way.
    """
    return Retrained(
        weights=end.weights,
        change=end.weights - start.weights,
        gradient_norm=float(end.gradient().norm()),
        risk=end.value(),
        gradients=gradients,
        status=status,
        course=course or {},
    )
