"""Which optimality map, which operators, which solver."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from torch import Tensor

from solset.derivatives import Constraint, Linearisation
from solset.errors import bad_type, bad_value
from solset.linalg import LinearOperator, Space
from solset.operators import (
    GaussNewton,
    GaussNewtonInverse,
    Hessian,
    InputJacobian,
    Jacobian,
    Mixed,
    row_weights,
)
from solset.risk import EmpiricalRisk
from solset.solvers import CG, LSMR, MINRES, Dense, Dual, FirstToConverge, Solver

Optimality = Literal["auto", "interpolating", "gauss_newton", "stationary"]

FIT_TOL = 1e-2  # mean norm of the loss gradient in the outputs up to which a training set counts as fitted
MOST_ROWS = 6000  # rows of J up to which a Gram matrix is built without being asked for
MOST_DENSE = 1000  # weights up to which a Hessian is written out without being asked for


class Linearisations:
    """The linearisations of one trained point: three optimality maps, any choice of moved points.

    What a solver keeps about ``H`` or ``J`` does not depend on which points move; it is made once for each
    map and solver and serves every later call.

    Args:
        risk: At the trained point.
        gradient: ``∇_w E`` there.
        fit: Mean norm of the loss gradient in the outputs.
        memory_budget: Bytes for graphs, and again for rows and Gram matrix.
    """

    def __init__(self, risk: EmpiricalRisk, *, gradient: Tensor, fit: float, memory_budget: int) -> None:
        self._risk, self._gradient, self._fit, self._budget = risk, gradient, fit, memory_budget
        inputs, _ = risk.points[[0]]
        self._input_shape = tuple(inputs.shape[1:])
        self._rows = len(risk.points) * risk.forward(risk.layout.split(risk.weights), inputs).numel()
        self._constraints: dict[tuple[str, Solver | None], Constraint] = {}

    def choose(self, points: Sequence[int], optimality: Optimality, solver: Solver | None) -> Linearisation:
        """The pair of operators of the chosen optimality map, with a solver and the reason for the choice.

        Args:
            points: ``K``, checked.
            optimality: The map, or ``"auto"``.
            solver: ``None`` for the default of the map and the sizes.

        Raises:
            TypeError: If the solver is not one for the map's operator.
            ValueError: If the map is unknown, or ``"interpolating"`` is asked of an unfitted problem.
        """
        if optimality not in get_args(Optimality):
            raise bad_value(
                "optimality",
                expected=f"one of {get_args(Optimality)}",
                got=repr(optimality),
                cure='Leave it out for "auto".',
            )
        if optimality == "interpolating" and self._obstacle():
            raise bad_value(
                "optimality",
                expected='a fitted problem for "interpolating"',
                got=self._obstacle(),
                cure='Train to the fit, or use "stationary".',
            )
        if optimality == "auto":
            optimality, reason = self._automatic(solver)
        else:
            reason = f"{optimality}, as asked for"
        return self._pair(points, optimality, solver, reason)

    def _obstacle(self) -> str:
        """Why the problem is not a fitted one, or nothing."""
        if self._risk.weight_decay > 0:
            return f"weight decay {self._risk.weight_decay:g}, under which the training outputs are not kept"
        if not self._fit <= FIT_TOL:
            return (
                f"a training set that is not fitted (mean loss gradient in the outputs {self._fit:.3g} > "
                f"{FIT_TOL:g})"
            )
        return ""

    def _automatic(self, solver: Solver | None) -> tuple[Optimality, str]:
        """Interpolating if it is fitted and its rows are verified independent, else stationary; and why."""
        obstacle, rows = self._obstacle(), self._rows
        if not obstacle and not self._gram_fits():
            obstacle = f"{rows} rows of J, too many to verify that they are independent"
        if obstacle:
            return "stationary", f"stationary because of {obstacle}"
        if solver is not None and not solver.takes(Jacobian(self._risk, memory_budget=0)):
            return "stationary", "stationary because the solver given is not one for rows of J"
        rank = self._constraint("interpolating", solver).system.rank
        if rank is None:
            return "stationary", "stationary because the solver given cannot verify the rank of J"
        if rank < rows:
            return "stationary", f"stationary because the {rows} rows of J have numerical rank {rank}"
        fitted = f"the training set is fitted and the {rows} rows of J are independent"
        return "interpolating", f"interpolating because {fitted}"

    def _pair(self, points: Sequence[int], name: str, solver: Solver | None, reason: str) -> Linearisation:
        derivative: Callable[..., LinearOperator] = InputJacobian if name == "interpolating" else Mixed
        kind = (self._risk.weights.dtype, self._risk.weights.device)
        return Linearisation(
            constraint=self._constraint(name, solver),
            data=derivative(self._risk, points, memory_budget=self._budget),
            data_space=Space("dx", (len(points), *self._input_shape), *kind),
            weight_space=Space("q", (self._risk.layout.size,), *kind),
            gradient=self._gradient,
            optimality=name,
            reason=reason,
        )

    def _constraint(self, name: str, solver: Solver | None) -> Constraint:
        key = (name, solver)
        if key not in self._constraints:
            make = {
                "interpolating": self._interpolating,
                "gauss_newton": self._gauss_newton,
                "stationary": self._stationary,
            }
            constraint = make[name](solver)
            if not constraint.solver.takes(constraint.operator):
                raise bad_type(
                    "solver",
                    expected=f'one for the {type(constraint.operator).__name__} of the "{name}" map',
                    got=constraint.solver,
                    cure="Leave it out; rows take LSMR or Dual, a symmetric operator Dense, MINRES or CG.",
                )
            self._constraints[key] = constraint
        return self._constraints[key]

    def _gram_fits(self) -> bool:
        needed = 8 * self._rows * (2 * self._rows + 2 * self._risk.layout.size)
        return self._rows <= MOST_ROWS and needed <= self._budget

    def _interpolating(self, solver: Solver | None) -> Constraint:
        default = Dual(memory_budget=self._budget) if self._gram_fits() else LSMR()
        rows = Jacobian(self._risk, memory_budget=self._budget)
        return Constraint(rows, solver or default, lambda: row_weights(self._risk))

    def _gauss_newton(self, solver: Solver | None) -> Constraint:
        operator = GaussNewton(self._risk, memory_budget=self._budget)
        if self._gram_fits():
            default: Solver = Dual(memory_budget=self._budget)
        else:
            default = Dense(memory_budget=self._budget) if operator.shape[0] <= MOST_DENSE else CG()
        return Constraint(operator, solver or default)

    def _stationary(self, solver: Solver | None) -> Constraint:
        return Constraint(Hessian(self._risk, memory_budget=self._budget), solver or self._hessian_solver())

    def _hessian_solver(self) -> Solver:
        p = self._risk.layout.size
        if p <= MOST_DENSE:
            return Dense(memory_budget=self._budget)
        side = min(p, self._rows)
        if self._risk.weight_decay > 0 and side <= MOST_ROWS and 16 * side * side <= self._budget:
            inverse = GaussNewtonInverse(self._risk, memory_budget=self._budget)
            return FirstToConverge((CG(preconditioner=inverse), MINRES()))
        return MINRES()
