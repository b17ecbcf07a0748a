"""The interpolating map on some rows of ``J``: they are chosen, solved, checked on all rows, and added to."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from solset.changes import Change
from solset.derivatives import Constraint, Linearisation, RowCheck, Selection
from solset.errors import SolsetWarning, bad_type
from solset.linalg import BlockDiagonal, LinearOperator, Product
from solset.operators import (
    DirectionalJacobian,
    DirectionChoice,
    DirectionSelector,
    InformativeRows,
    Jacobian,
    choose_directions,
    directions_to_add,
    weighted_squares,
)
from solset.problem._point import LinearisedMap, TrainedPoint
from solset.problem._stored import Stored, store
from solset.solvers import LSMR, Dual, GramPrepared, Prepared

MAX_GRADIENTS = 200  # the cost of a hundred steps of LSMR


@dataclass
class InformativeSelection(Selection):
    """A linearisation on chosen rows of ``J``, solved by their Gram matrix."""

    map: LinearisedMap  # Interpolating map that is linearised
    point: TrainedPoint  # Trained point at which the map is linearised
    change: Change  # Change whose coordinates are answered
    settings: InformativeRows  # Accuracy to which rows may be left out, and how many are allowed
    solver: Dual  # Solver that keeps the rows and their Gram matrix
    # Rows and Gram matrix of an earlier run, to go on from; ``None`` chooses rows anew
    stored: Stored | None = None
    # Selection for another change of the same data, whose rows serve this one too; ``None`` for none
    earlier: "InformativeSelection | None" = None

    def __post_init__(self) -> None:
        self.risk, budget = self.point.risk, self.point.memory_budget
        self._jacobian = Jacobian(self.risk, memory_budget=budget)
        self._data = self.map.data(self.change, self.point.before, budget)
        joining = range(len(self.point.before.points), len(self.risk.points))
        leaving = set(self.change.leaving(self.point.before))  # nothing holds the outputs of these
        chosen = [i for i in self.change.chosen(self.point.before) if i not in leaving]
        self.moved = [*chosen, *joining]
        self.source, self.shared = self, 0  # the selection whose rows are used, and how many of them
        self.computed_rows: DirectionalJacobian | None = None
        if self.stored is not None:
            self.curvature = self.stored.choice.curvature
            self.use(self.stored.choice, self.stored.prepared)
            return
        self.curvature = self.point.curvature
        # Three quarters of the tolerance may be discarded: then the first check holds in most cases.
        discard, dtype = 0.75 * self.settings.tol, self.risk.weights.dtype
        choice = choose_directions(self.curvature, self.moved, discard, dtype)
        if not self._share(choice):
            self.use(choice)
        self.earlier = None  # or each would keep the one before it

    def _share(self, choice: DirectionChoice) -> bool:
        """Uses what the earlier selection computed, where that is most of what is needed."""
        source = None if self.earlier is None else self.earlier.source
        computed = None if source is None else source.linearisation.constraint.at_hand
        if source is None or computed is None:
            return False
        choice, mask = choice.shared_first(source.choice)
        shared, count = int(mask.sum()), len(choice.directions)
        fewer = computed.keeping(mask) if 2 * shared > count else None
        if fewer is None:
            return False
        self.source, self.shared = source, shared
        rows = self._rows(choice)
        self.use(choice, lambda: fewer if shared == count else self.solver.extend(fewer, rows))
        return True

    def use(self, choice: DirectionChoice, prepared: Prepared | Callable[[], Prepared] | None = None) -> None:
        """Linearises on other rows than before.

        Args:
            choice: Rows of ``J`` that are used from now on.
            prepared: Rows and Gram matrix, if they were computed before, or a function that computes what is
                missing; ``None`` computes all of them at first use.
        """
        self.choice = choice
        rows = self._rows(choice)
        weights = BlockDiagonal(choice.weights.reshape(-1, 1, 1))
        self._picked = DirectionSelector(choice.directions, choice.directions.points, len(self.risk.points))
        self.linearisation = self._linearised(
            Constraint(rows, self.solver, lambda: weights, prepared), self._picked, self.reason
        )

    def _rows(self, choice: DirectionChoice) -> DirectionalJacobian:
        budget, computed = self.point.memory_budget, self.source.computed_rows
        self.computed_rows = DirectionalJacobian(
            self.risk, choice.directions, memory_budget=budget, like=computed
        )
        return self.computed_rows

    def _linearised(self, constraint: Constraint, combine: LinearOperator, reason: str) -> Linearisation:
        """The pair ``(A, C)`` on some rows, which are combinations of the rows of all training outputs."""
        data, reason = Product(combine, self._data), f"{self.map.name} {reason}"
        return self.point.linearise(
            self.map, self.change, reason, constraint=constraint, data=data, combine=combine
        )

    def _add(self, extra: Tensor) -> None:
        """Adds rows; what was computed of the present rows is used again."""
        choice = self.choice.with_more(extra)
        self.use(choice, self.solver.extend(self.prepared, self._rows(choice)))

    @property
    def prepared(self) -> GramPrepared:
        """The rows in use and their Gram matrix, computed now if they were not computed before."""
        rows = self.linearisation.gram_side()
        if rows is None:
            raise bad_type("solver", expected="Dual", got=self.solver, cure="Leave it out.")
        return rows

    def save(self, folder: Path) -> None:
        """Writes the rows, their Gram matrix, and a digest of the problem that they belong to.

        Args:
            folder: Path of a folder that does not exist yet.
        """
        store(folder, self.risk, Stored(list(self.moved), self.choice, self.prepared, self.settings))

    @property
    def reason(self) -> str:
        """One sentence that says which rows are in use."""
        n, c = self.choice.importance.shape
        return (
            f"on {len(self.choice.directions)} of {n * c} rows: all {self.choice.moved} of the moved points, "
            f"and those of the others that carry all but {self.choice.discarded:.2g} of the trace of the "
            f"loss's curvature"
        )

    @property
    def plan(self) -> str:
        """One sentence with the number of rows, their bytes and the expected gradients."""
        rows = self.linearisation.operator
        n = len(self.risk.points)
        sweeps = self.solver.plan(rows)
        count = (rows.shape[0] - self.shared) * sweeps.sweeps / n
        return (
            f"{sweeps}; by count about {count:.2g} gradients of all {n} points for the rows, and 1 to 2 for "
            f"a check of all {self.choice.importance.numel()} rows"
        )

    @property
    def too_many(self) -> str:
        """The reason why a Gram matrix of these rows costs too much; empty where it does not.

        Raises:
            ValueError: If no plan fits the memory budget; names the smallest that works.
        """
        count = len(self.choice.directions)
        if count > self.settings.max_rows:
            return f"{count} rows of J, more than the {self.settings.max_rows} allowed"
        gradients = self.solver.plan(self.linearisation.operator).sweeps * count / len(self.risk.points)
        if gradients > MAX_GRADIENTS:
            return (
                f"{count} rows of J, whose Gram matrix takes {gradients:.0f} gradients in this memory budget"
            )
        return ""

    def matrix_free(self) -> Linearisation:
        """LSMR on the rows ``A = W J`` of all points, with the weights ``W`` of :class:`RowCheck`."""
        roots, vectors = self.choice.importance.sqrt(), self.curvature.vectors
        dtype = self.risk.weights.dtype
        weigh = BlockDiagonal(((vectors * roots.unsqueeze(1)) @ vectors.mT).to(dtype))
        flow = self.curvature.values.max().sqrt().expand(roots.shape).clone()
        flow[list(self.moved)] = self.curvature.values[list(self.moved)].sqrt()
        training = BlockDiagonal(((vectors * flow.unsqueeze(1)) @ vectors.mT).to(dtype))
        constraint = Constraint(Product(weigh, self._jacobian), LSMR(tol=self.settings.tol), lambda: training)
        reason = f"by LSMR on all rows, weighted by the loss's curvature, because of {self.too_many}"
        return self._linearised(constraint, weigh, reason)

    def verify(self, dx: Tensor) -> RowCheck:
        """Solves, checks all rows and adds those with the largest errors until the residual is small enough.

        Args:
            dx: Change of the moved points, flat ``(|K|·d,)``.
        """
        answer = self._data @ dx
        size = float(torch.linalg.vector_norm(answer))
        while True:
            change = self.linearisation.solve(-(self._picked @ answer)).value
            error = (self._jacobian @ change + answer).reshape(self.choice.importance.shape)
            check = self._judge(error, size)
            if check.is_accurate:
                return check
            room = max(self.settings.max_rows - len(self.choice.directions), 0)
            extra = directions_to_add(self.choice, error, (0.5 * self.settings.tol * size) ** 2)[:room]
            if len(extra) == 0:
                self._warn(check)
                return check
            refused = self._refusal(extra)
            if refused:
                self._warn(check, refused)
                return check
            self._add(extra)

    def _judge(self, error: Tensor, size: float) -> RowCheck:
        squares = weighted_squares(self.choice, error)
        along = torch.einsum("nij,ni->nj", self.curvature.vectors, error.to(torch.float64))
        scale = size or 1.0
        return RowCheck(
            residual=float(squares.sum().sqrt()) / scale,
            moved_residual=float(torch.linalg.vector_norm(error[list(self.moved)])) / scale,
            unit_residual=float(torch.linalg.vector_norm(error)) / scale,
            risk_rise=0.5 * float((self.curvature.values * along**2).sum()),
            rows=len(self.choice.directions),
            all_rows=error.numel(),
            discarded=self.choice.discarded,
            tol=self.settings.tol,
        )

    def _refusal(self, extra: Tensor) -> str:
        """The reason why these rows cannot be added; empty where they can."""
        choice = self.choice.with_more(extra)
        try:
            self.solver.plan(self._rows(choice))
        except ValueError as error:
            return str(error)
        return ""

    def _warn(self, check: RowCheck, refused: str = "") -> None:
        cure = refused or f"allow more rows (InformativeRows.max_rows is {self.settings.max_rows})"
        if not math.isfinite(check.residual):
            cure = "the solution is not finite"
        elif check.rows == check.all_rows or check.moved_residual > self.settings.tol:
            cure = "rows in use contradict each other, as those of duplicate points do: more will not help"
        warnings.warn(
            f"with {check.rows} rows the residual over all {check.all_rows} is {check.residual:.3g}, not "
            f"{check.tol:.3g}: {cure}",
            SolsetWarning,
            stacklevel=4,
        )
