"""The interpolating map: solutions are the weights that keep all outputs of a fitted training set."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from solset.changes import Change, Move
from solset.derivatives import Linearisation, Qualification, Selection
from solset.errors import SolsetWarning, bad_value
from solset.linalg import LinearOperator
from solset.operators import CurvatureRoot, InformativeRows, Jacobian
from solset.problem._informative import InformativeSelection
from solset.problem._point import FIT_TOL, LinearisedMap, TrainedPoint
from solset.problem._stored import restore
from solset.risk import EmpiricalRisk
from solset.solvers import LSMR, Dual, Solver

UNKEPT = 1e-3  # part of a change of the outputs from which it counts that no weights undo it


@dataclass(frozen=True)
class Interpolating(LinearisedMap):
    """The map ``f(x, w) - f(x̄, w̄)`` of all training outputs, linearised by ``J`` and ``J_x``.

    It applies where the training set is fitted and there is no weight decay: then every solution keeps the
    outputs. All rows of ``J`` are used where their Gram matrix fits the memory budget, else those that carry
    the curvature of the loss.

    Attributes:
        rows: Accuracy to which rows of ``J`` may be left out, and how many are allowed; by default all rows
            are used where they fit, else ``InformativeRows()``.
    """

    rows: InformativeRows | None = None
    name: ClassVar[str] = "interpolating"
    keeps_outputs: ClassVar[bool] = True
    feels_gradient: ClassVar[bool] = False
    solvers: ClassVar[str] = "LSMR or Dual"

    def operator(self, point: TrainedPoint) -> LinearOperator:
        """The Jacobian ``J`` of all training outputs; argument as for every map."""
        return Jacobian(point.risk, memory_budget=point.memory_budget)

    def default_solver(self, point: TrainedPoint) -> Solver:
        """``Dual`` where the Gram matrix of all rows fits, else ``LSMR``; argument as for every map."""
        return point.gram_solver() if point.gram_fits else LSMR()

    def data(self, change: Change, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:
        """The derivative of the training outputs in the change; arguments as for every map."""
        return change.of_outputs(risk, memory_budget)

    def row_weights(self, point: TrainedPoint) -> Callable[[], LinearOperator]:
        """The loss's curvature at every point, by which training weighs rows; argument as for every map."""
        return lambda: CurvatureRoot(point.risk)

    def refusal(self, point: TrainedPoint) -> str:
        """The weight decay or the misfit under which outputs are not kept; argument as for every map."""
        if point.risk.has_decay:
            decay = torch.as_tensor(point.risk.weight_decay).max()
            return f"weight decay {float(decay):g}, under which the training outputs are not kept"
        if point.risk.penalty is not None:
            return "a penalty on the weights, under which the training outputs are not kept"
        if point.risk.is_whole:
            return "a loss of all outputs at once, which may be lowest at other outputs too"
        if not point.misfit <= FIT_TOL:
            return (
                f"a training set that is not fitted (mean loss gradient in the outputs {point.fit:.3g}, "
                f"{point.misfit:.2g} of that of a constant output > {FIT_TOL:g})"
            )
        return ""

    def qualification(self, rank: int, rows: int, left_out: int) -> Qualification:
        """Equality at full row rank of all rows; arguments as for every map."""
        if rank < rows:
            return Qualification(False, f"the rows have rank {rank} of {rows}")
        if left_out:
            text = f"the {rows} rows in use are independent; of the {left_out} left out it is not known"
            return Qualification(None, text)
        return super().qualification(rank, rows, left_out)

    def with_rows(self, rows: InformativeRows) -> "Interpolating":
        """The same map on some rows of ``J``; argument as for every map."""
        return Interpolating(rows)

    def linearise(
        self, point: TrainedPoint, change: Change, solver: Solver | None
    ) -> Linearisation | Selection:
        """On all rows, on chosen ones, or on all weighted by the loss; arguments as for every map.

        Raises:
            ValueError: If the map does not apply at the trained point, or no plan for the rows fits.
        """
        refusal = self.refusal(point)
        if refusal:
            raise bad_value(
                "optimality",
                expected='a fitted problem for "interpolating"',
                got=refusal,
                cure='Train to the fit, or use "stationary".',
            )
        self._check_solver(solver)
        point = point.joined(change)
        use = self.in_use(point, change, solver)
        if use == "all":
            return super().linearise(point, change, solver)
        selection = self._select(point, change, solver)
        return selection.matrix_free() if use == "weighted" else selection

    def linearise_verified(
        self, point: TrainedPoint, change: Change, solver: Solver | None
    ) -> Linearisation | Selection | str:
        """The pair ``(A, C)`` if the rows in use prove independent, else what speaks against this map.

        Args:
            point: Trained point at which the map is linearised.
            change: Change whose coordinates are answered.
            solver: Solver of its systems; ``None`` takes the map's default.
        """
        self._check_solver(solver)
        point = point.joined(change) if not self.refusal(point) else point
        doubt = self.doubt(point, change, solver)
        if doubt:
            return doubt
        if self.chooses_rows(point, solver):
            selection = self._select(point, change, solver)
            rank, count = selection.linearisation.rank, selection.linearisation.rows
            return selection if rank == count else f"the {count} rows of J in use have numerical rank {rank}"
        system = point.constraint(self, solver).system
        rank, count = system.rank, point.rows
        if system.doubt:
            if point.warns:
                warnings.warn(system.doubt, SolsetWarning, stacklevel=2)
            reason = f"interpolating because the training set is fitted, though {system.doubt}"
            return point.linearise(self, change, reason, solver=solver)
        if rank is None:
            return "the solver given cannot verify the rank of J"
        if rank < count:
            return f"the {count} rows of J have numerical rank {rank}"
        reason = f"interpolating because the training set is fitted and the {rank} rows of J are independent"
        return point.linearise(self, change, reason, solver=solver)

    def compromise(self, point: TrainedPoint, change: Change, direction: Tensor) -> str:
        """What a stationary set at a fitted point gives up, where rows of ``J`` depend on each other.

        With fewer weights than that the rows determine all of them, and nothing is given up.

        Args:
            point: Trained point at which the map is linearised.
            change: Change whose coordinates are answered.
            direction: Coordinates of the change.

        Cost: one solve with the rows that were prepared to verify their rank.
        """
        if self.refusal(point) or self.doubt(point, change) or self.chooses_rows(point):
            return ""
        system = point.constraint(self, None).system
        if system.doubt or system.rank is None or system.rank == min(point.rows, point.weights):
            return ""
        wanted = self.data(change, point.before, point.memory_budget) @ direction
        missed = system.solve(-wanted).residual if bool((wanted != 0).any()) else 0.0
        if missed <= UNKEPT:
            return ""
        return (
            f"the training set is fitted, but weights cannot undo {missed:.2g} of the change of its outputs: "
            f"the {point.rows} rows of J have rank {system.rank}, as where points are duplicates. This is "
            f"the least-squares set near the trained weights; sets that fit the changed data may be far away"
        )

    def doubt(self, point: TrainedPoint, change: Change, solver: Solver | None = None) -> str:
        """What speaks against this map as far as it is known before a row of ``J`` is computed.

        Only the rank of the rows in use is then left to find out.

        Args:
            point: Trained point at which the map is linearised.
            change: Change whose coordinates are answered.
            solver: Solver of its systems; ``None`` takes the map's default.
        """
        refusal = self.refusal(point)
        if refusal:
            return f"of {refusal}"
        if point.flat:
            return f"the loss is flat in the outputs of {point.flat} points, which need not be kept"
        if solver is not None and not solver.takes(Jacobian(point.risk, memory_budget=0)):
            return "the solver given is not one for rows of J"
        if not point.gram_fits and not point.curvature_fits:
            return f"the loss's curvature in {point.rows} outputs does not fit the memory budget"
        count = point.rows
        if self.chooses_rows(point, solver):
            selection = self.selection(point, change, solver)
            try:
                too_many = selection.too_many
            except ValueError as error:  # no plan fits; whoever asks for this map by name is told so
                return f"no rows of J can be kept: {error}"
            if too_many:
                return f"of {too_many}: too many to verify that they are independent"
            count = selection.linearisation.rows
        if count > point.weights:
            return f"{count} rows of J cannot be independent in {point.weights} weights"
        return ""

    def in_use(
        self, point: TrainedPoint, change: Change, solver: Solver | None = None
    ) -> Literal["all", "chosen", "weighted"]:
        """Which rows the map works on when it is asked for; ``"weighted"`` are all rows, with LSMR.

        Args:
            point: Trained point at which the map is linearised.
            change: Change whose coordinates are answered.
            solver: Solver of its systems; ``None`` takes the map's default.

        Raises:
            ValueError: If no plan for chosen rows fits the memory budget; names the smallest that works.
        """
        if not self.chooses_rows(point, solver):
            return "all"
        return "weighted" if self.selection(point, change, solver).too_many else "chosen"

    def chooses_rows(self, point: TrainedPoint, solver: Solver | None = None) -> bool:
        """Whether to work on some rows of ``J``: where asked to, or where a Gram matrix of all does not fit.

        Args:
            point: Trained point at which the map is linearised.
            solver: Solver of its systems; ``None`` takes the map's default.
        """
        if not isinstance(solver, Dual | None):
            return False
        return self.rows is not None or (point.curvature_fits and not point.gram_fits)

    def selection(
        self, point: TrainedPoint, change: Change, solver: Solver | None = None
    ) -> InformativeSelection:
        """The selection of rows for these points; none of the rows is computed by this.

        Args:
            point: Trained point at which the map is linearised.
            change: Change whose coordinates are answered.
            solver: Solver by a Gram matrix; ``None`` takes the default.

        Cost: ``c`` sweeps through the loss alone, once; ``2·n·c²`` numbers.
        """
        key = (change.coordinates(point.before), solver, self.rows)
        before, earlier = point.latest or ((), None)
        if before == key:
            return cast("InformativeSelection", earlier)
        selection = InformativeSelection(
            self,
            point,
            change,
            self.rows or InformativeRows(),
            solver if isinstance(solver, Dual) else point.gram_solver(is_equilibrated=True),
            earlier=cast("InformativeSelection", earlier) if before[1:] == key[1:] else None,
        )
        if point.latest is None:  # one that has computed its rows stays until another is to compute its own
            point.latest = (key, selection)
        return selection

    def _select(self, point: TrainedPoint, change: Change, solver: Solver | None) -> InformativeSelection:
        """The same, kept: what it computes serves the next call for these points."""
        selection = self.selection(point, change, solver)
        # It takes the place of the one before, which is large.
        point.latest = (change.coordinates(point.before), solver, self.rows), selection
        return selection

    def _check_solver(self, solver: Solver | None) -> None:
        if self.rows is not None and not isinstance(solver, Dual | None):
            raise bad_value(
                "solver",
                expected="Dual with a choice of rows",
                got=solver,
                cure="Leave the solver out, or the rows.",
            )


def restored(point: TrainedPoint, folder: Path) -> InformativeSelection:
    """The selection of rows that an earlier run stored for this trained point.

    Raises:
        ValueError: If it is damaged, or of another problem; says what differs.
    """
    solver = point.gram_solver(is_equilibrated=True)
    stored = restore(folder, point.risk, solver)
    optimality = Interpolating(stored.settings)
    return InformativeSelection(optimality, point, Move(stored.moved), stored.settings, solver, stored)
