"""Which optimality map, which operators, which solver."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, get_args

from solset.checks import checked
from solset.derivatives import Constraint, Linearisation, Selection
from solset.errors import bad_type, bad_value
from solset.linalg import LinearOperator, Space
from solset.operators import (
    CurvatureRoot,
    GaussNewton,
    Hessian,
    InformativeRows,
    InputJacobian,
    Jacobian,
    Mixed,
    OutputCurvature,
)
from solset.problem._defaults import Defaults, Optimality
from solset.problem._informative import InformativeSelection
from solset.problem._stored import restore
from solset.risk import EmpiricalRisk, Sweep
from solset.solvers import Dual, Solver


class Linearisations:
    """The linearisations of one trained point: three optimality maps, any choice of moved points.

    What a solver keeps about ``H`` or ``J`` does not depend on which points move; it is made once for each
    map and solver and serves every later call. :attr:`defaults` are the rules.

    Args:
        risk: At the trained point.
        found: What one pass over all points found there.
        fit: Mean norm of the loss gradient in the outputs.
        memory_budget: Bytes for graphs, and again for rows and Gram matrix.
        spill_folder: Where rows that do not fit it are kept on the disk.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        *,
        found: Sweep,
        fit: float,
        memory_budget: int,
        spill_folder: Path | None = None,
    ) -> None:
        self._risk, self._found, self._budget = risk, found, memory_budget
        inputs, _ = risk.points[[0]]
        self._input_shape = tuple(inputs.shape[1:])
        outputs = found.outputs[0].numel()
        self.defaults = Defaults(risk, fit, outputs, memory_budget, spill_folder)
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
        if optimality == "interpolating" and self.defaults.obstacle:
            raise bad_value(
                "optimality",
                expected='a fitted problem for "interpolating"',
                got=self.defaults.obstacle,
                cure='Train to the fit, or use "stationary".',
            )
        self._check_rows(optimality, solver, rows)
        if optimality == "auto":
            return self._automatic(points, solver, rows)
        if optimality == "interpolating" and (use := self.in_use(points, solver, rows)) != "all":
            selection = self._select(points, solver, rows)
            return selection.matrix_free() if use == "weighted" else selection
        return self._pair(points, optimality, solver, f"{optimality}, as asked for")

    def in_use(
        self,
        points: Sequence[int],
        solver: Solver | None = None,
        rows: InformativeRows | None = None,
    ) -> Literal["all", "chosen", "weighted"]:
        """Which rows the interpolating map works on by name; all, weighted by the loss, go with LSMR.

        Args:
            points: ``K``, checked.
            solver: As for :meth:`choose`.
            rows: As for :meth:`choose`.

        Raises:
            ValueError: If no plan for the chosen ones fits the memory budget; names the smallest that works.
        """
        if not self.defaults.selects(solver, rows):
            return "all"
        return "weighted" if self.selection(points, solver, rows).too_many else "chosen"

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

    def refusal(
        self,
        points: Sequence[int],
        solver: Solver | None = None,
        rows: InformativeRows | None = None,
    ) -> str:
        """What speaks against the interpolating map, as far as it is known before a row of J is computed.

        What is left to find out is the rank of the rows in use.

        Args:
            points: ``K``, checked.
            solver: As for :meth:`choose`.
            rows: As for :meth:`choose`.
        """
        known = self.defaults
        if known.obstacle:
            return f"of {known.obstacle}"
        if solver is not None and not solver.takes(Jacobian(self._risk, memory_budget=0)):
            return "the solver given is not one for rows of J"
        if not known.gram_fits and not known.curvature_fits:
            return f"the loss's curvature in {known.rows} outputs does not fit the memory budget"
        count = known.rows
        if known.selects(solver, rows):
            selection = self.selection(points, solver, rows)
            try:
                too_many = selection.too_many
            except ValueError as error:  # no plan fits; whoever asks for this map by name is told so
                return f"no rows of J can be kept: {error}"
            if too_many:
                return f"of {too_many}: too many to verify that they are independent"
            count = len(selection.choice.directions)
        if count > known.weights:
            return f"{count} rows of J cannot be independent in {known.weights} weights"
        return ""

    def _automatic(
        self, points: Sequence[int], solver: Solver | None, rows: InformativeRows | None
    ) -> Linearisation | Selection:
        """Interpolating if it is fitted and the rows in use are verified independent, else stationary."""
        found = self.refusal(points, solver, rows) or self._verified(points, solver, rows)
        if isinstance(found, str):
            return self._pair(points, "stationary", solver, f"stationary because {found}")
        return found

    def _verified(
        self, points: Sequence[int], solver: Solver | None, rows: InformativeRows | None
    ) -> Linearisation | Selection | str:
        """The interpolating map if the rows in use are independent, or what speaks against it."""
        if self.defaults.selects(solver, rows):
            selection = self._select(points, solver, rows)
            rank, count = selection.linearisation.system.rank, len(selection.choice.directions)
            return selection if rank == count else f"the {count} rows of J in use have numerical rank {rank}"
        rank, count = self._constraint("interpolating", solver).system.rank, self.defaults.rows
        if rank is None:
            return "the solver given cannot verify the rank of J"
        if rank < count:
            return f"the {count} rows of J have numerical rank {rank}"
        reason = f"the training set is fitted and the {rank} rows of J are independent"
        return self._pair(points, "interpolating", solver, f"interpolating because {reason}")

    def selection(
        self, points: Sequence[int], solver: Solver | None = None, rows: InformativeRows | None = None
    ) -> InformativeSelection:
        """The selection of rows for these points, none of which is computed by this.

        Args:
            points: ``K``, checked.
            solver: ``None`` for the default.
            rows: Accuracy; ``None`` for the default.

        Cost: ``c`` sweeps through the loss alone, once; ``2·n·c²`` numbers.
        """
        key = (tuple(points), solver, rows)
        if self._latest is not None and self._latest[0] == key:
            return self._latest[1]
        found = InformativeSelection(
            risk=self._risk,
            moved=list(points),
            settings=rows or InformativeRows(),
            solver=solver if isinstance(solver, Dual) else self.defaults.selecting,
            curvature=self._curvature,
            frame=partial(self._linearisation, points, "interpolating"),
            memory_budget=self._budget,
        )
        if self._latest is None:  # one that has computed its rows stays until another is to compute its own
            self._latest = (key, found)
        return found

    def _select(
        self, points: Sequence[int], solver: Solver | None, rows: InformativeRows | None
    ) -> InformativeSelection:
        """The same, kept: what it computes serves the next call for these points."""
        found = self.selection(points, solver, rows)
        self._latest = ((tuple(points), solver, rows), found)  # lets go of the one before, which is large
        return found

    def restore(self, folder: Path) -> InformativeSelection:
        """The selection that an earlier run stored for this problem.

        Args:
            folder: Of that run.

        Raises:
            ValueError: If it is damaged, or of another problem.
        """
        solver = self.defaults.selecting
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
        return OutputCurvature.of(self._risk, self._found.outputs, self._found.targets)

    def _pair(self, points: Sequence[int], name: str, solver: Solver | None, reason: str) -> Linearisation:
        derivative: Callable[..., LinearOperator] = InputJacobian if name == "interpolating" else Mixed
        data = derivative(self._risk, points, memory_budget=self._budget)
        return self._linearisation(points, name, self._constraint(name, solver), data, reason)

    def _linearisation(
        self, points: Sequence[int], name: str, constraint: Constraint, data: LinearOperator, reason: str
    ) -> Linearisation:
        kind = (self._risk.weights.dtype, self._risk.weights.device)
        in_use, all_rows = constraint.operator.shape[0], self.defaults.rows
        return Linearisation(
            left_out=all_rows - in_use if name == "interpolating" else 0,
            constraint=constraint,
            data=data,
            data_space=Space("dx", (len(points), *self._input_shape), *kind),
            weight_space=Space("q", (self._risk.layout.size,), *kind),
            gradient=self._found.gradient,
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

    def _interpolating(self, solver: Solver | None) -> Constraint:
        rows = Jacobian(self._risk, memory_budget=self._budget)
        default = self.defaults.solver("interpolating")
        return Constraint(rows, solver or default, lambda: CurvatureRoot(self._risk))

    def _gauss_newton(self, solver: Solver | None) -> Constraint:
        operator = GaussNewton(self._risk, memory_budget=self._budget)
        return Constraint(operator, solver or self.defaults.solver("gauss_newton"))

    def _stationary(self, solver: Solver | None) -> Constraint:
        operator = Hessian(self._risk, memory_budget=self._budget)
        return Constraint(operator, solver or self.defaults.solver("stationary"))
