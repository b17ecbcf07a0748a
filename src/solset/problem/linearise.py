"""Which optimality map, which operators, which solver."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from torch import Tensor

from solset.derivatives import Linearisation
from solset.errors import bad_value
from solset.linalg import Space
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


def linearise(
    risk: EmpiricalRisk,
    points: Sequence[int],
    optimality: Optimality,
    solver: Solver | None,
    *,
    gradient: Tensor,
    fit: float,
    memory_budget: int,
) -> Linearisation:
    """The pair of operators of the chosen optimality map, with a solver and the reason for the choice.

    Args:
        risk: At the trained point.
        points: ``K``, checked.
        optimality: The map, or ``"auto"``.
        solver: ``None`` for the default of the map and the sizes.
        gradient: ``∇_w E`` at the trained point.
        fit: Mean norm of the loss gradient in the outputs.
        memory_budget: Bytes for graphs, and again for rows and Gram matrix.

    Raises:
        ValueError: If the map is unknown, or ``"interpolating"`` is asked of an unfitted problem.
    """
    if optimality not in get_args(Optimality):
        raise bad_value(
            "optimality",
            expected=f"one of {get_args(Optimality)}",
            got=repr(optimality),
            cure='Leave it out for "auto".',
        )
    maps = _Maps(risk, points, solver, gradient, memory_budget)
    match optimality:
        case "interpolating":
            obstacle = _not_fitted(risk, fit)
            if obstacle:
                raise bad_value(
                    "optimality",
                    expected='a fitted problem for "interpolating"',
                    got=obstacle,
                    cure='Train to the fit, or use "stationary".',
                )
            return maps.interpolating("interpolating, as asked for")
        case "gauss_newton":
            return maps.gauss_newton("gauss_newton, as asked for")
        case "stationary":
            return maps.stationary("stationary, as asked for")
    return _automatic(maps, fit)


def _not_fitted(risk: EmpiricalRisk, fit: float) -> str:
    """Why the problem is not a fitted one, or nothing."""
    if risk.weight_decay > 0:
        return f"weight decay {risk.weight_decay:g}, under which the training outputs are not kept"
    if not fit <= FIT_TOL:
        return (
            f"a training set that is not fitted (mean loss gradient in the outputs {fit:.3g} > {FIT_TOL:g})"
        )
    return ""


def _automatic(maps: "_Maps", fit: float) -> Linearisation:
    """Interpolating if it is fitted and its rows are verified independent, else stationary."""
    obstacle = _not_fitted(maps.risk, fit)
    rows = len(maps.risk.points) * maps.outputs
    if not obstacle and not maps.gram_fits(rows):
        obstacle = f"{rows} rows of J, too many to verify that they are independent"
    if obstacle:
        return maps.stationary(f"stationary because of {obstacle}")
    candidate = maps.interpolating("")
    rank = candidate.system.rank
    if rank is None:
        return maps.stationary("stationary because the solver given cannot verify the rank of J")
    if rank < rows:
        return maps.stationary(f"stationary because the {rows} rows of J have numerical rank {rank}")
    reason = f"interpolating because the training set is fitted and the {rows} rows of J are independent"
    return replace_reason(candidate, reason)


def replace_reason(line: Linearisation, reason: str) -> Linearisation:
    """The same linearisation, with its prepared system, for another reason."""
    renamed = replace(line, reason=reason)
    renamed.__dict__["system"] = line.system
    return renamed


class _Maps:
    """The three optimality maps of one risk and one choice of points."""

    def __init__(
        self,
        risk: EmpiricalRisk,
        points: Sequence[int],
        solver: Solver | None,
        gradient: Tensor,
        memory_budget: int,
    ) -> None:
        self.risk, self.points, self.solver, self.budget = risk, points, solver, memory_budget
        inputs, _ = risk.points[[0]]
        self.outputs = risk.forward(risk.layout.split(risk.weights), inputs).numel()
        kind = (risk.weights.dtype, risk.weights.device)
        self._spaces = {
            "data_space": Space("dx", (len(points), *inputs.shape[1:]), *kind),
            "weight_space": Space("q", (risk.layout.size,), *kind),
            "gradient": gradient,
        }

    def gram_fits(self, rows: int) -> bool:
        return rows <= MOST_ROWS and 8 * rows * (2 * rows + 2 * self.risk.layout.size) <= self.budget

    def interpolating(self, reason: str) -> Linearisation:
        constraint = Jacobian(self.risk, memory_budget=self.budget)
        default = Dual(memory_budget=self.budget) if self.gram_fits(constraint.shape[0]) else LSMR()
        return Linearisation(
            constraint,
            InputJacobian(self.risk, self.points, memory_budget=self.budget),
            self.solver or default,
            row_weights=lambda: row_weights(self.risk),
            optimality="interpolating",
            reason=reason,
            **self._spaces,
        )

    def gauss_newton(self, reason: str) -> Linearisation:
        constraint = GaussNewton(self.risk, memory_budget=self.budget)
        if self.gram_fits(constraint.factor.shape[0]):
            default: Solver = Dual(memory_budget=self.budget)
        else:
            default = Dense(memory_budget=self.budget) if constraint.shape[0] <= MOST_DENSE else CG()
        return self._second_order(constraint, self.solver or default, "gauss_newton", reason)

    def stationary(self, reason: str) -> Linearisation:
        constraint = Hessian(self.risk, memory_budget=self.budget)
        return self._second_order(constraint, self.solver or self._hessian_solver(), "stationary", reason)

    def _hessian_solver(self) -> Solver:
        p = self.risk.layout.size
        if p <= MOST_DENSE:
            return Dense(memory_budget=self.budget)
        side = min(p, len(self.risk.points) * self.outputs)
        if self.risk.weight_decay > 0 and side <= MOST_ROWS and 16 * side * side <= self.budget:
            inverse = GaussNewtonInverse(self.risk, memory_budget=self.budget)
            return FirstToConverge((CG(preconditioner=inverse), MINRES()))
        return MINRES()

    def _second_order(
        self, constraint: Hessian | GaussNewton, solver: Solver, name: str, reason: str
    ) -> Linearisation:
        return Linearisation(
            constraint,
            Mixed(self.risk, self.points, memory_budget=self.budget),
            solver,
            row_weights=None,
            optimality=name,
            reason=reason,
            **self._spaces,
        )
