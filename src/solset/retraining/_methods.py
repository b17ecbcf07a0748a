"""Ways to retrain from the trained weights, each a value with a method ``run``."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy
import torch
from torch import Tensor
from tqdm import trange

from solset.checks import checked, positive, within
from solset.courses import Retrained
from solset.errors import Status, bad_value
from solset.operators import Jacobian
from solset.retraining._descent import Descent
from solset.risk import EmpiricalRisk
from solset.solvers import Dual, Solver

Target = Callable[[], Tensor]  # gives the outputs that fit the changed data, ``(n, c)``


def backtracked(
    risk: EmpiricalRisk, direction: Tensor, measure: Callable[[EmpiricalRisk], Tensor], limit: float
) -> tuple[EmpiricalRisk, Tensor, int]:
    """The longest of the steps 1, 1/2, … whose measure is at most the limit, or the shortest of twelve.

    Returns the risk after the step, its measure, and the number of steps tried.
    """
    scale, tried = 1.0, 1
    new = risk.at(risk.weights + direction)
    measured = measure(new)
    while not float(measured.norm()) <= limit and tried < 12:
        scale, tried = scale / 2, tried + 1
        new = risk.at(risk.weights + scale * direction)
        measured = measure(new)
    return new, measured, tried


def finish(
    start: EmpiricalRisk,
    end: EmpiricalRisk,
    gradients: int,
    status: Status,
    course: dict[int, Tensor] | None = None,
) -> Retrained:
    """The result of a training from one risk to another, with the gradient and the value at its end.

    A training whose weights are not finite ends with status ``nonfinite``, whatever its target.
    """
    is_finite = bool(torch.isfinite(end.weights).all())
    return Retrained(
        weights=end.weights,
        change=end.weights - start.weights,
        gradient_norm=float(end.gradient().norm()),
        risk=end.value(),
        gradients=gradients,
        status=status if is_finite else Status.NONFINITE,
        layout=start.layout,
        course=course or {},
    )


@checked
@dataclass(frozen=True)
class GradientDescent:
    """Full-batch gradient descent from ``w̄`` for a stated number of steps.

    Attributes:
        steps: Number ``k`` of steps; each costs one gradient.
        learning_rate: Learning rate ``η`` for the loss as reduced.
        record_at: Steps after which to keep the weights, from 1 to ``steps``.
        progress: Whether to show a progress bar; by default only on a terminal.

    Raises:
        ValueError: If the number of steps is negative, or a step to record is not taken.
    """

    steps: int
    learning_rate: float
    record_at: tuple[int, ...] = ()
    progress: bool | None = None

    def __post_init__(self) -> None:
        within("steps", self.steps, 0, cure="Count the steps taken.")
        check_recorded(self.record_at, self.steps)

    def run(self, start: EmpiricalRisk, target: Target) -> Retrained:  # noqa: ARG002 - part of the interface
        """Where descent from the changed risk at ``w̄`` ends; ``target`` is not used."""
        risk, course = start, {}
        hidden = None if self.progress is None else not self.progress
        for step in trange(1, self.steps + 1, desc="retraining", disable=hidden, leave=False):
            risk = risk.at(risk.weights - self.learning_rate * risk.gradient())
            if step in self.record_at:
                course[step] = risk.weights
        return finish(start, risk, self.steps, Status.CONVERGED, course)


@checked
@dataclass(frozen=True)
class LBFGS:
    """L-BFGS from ``w̄`` (SciPy's L-BFGS-B without bounds): what warm retraining means in practice.

    Attributes:
        gradient_tol: Largest entry of the gradient at which to stop.
        max_gradients: Limit of evaluations of the risk with its gradient.
        memory: Number of pairs from which the curvature is estimated.
    """

    gradient_tol: float = 1e-10
    max_gradients: int = 500
    memory: int = 20

    def run(self, start: EmpiricalRisk, target: Target) -> Retrained:  # noqa: ARG002 - part of the interface
        """Where the minimisation of the changed risk from ``w̄`` ends; ``target`` is not used."""
        course: dict[int, Tensor] = {}
        count = 0

        def as_weights(x: np.ndarray) -> Tensor:
            return torch.from_numpy(x.copy()).to(start.weights)

        def both(x: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal count
            count += 1
            value, gradient = start.at(as_weights(x)).value_and_gradient()
            return value, _as_array(gradient)

        def keep(x: np.ndarray) -> None:
            course[count] = as_weights(x)

        limits = {"maxfun": self.max_gradients, "maxiter": self.max_gradients, "maxcor": self.memory}
        out = scipy.optimize.minimize(
            both,
            _as_array(start.weights),
            jac=True,
            method="L-BFGS-B",
            callback=keep,
            options={**limits, "gtol": self.gradient_tol, "ftol": 0.0},
        )
        end = start.at(as_weights(out.x))
        is_met = float(end.gradient().abs().max()) <= self.gradient_tol
        return finish(start, end, count, Status.CONVERGED if is_met else Status.MAX_STEPS, course)


def _as_array(vector: Tensor) -> np.ndarray:
    return vector.to("cpu", torch.float64).numpy()


def check_recorded(record_at: Sequence[int], steps: int) -> None:
    """Refuses steps to record that are not taken."""
    if not all(1 <= step <= steps for step in record_at):
        raise bad_value("record_at", expected=f"in 1..{steps}", got=tuple(record_at), cure="Take more steps.")


@dataclass(frozen=True)
class WithOptimizer:
    """Epochs of mini-batches from ``w̄`` with a first-order optimiser of ``torch.optim``, in evaluation mode.

    Attributes:
        optimizer: Function from the parameter tensors to an optimiser whose ``step`` needs no closure.
        epochs: Number of passes over the changed data; each costs one full-batch gradient.
        batch_size: Number of points per step.
        seed: Seed of the order of the points.
        progress: Whether to show a progress bar; by default only on a terminal.

    Raises:
        ValueError: If there is no epoch, a batch has no point, or the optimiser needs a closure.

    Cost: a full-batch gradient an epoch; the weights after each epoch are kept.

    Example:
        >>> WithOptimizer(lambda weights: torch.optim.Adam(weights, lr=1e-4), epochs=3).epochs
        3
    """

    optimizer: Callable[[Sequence[Tensor]], torch.optim.Optimizer]
    epochs: int
    batch_size: int = 128
    seed: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        within("epochs", self.epochs, 1, cure="Train for one.")
        within("batch_size", self.batch_size, 1, cure="Leave it out.")

    def run(self, start: EmpiricalRisk, target: Target) -> Retrained:  # noqa: ARG002 - part of the interface
        """Where the optimiser goes from the changed risk at ``w̄``; ``target`` is not used."""
        leaves = start.leaves()
        optimizer = self.optimizer(leaves)
        if isinstance(optimizer, torch.optim.LBFGS):
            raise bad_value(
                "optimizer",
                expected="one whose step needs no closure",
                got="torch.optim.LBFGS",
                cure="Use solset.retraining.LBFGS.",
            )
        generator = torch.Generator().manual_seed(self.seed)
        course: dict[int, Tensor] = {}
        hidden = None if self.progress is None else not self.progress
        for epoch in trange(1, self.epochs + 1, desc="retraining", disable=hidden, leave=False):
            for inputs, targets in self._shuffled(start, generator):
                optimizer.zero_grad()
                with torch.enable_grad():
                    # The mean over the batch stands for the mean over the data; a sum is scaled up to it.
                    loss = start.loss(start.forward(leaves, inputs), targets)
                    scale = 1.0 if start.reduction == "mean" else len(start.points) / len(inputs)
                    (scale * loss + start.regularisation(leaves)).backward()
                optimizer.step()
            course[epoch] = start.layout.join([leaf.detach() for leaf in leaves])
        end = replace(start, weights=course[self.epochs])
        return finish(start, end, self.epochs, Status.CONVERGED, course)  # its target is to take all steps

    def _shuffled(self, risk: EmpiricalRisk, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(risk.points), generator=generator).tolist()
        for first in range(0, len(order), self.batch_size):
            yield risk.points[order[first : first + self.batch_size]]


@checked
@dataclass(frozen=True)
class LevenbergMarquardt:
    """The nearest weights to ``w̄`` that keep the training outputs: ``min ‖w - w̄‖`` with ``f(x̄ + Δx, w) = f̄``.

    For fitted, overparameterised problems. Each step solves the linearised constraint for the element
    nearest to ``w̄`` (not to the current iterate) through the Gram matrix of the rows, and is shortened while
    the steps do not shrink. Activation kinks can keep it from settling: then it ends *on* the set, near the
    nearest point, with status ``max_steps``.

    Attributes:
        output_tol: Largest output error at which to stop.
        max_steps: Limit of Gram builds in search of the nearest point; a few more may end on the set.
        step_tol: Length of a step relative to the distance travelled at which to stop; ``output_tol`` by
            default.
        solver: Solver that keeps the rows and their Gram matrix, within its memory budget.
    """

    output_tol: float = 1e-10
    max_steps: int = 20
    step_tol: float | None = None
    solver: Dual = field(default_factory=Dual)

    def run(self, start: EmpiricalRisk, target: Target) -> Retrained:
        """Where the iteration from ``w̄`` ends, with the outputs to keep as its target."""
        return self.run_towards(start.weights, start, target())

    def run_towards(self, anchor: Tensor, start: EmpiricalRisk, target: Tensor) -> Retrained:
        """Where the iteration from other weights ends, which still looks for the point nearest to ``w̄``.

        Args:
            anchor: Trained weights ``w̄``, ``(p,)``.
            start: Changed risk at the weights to begin with.
            target: Outputs ``f̄`` to keep, ``(n, c)``.
        """
        risk, scale, previous, travelled = start, 1.0, float("inf"), 0.0
        for step in range(1, self.max_steps + 1):
            error = (risk.outputs() - target).flatten()
            rows = self.solver.prepare(Jacobian(risk, memory_budget=0))
            nearest = anchor + rows.solve(rows.operator @ (risk.weights - anchor) - error).value
            direction = nearest - risk.weights
            length, travelled = float(direction.norm()), float((risk.weights - anchor).norm())
            step_tol = self.step_tol or self.output_tol
            rounding = 10 * torch.finfo(anchor.dtype).eps * float(anchor.norm())
            has_settled = length <= max(step_tol * max(travelled, self.output_tol), rounding)
            if float(error.abs().max()) <= self.output_tol and has_settled:
                return finish(start, risk, step, Status.CONVERGED)
            scale = scale / 2 if length > 0.9 * previous and scale > 0.1 else scale
            risk, previous = risk.at(risk.weights + scale * direction), length
        risk, steps = self._onto_set(risk, target)
        error = float((risk.outputs() - target).abs().max())
        rounding = torch.finfo(target.dtype).eps ** 0.5 * float(target.abs().max())
        is_on_set = error <= max(self.output_tol, rounding)
        left = f"output error {error:.2g}"
        if self.max_steps:
            left += f", where the last step was {previous / (travelled or 1.0):.2g} of the way"
        ended = finish(start, risk, self.max_steps + steps, Status.MAX_STEPS)
        return replace(ended, left=left, is_solution=is_on_set)

    def _onto_set(self, risk: EmpiricalRisk, target: Tensor) -> tuple[EmpiricalRisk, int]:
        """Gauss–Newton steps until the outputs are kept, each halved while it raises the output error."""
        for step in range(10):
            error = (risk.outputs() - target).flatten()
            if float(error.abs().max()) <= self.output_tol:
                return risk, step
            direction = self.solver.solve(Jacobian(risk, memory_budget=0), -error).value
            limit = float(error.norm())
            risk, _, _ = backtracked(risk, direction, lambda r: (r.outputs() - target).flatten(), limit)
        return risk, 10


@checked
@dataclass(frozen=True)
class Newton:
    """The minimum of the changed risk at which the gradient flow from ``w̄`` ends, by steps of Newton's kind.

    Each step goes along the flow ``w' = -∇E`` of the risk to second order, ``-φ(H) ∇E`` with
    ``φ(s) = (1 - e^{-ts})/s``: for as long a time as gradients on the way agree with that model, and for an
    infinite time, which is Newton's step, where they agree that far. So it goes down where the Hessian has
    negative eigenvalues, and leaves the neighbourhood of ``w̄`` only where gradient descent does. It has
    converged where the gradient vanishes *and* the Hessian has no negative eigenvalue: from a saddle it
    goes on along the lowest eigenvector.

    Attributes:
        gradient_tol: Gradient norm at which to stop. Where rounding does not allow it, the method stops once
            a Newton step is shorter than the root of the rounding unit, relative to the weights. It has
            converged there only if rounding explains each entry of the gradient that is left.
        max_steps: Limit of the steps.
        solver: Solver of the systems with a positive definite Hessian; by default a decomposition of the
            whole Hessian up to 1000 weights, :class:`~solset.solvers.CG` beyond.

    Raises:
        ValueError: If the tolerance is not positive, or the number of steps is negative.

    Cost: for each step one Hessian up to 1000 weights, beyond that one linear system, or 40 products where
    the Hessian is not positive definite; one to five gradients; at the end one Hessian or 40 to 160 products.
    """

    gradient_tol: float = 1e-10
    max_steps: int = 100
    solver: Solver | None = None

    def __post_init__(self) -> None:
        positive("gradient_tol", self.gradient_tol, cure="Use 1e-10.")
        within("max_steps", self.max_steps, 0, cure="Use 100.")

    def run(self, start: EmpiricalRisk, target: Target) -> Retrained:  # noqa: ARG002 - part of the interface
        """The minimum that the flow from the changed risk ends at; ``target`` is not used.

        The status is ``indefinite`` where the limit of steps ended at a saddle.
        """
        descent = Descent(start, self.gradient_tol, self.max_steps, self.solver)
        status = descent.run()
        ended = finish(start, descent.end, descent.passes, status)
        return replace(ended, smallest=descent.smallest, is_solution=status is Status.CONVERGED)
