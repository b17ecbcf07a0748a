"""The solution nearest to the trained weights that keeps the training outputs."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from solset.checks import checked
from solset.courses import Retrained
from solset.errors import Status
from solset.operators import Jacobian
from solset.retraining._ends import backtracked, finish
from solset.risk import EmpiricalRisk
from solset.solvers import Dual


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

    def run(self, start: EmpiricalRisk, target: Tensor) -> Retrained:
        """Where the iteration from ``w̄`` ends.

        Args:
            start: Changed risk at ``w̄``.
            target: Outputs ``f̄`` to keep, ``(n, c)``.
        """
        return self.run_towards(start.weights, start, target)

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
        left = f"output error {error:.2g}"
        if self.max_steps:
            left += f", where the last step was {previous / (travelled or 1.0):.2g} of the way"
        return replace(finish(start, risk, self.max_steps + steps, Status.MAX_STEPS), left=left)

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
