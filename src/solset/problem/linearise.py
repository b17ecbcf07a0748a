"""Which optimality map, which operators, which solver."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from solset.derivatives import Constraint, Linearisation, Selection
from solset.door import checked
from solset.errors import bad_type, bad_value
from solset.linalg import LinearOperator, Space
from solset.operators import (
    GaussNewton,
    GaussNewtonInverse,
    Hessian,
    InformativeRows,
    InputJacobian,
    Jacobian,
    Mixed,
    OutputCurvature,
    RowWeights,
)
from solset.problem.informative import InformativeSelection
from solset.problem.stored import restore
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
        outputs: Of all points there, ``(n, *out)``.
        fit: Mean norm of the loss gradient in the outputs.
        memory_budget: Bytes for graphs, and again for rows and Gram matrix.
        spill_folder: Where rows that do not fit it are kept on the disk.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        *,
        gradient: Tensor,
        outputs: Tensor,
        fit: float,
        memory_budget: int,
        spill_folder: Path | None = None,
    ) -> None:
        self._risk, self._gradient, self._fit, self._budget = risk, gradient, fit, memory_budget
        self._folder, self._outputs = spill_folder, outputs
        inputs, _ = risk.points[[0]]
        self._input_shape = tuple(inputs.shape[1:])
        self._rows = len(risk.points) * risk.forward(risk.layout.split(risk.weights), inputs).numel()
        self._constraints: dict[tuple[str, Solver | None], Constraint] = {}
        self._latest: tuple[object, InformativeSelection] | None = None

    @checked
    def choose(
        self,
        points: Sequence[int],
        optimality: Optimality,
        solver: Solver | None,
        rows: InformativeRows | None = None,
    ) -> Linearisation | Selection:
        """The pair of operators of the chosen optimality map, with a solver and the reason for the choice.

        Args:
            points: ``K``, checked.
            optimality: The map, or ``"auto"``.
            solver: ``None`` for the default of the map and the sizes.
            rows: Accuracy of the rows in use; ``None`` takes all rows where they fit, else those that carry
                the constraint to the default accuracy.

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
        if optimality == "interpolating" and self.obstacle:
            raise bad_value(
                "optimality",
                expected='a fitted problem for "interpolating"',
                got=self.obstacle,
                cure='Train to the fit, or use "stationary".',
            )
        self._check_rows(optimality, solver, rows)
        if optimality == "auto":
            return self._automatic(points, solver, rows)
        if optimality == "interpolating" and self._selects(solver, rows):
            selection = self._select(points, solver, rows)
            return selection.matrix_free() if selection.too_many else selection
        return self._pair(points, optimality, solver, f"{optimality}, as asked for")

    def _check_rows(
        self, optimality: Optimality, solver: Solver | None, rows: InformativeRows | None
    ) -> None:
        if rows is None:
            return
        if optimality not in {"auto", "interpolating"}:
            raise bad_value(
                "rows",
                expected='left out for this map: only "interpolating" has rows of J',
                got=f'{rows} with "{optimality}"',
                cure='Leave it out, or take "interpolating".',
            )
        if not isinstance(solver, Dual | None):
            raise bad_value(
                "solver",
                expected="Dual with a choice of rows",
                got=solver,
                cure="Leave the solver out, or the rows.",
            )

    @property
    def obstacle(self) -> str:
        """Why the problem is not a fitted one, or nothing."""
        if self._risk.weight_decay > 0:
            return f"weight decay {self._risk.weight_decay:g}, under which the training outputs are not kept"
        if not self._fit <= FIT_TOL:
            return (
                f"a training set that is not fitted (mean loss gradient in the outputs {self._fit:.3g} > "
                f"{FIT_TOL:g})"
            )
        return ""

    def _automatic(
        self, points: Sequence[int], solver: Solver | None, rows: InformativeRows | None
    ) -> Linearisation | Selection:
        """Interpolating if it is fitted and the rows in use are verified independent, else stationary."""
        obstacle = self.obstacle and f"of {self.obstacle}"
        if not obstacle and solver is not None and not solver.takes(Jacobian(self._risk, memory_budget=0)):
            obstacle = "the solver given is not one for rows of J"
        if not obstacle:
            found = self._verified(points, solver, rows)
            if not isinstance(found, str):
                return found
            obstacle = found
        return self._pair(points, "stationary", solver, f"stationary because {obstacle}")

    def _verified(
        self, points: Sequence[int], solver: Solver | None, rows: InformativeRows | None
    ) -> Linearisation | Selection | str:
        """The interpolating map if the rows in use are independent, or what speaks against it."""
        if not self.gram_fits and not self._curvature_fits():
            return f"the loss's curvature in {self._rows} outputs does not fit the memory budget"
        if self._selects(solver, rows):
            selection = self._select(points, solver, rows)
            try:
                too_many = selection.too_many
            except ValueError as error:  # no plan fits; whoever asks for this map by name is told so
                return f"no rows of J can be kept: {error}"
            if too_many:
                return f"of {too_many}: too many to verify that they are independent"
            rank, count = selection.linearisation.system.rank, len(selection.choice.directions)
            return selection if rank == count else f"the {count} rows of J in use have numerical rank {rank}"
        rank = self._constraint("interpolating", solver).system.rank
        if rank is None:
            return "the solver given cannot verify the rank of J"
        if rank < self._rows:
            return f"the {self._rows} rows of J have numerical rank {rank}"
        reason = f"the training set is fitted and the {rank} rows of J are independent"
        return self._pair(points, "interpolating", solver, f"interpolating because {reason}")

    def _selects(self, solver: Solver | None, rows: InformativeRows | None) -> bool:
        """Whether to work on some rows: where asked to, or where a Gram matrix of all does not fit."""
        if not isinstance(solver, Dual | None):
            return False
        return rows is not None or (self._curvature_fits() and not self.gram_fits)

    def _select(
        self, points: Sequence[int], solver: Solver | None, rows: InformativeRows | None
    ) -> InformativeSelection:
        """The selection of rows for these points; the latest is kept."""
        key = (tuple(points), solver, rows)
        if self._latest is None or self._latest[0] != key:
            self._latest = None  # what it keeps is large: let go of it before the next is made
            default = Dual(memory_budget=self._budget, folder=self._folder, is_equilibrated=True)
            selection = InformativeSelection(
                risk=self._risk,
                moved=list(points),
                settings=rows or InformativeRows(),
                solver=solver if isinstance(solver, Dual) else default,
                curvature=self._curvature,
                frame=partial(self._linearisation, points, "interpolating"),
                memory_budget=self._budget,
            )
            self._latest = (key, selection)
        return self._latest[1]

    def restore(self, folder: Path) -> InformativeSelection:
        """The selection that an earlier run stored for this problem.

        Args:
            folder: Of that run.

        Raises:
            ValueError: If it is damaged, or of another problem.
        """
        solver = Dual(memory_budget=self._budget, folder=self._folder, is_equilibrated=True)
        kept = restore(folder, self._risk, solver)
        return InformativeSelection(
            risk=self._risk,
            moved=kept.moved,
            settings=kept.settings,
            solver=solver,
            curvature=kept.choice.curvature,
            frame=partial(self._linearisation, kept.moved, "interpolating"),
            memory_budget=self._budget,
            kept=kept,
        )

    @cached_property
    def _curvature(self) -> OutputCurvature:
        return OutputCurvature.of(self._risk, self._outputs)

    def _pair(self, points: Sequence[int], name: str, solver: Solver | None, reason: str) -> Linearisation:
        derivative: Callable[..., LinearOperator] = InputJacobian if name == "interpolating" else Mixed
        data = derivative(self._risk, points, memory_budget=self._budget)
        return self._linearisation(points, name, self._constraint(name, solver), data, reason)

    def _linearisation(
        self, points: Sequence[int], name: str, constraint: Constraint, data: LinearOperator, reason: str
    ) -> Linearisation:
        kind = (self._risk.weights.dtype, self._risk.weights.device)
        in_use, all_rows = constraint.operator.shape[0], self._rows
        return Linearisation(
            left_out=all_rows - in_use if name == "interpolating" else 0,
            constraint=constraint,
            data=data,
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

    @property
    def gram_fits(self) -> bool:
        """Whether all rows of J and their Gram matrix fit, without being asked for."""
        needed = 8 * self._rows * (2 * self._rows + 2 * self._risk.layout.size)
        return self._rows <= MOST_ROWS and needed <= self._budget

    def _curvature_fits(self) -> bool:
        """Whether the loss's curvature at every point, with its eigenvectors, fits."""
        return 3 * 8 * self._rows**2 // len(self._risk.points) <= self._budget

    def _interpolating(self, solver: Solver | None) -> Constraint:
        default = Dual(memory_budget=self._budget) if self.gram_fits else LSMR()
        rows = Jacobian(self._risk, memory_budget=self._budget)
        return Constraint(rows, solver or default, lambda: RowWeights(self._risk))

    def _gauss_newton(self, solver: Solver | None) -> Constraint:
        operator = GaussNewton(self._risk, memory_budget=self._budget)
        if self.gram_fits:
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
