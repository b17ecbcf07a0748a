"""The trained point at which optimality maps are linearised, with all that is computed there only once."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from solset.changes import Change
from solset.derivatives import Constraint, Linearisation, OptimalityMap, Premise, Selection
from solset.errors import bad_type, bad_value
from solset.linalg import LinearOperator, Space
from solset.operators import (
    InformativeRows,
    KinkFinder,
    OutputCurvature,
    Symmetries,
    find_symmetries,
)
from solset.outofcore import gram_solver
from solset.problem._announcement import announce
from solset.problem._premises import premises_of
from solset.risk import EmpiricalRisk, Sweep, flat_points, misfit_at, statistics_held
from solset.solvers import Dense, Dual, Prepared, Solver

FIT_TOL = 1e-2  # misfit, relative to a constant output, up to which a training set counts as fitted
MAX_ROWS = 6000  # largest number of rows of J of which a Gram matrix is built by default
MAX_DENSE = 1000  # largest number of weights for which a Hessian is written out by default


class TrainedPoint:
    """A trained point with its sizes and budgets, and the constraints that were prepared there.

    The factorisation of ``H`` or ``J`` does not depend on which points move. It is computed once for each map
    and solver, and serves every later call.

    Args:
        risk: Empirical risk at the trained point.
        sweep: Outputs, targets and gradient from one pass over all points.
        fit: Mean norm of the loss gradient in the outputs.
        memory_budget: Bytes that graphs may take, and again rows with their Gram matrix.
        spill_folder: Folder for rows that do not fit the budget; ``None`` computes them again at each use.
        at_door: Premises that were checked when the problem was built.
        warns: Whether results warn of the gradient that training left; not where a larger one was accepted.
        is_stationary: Whether the gradient is within its tolerance, or was not judged.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        *,
        sweep: Sweep,
        fit: float,
        memory_budget: int,
        spill_folder: Path | None = None,
        at_door: tuple[Premise, ...] = (),
        warns: bool = True,
        is_stationary: bool = True,
    ) -> None:
        self.risk, self.sweep, self.fit = risk, sweep, fit
        self.before = risk  # the risk of the data that changes name, without points that join
        self.shorter: TrainedPoint | None = None  # the same without points that join
        self.memory_budget, self.spill_folder = memory_budget, spill_folder
        self.at_door, self.warns, self.is_stationary = at_door, warns, is_stationary
        self.outputs = sweep.outputs[0].numel()
        self.latest: tuple[tuple[Hashable, ...], Selection] | None = None
        self.kinks = KinkFinder(risk)
        self._constraints: dict[tuple[LinearisedMap, Solver | None], Constraint] = {}

    @cached_property
    def misfit(self) -> float:
        """The fit relative to that of a constant output, the same for all points; 0 if fitted.

        Cost: two passes through the loss; the network is not run.
        """
        return misfit_at(self.risk, self.sweep.outputs, self.sweep.targets)

    @cached_property
    def flat(self) -> int:
        """The number of points whose loss is flat in the outputs, so that these need not stay.

        Cost: two passes through the loss; the network is not run.
        """
        return flat_points(self.risk, self.sweep.outputs, self.sweep.targets)

    def joined(self, change: Change) -> "TrainedPoint":
        """The point whose constraint has rows of the points that join too; the same where none does.

        Args:
            change: Change whose coordinates are answered.

        Cost: a forward pass over the new points. A Gram matrix that was prepared gets their rows.
        """
        risk = change.joining(self.risk)
        if risk is None:
            return self
        new = range(len(self.risk.points), len(risk.points))
        outputs = self.sweep.outputs
        added = risk.select(new).outputs().reshape(len(new), *outputs.shape[1:])
        targets = risk.points[range(len(risk.points))][1]
        longer = TrainedPoint(
            risk,
            sweep=replace(self.sweep, outputs=torch.cat([outputs, added]), targets=targets),
            fit=self.fit,
            memory_budget=self.memory_budget,
            spill_folder=self.spill_folder,
            at_door=self.at_door,
            warns=self.warns,
        )
        longer.misfit, longer.before, longer.shorter = self.misfit, self.risk, self
        longer.latest = self.latest  # rows that were computed serve the longer data too
        return longer

    @property
    def rows(self) -> int:
        """The number of all rows of ``J``: points times outputs."""
        return len(self.risk.points) * self.outputs

    @property
    def weights(self) -> int:
        """The number of weights that may move."""
        return self.risk.layout.size

    @property
    def gram_bytes(self) -> int:
        """Bytes of all rows of ``J`` and their Gram matrix, each with a copy in float64."""
        return 8 * self.rows * (2 * self.rows + 2 * self.weights)

    @property
    def gram_fits(self) -> bool:
        """Whether all rows of ``J`` and their Gram matrix fit the memory budget, and so are the default."""
        return self.rows <= MAX_ROWS and self.gram_bytes <= self.memory_budget

    @property
    def curvature_bytes(self) -> int:
        """Bytes of the loss's curvature at every point (or in all outputs), with its eigenvectors."""
        return 3 * 8 * self.rows * (self.rows if self.risk.is_whole else self.outputs)

    @property
    def curvature_fits(self) -> bool:
        """Whether the loss's curvature at every point fits the memory budget."""
        return self.curvature_bytes <= self.memory_budget

    @cached_property
    def symmetries(self) -> Symmetries | None:
        """Symmetries of the training, as backward passes at a few points show them."""
        return find_symmetries(self.risk, self.sweep.gradient, self.memory_budget)

    @cached_property
    def curvature(self) -> OutputCurvature:
        """The loss's curvature in the outputs of every point, with its eigenvectors."""
        return OutputCurvature.of(self.risk, self.sweep.outputs, self.sweep.targets)

    def gram_solver(self, *, is_equilibrated: bool = False) -> Dual:
        """The solver by a Gram matrix within the budget.

        Args:
            is_equilibrated: Whether rows are scaled to length one, so that all rows count alike.
        """
        return gram_solver(self.memory_budget, self.spill_folder, is_equilibrated=is_equilibrated)

    def dense_solver(self) -> Dense:
        """The solver that writes the matrix out, within the budget."""
        return Dense(memory_budget=self.memory_budget)

    def constraint(self, optimality: "LinearisedMap", solver: Solver | None) -> Constraint:
        """The whole constraint of a map, made once for each solver.

        Args:
            optimality: Optimality map that is linearised.
            solver: Solver of its systems; ``None`` takes the map's default.

        Raises:
            TypeError: If the solver is not one for the map's operator.
        """
        key = (optimality, solver)
        if key not in self._constraints:
            operator, used = optimality.operator(self), solver or optimality.default_solver(self)
            rows, columns = operator.shape
            if rows == columns == self.weights and not (operator.is_symmetric or optimality.keeps_outputs):
                raise bad_type(
                    "optimality",
                    expected="a map whose square operator says that it is symmetric",
                    got=f'{type(operator).__name__} of the "{optimality.name}" map',
                    cure="For AᵀA take solset.linalg.NormalOperator(A), which filters take as it is.",
                )
            if not used.takes(operator):
                raise bad_type(
                    "solver",
                    expected=f'one for the {type(operator).__name__} of the "{optimality.name}" map',
                    got=used,
                    cure=f"Leave it out; this map takes {optimality.solvers}.",
                )
            announce(operator, used, self.sweep, self.outputs)
            settle = optimality.settle(self, used)
            self._constraints[key] = Constraint(
                operator,
                used,
                optimality.row_weights(self),
                self._lengthened(optimality, solver, operator),
                settle=settle,
                gradient=self.sweep.gradient if optimality.feels_gradient else None,
                followed=optimality.filters_act_on(self, solver),
            )
        return self._constraints[key]

    def held(self) -> str:
        """What else of the network a training moves, and this point holds."""
        text = statistics_held(self.risk.model)
        return f"; {text}" if text else ""

    def _lengthened(
        self, optimality: "LinearisedMap", solver: Solver | None, operator: LinearOperator
    ) -> Callable[[], Prepared] | None:
        """A function that adds the rows of points that join to those of the others; ``None`` if none do."""
        shorter = self.shorter
        used = solver or optimality.default_solver(self)
        if shorter is None or not optimality.keeps_outputs or not isinstance(used, Dual):
            return None
        if used != (solver or optimality.default_solver(shorter)):
            return None
        return lambda: used.extend(shorter.constraint(optimality, solver).system, operator)

    def linearise(
        self,
        optimality: "LinearisedMap",
        change: Change,
        reason: str,
        *,
        solver: Solver | None = None,
        constraint: Constraint | None = None,
        data: LinearOperator | None = None,
        combine: LinearOperator | None = None,
    ) -> Linearisation:
        """The pair ``(A, C)`` of a map, on its whole constraint unless another is given.

        Args:
            optimality: Optimality map that is linearised.
            change: Change whose coordinates are answered.
            reason: Sentence that says why this map was taken.
            solver: Solver of its systems; ``None`` takes the map's default.
            constraint: Matrix ``A`` on some of the rows; the whole one by default.
            data: Matrix ``C`` for those rows; the map's own by default.
            combine: Matrix that makes those rows from the rows of all outputs.
        """
        constraint = constraint or self.constraint(optimality, solver)
        operator = constraint.operator
        return Linearisation(
            constraint=constraint,
            data=data or optimality.data(change, self.before, self.memory_budget),
            data_space=change.space(self.before),
            weight_space=Space("q", (self.weights,), operator.dtype, operator.device),
            gradient=self.sweep.gradient,
            map=optimality,
            reason=reason + change.remark(keeps_outputs=optimality.keeps_outputs) + self.held(),
            left_out=self.rows - operator.shape[0] if optimality.keeps_outputs else 0,
            check=lambda: premises_of(self, optimality, change),
            warns=self.warns,
            combine=combine,
        )


class LinearisedMap(OptimalityMap, ABC):
    """An optimality map with its operators: what one file says of a map, and nobody else.

    Attributes:
        solvers: Solvers that the map's operator takes, in words.
    """

    solvers: ClassVar[str] = "Dense, MINRES, CG or FirstToConverge"

    @abstractmethod
    def operator(self, point: TrainedPoint) -> LinearOperator:
        """The matrix ``A``, the derivative of the map in the weights.

        Args:
            point: Trained point at which the map is linearised.
        """

    def of_losses(self, point: TrainedPoint, rows: Tensor) -> LinearOperator:  # noqa: ARG002
        """The matrix ``A`` of the losses of a few points, whose rows of ``J`` are at hand.

        Args:
            point: Trained point with these losses alone.
            rows: Rows of ``J`` there, ``(n·c, p)``.
        """
        return self.operator(point)

    @abstractmethod
    def default_solver(self, point: TrainedPoint) -> Solver:
        """The solver that the sizes call for.

        Args:
            point: Trained point at which the map is linearised.
        """

    def data(self, change: Change, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:
        """The matrix ``C``, the derivative of the map in the coordinates of a change.

        Args:
            change: Change whose coordinates are answered.
            risk: Empirical risk at the trained point.
            memory_budget: Bytes that graphs kept between products may take.
        """
        return change.of_gradient(risk, memory_budget)

    def row_weights(self, point: TrainedPoint) -> Callable[[], LinearOperator] | None:  # noqa: ARG002 - for rows
        """A function that gives the weights of rows that training follows; ``None`` for a symmetric ``A``.

        Args:
            point: Trained point at which the map is linearised.
        """
        return None

    def filters_act_on(
        self,
        point: TrainedPoint,  # noqa: ARG002 - for maps that are damped
        solver: Solver | None,  # noqa: ARG002
    ) -> Callable[[], Prepared] | None:
        """A function that gives the system whose flow filters follow; ``None`` for the map's own.

        Args:
            point: Trained point at which the map is linearised.
            solver: Solver that was asked for; ``None`` for the map's default.
        """
        return None

    def settle(
        self,
        point: TrainedPoint,  # noqa: ARG002 - for Hessians
        solver: Solver,  # noqa: ARG002
    ) -> Callable[[Prepared], Prepared] | None:
        """A function that tells kernel from range in a prepared ``A``; ``None`` takes the solver's word.

        Args:
            point: Trained point at which the map is linearised.
            solver: Solver that prepared it.
        """
        return None

    def refusal(self, point: TrainedPoint) -> str:  # noqa: ARG002 - most maps always apply
        """The reason why the map does not apply at a trained point; empty where it does.

        Args:
            point: Trained point at which the map is linearised.
        """
        return ""

    def with_rows(self, rows: InformativeRows) -> "LinearisedMap":
        """The same map on some rows of its constraint.

        Args:
            rows: Accuracy to which rows may be left out.

        Raises:
            ValueError: If the map has no rows that could be left out.
        """
        raise bad_value(
            "rows",
            expected='left out for this map: only "interpolating" has rows of J',
            got=f'{rows} with "{self.name}"',
            cure='Leave it out, or take "interpolating".',
        )

    def linearise(
        self, point: TrainedPoint, change: Change, solver: Solver | None
    ) -> Linearisation | Selection:
        """The pair ``(A, C)``, of a map that was asked for.

        Args:
            point: Trained point at which the map is linearised.
            change: Change whose coordinates are answered.
            solver: Solver of its systems; ``None`` takes the map's default.
        """
        refusal = self.refusal(point)
        if refusal:
            raise bad_value(
                "optimality",
                expected=f'a trained point to which "{self.name}" applies',
                got=refusal,
                cure='Leave it out for "auto".',
            )
        return point.linearise(self, change, f"{self.name}, as asked for", solver=solver)
