"""Finite changes of the data: a Newton step on the changed risk, by what was decomposed before the change."""

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from solset.changes import Exchange
from solset.derivatives import Linearisation
from solset.errors import SolsetWarning
from solset.linalg import LinearOperator, default_tolerance
from solset.operators import Jacobian, Regularisation, loss_curvature, regularisation_of
from solset.problem._point import LinearisedMap, TrainedPoint
from solset.risk import EmpiricalRisk
from solset.sets import AffineSet, TrainingFlow
from solset.solvers import CG, MINRES, Decomposed, FirstToConverge, Prepared, Update, Updated

NAMED = 5  # points that a message names
MOST_ROWS = 2000  # rows that change up to which an update is cheaper than to begin again


@dataclass(frozen=True, eq=False)
class NewtonStep:
    """One Newton step on the changed risk from the trained weights, without the gradient that training left.

    The step solves ``H' v = -(∇E' - ∇E)`` at ``w̄``, where ``H'`` is the map's matrix of the changed risk
    ``E'``. Where the solver keeps a decomposition of ``H`` in memory, it
    serves every change by the Woodbury identity (see :class:`solset.solvers.Updated`). Any other solver works
    on ``H'`` itself as it would on ``H``, with the same preconditioner.
    """

    point: TrainedPoint  # Trained point before the change
    line: Linearisation  # Linearisation there, of a map whose matrix is symmetric
    optimality: LinearisedMap  # The map itself, which gives the matrices of other risks
    exchange: Exchange  # Losses that leave and come
    changed: EmpiricalRisk  # Risk after the change, at the trained weights

    def answers(self) -> AffineSet:
        """The set of changes ``v`` of the weights. Cost: one gradient over the points concerned."""
        rhs, line = -self.shift, self.line
        for failure in line.premises.failures:
            warnings.warn(failure, SolsetWarning, stacklevel=3)
        return AffineSet(
            lambda: self.system,
            rhs,
            torch.zeros_like(rhs),
            training=TrainingFlow(lambda: self.system, lambda: rhs, line.gradient),
            notes=line.premises.failures,
            leftover=line.leftover,
            name=line.map.name,
        )

    def damped_answers(self) -> AffineSet:
        """The set for a map that is damped, whose matrix stays as it is. Cost: as for :meth:`answers`."""
        for failure in self.line.premises.failures:
            warnings.warn(failure, SolsetWarning, stacklevel=3)
        return self.line.answers(-self.shift)

    @cached_property
    def parts(self) -> list[tuple[float, TrainedPoint]]:
        """The losses that leave and come, each with its sign, linearised at the trained weights."""
        return [(sign, self._at(part)) for sign, part in self.exchange.parts]

    def _at(self, part: EmpiricalRisk) -> TrainedPoint:
        """Another risk at the same weights. Cost: one gradient over its points."""
        return TrainedPoint(part, sweep=part.sweep(), fit=0.0, memory_budget=self.point.memory_budget)

    @cached_property
    def shift(self) -> Tensor:
        """The change of the risk's gradient at the trained weights, ``∇E' - ∇E``, ``(p,)``."""
        factor, point = self.exchange.factor, self.point
        total = torch.zeros_like(point.sweep.gradient)
        if factor != 1.0:
            losses = point.sweep.gradient - point.risk.regularisation_gradient()
            total = total + (factor - 1.0) * losses
        for sign, part in self.parts:
            total = total + factor * sign * part.sweep.gradient
        return total

    @cached_property
    def system(self) -> Prepared:
        """The matrix ``H'``, prepared. Warns where the points that leave hold a direction alone."""
        factor = self.line.system.factor()
        if factor is None:
            return self._from_changed_data()
        matrix = _Changed(Decomposed(factor, self.line.operator), self)
        if not self.is_small:
            return self._with_doubt(self._anew(matrix), "")
        updated = Updated(matrix, factor, self._update(), lambda: self._anew(matrix))
        doubt = self._doubt(updated)
        if doubt:
            warnings.warn(doubt, SolsetWarning, stacklevel=2)
        return self._with_doubt(updated, doubt)

    def _with_doubt(self, prepared: Prepared, doubt: str) -> Prepared:
        """The changed matrix with its own doubt, and that of the one before where rounding hides a part."""
        before = self.line.system
        prepared.is_blind = before.is_blind
        texts = (doubt, before.doubt if before.is_blind else "")
        prepared.doubt = "; ".join(text for text in texts if text)
        return prepared

    def _anew(self, matrix: LinearOperator) -> Prepared:
        """The changed matrix, prepared without the inverse of the one before; its products run few points.

        What is left where points that leave hold a direction alone is rounding of the matrix before, which
        may look like curvature of the changed one; then the changed data decide.
        """
        solver, before = self.line.constraint.solver, self.line.system.factor()
        prepared = (solver if solver.takes(matrix) else FirstToConverge((CG(), MINRES()))).prepare(matrix)
        after, clearance = prepared.factor(), prepared.clearance
        if before is None or after is None or clearance is None:
            return prepared
        unit = default_tolerance(matrix.shape, torch.float64)
        rounding = unit * max(1.0, self.exchange.factor) * before.largest
        return prepared if clearance * after.largest > rounding else self._from_changed_data()

    def _from_changed_data(self) -> Prepared:
        """The changed matrix, prepared as the one before was."""
        changed, solver = self._at(self.changed), self.line.constraint.solver
        settle = self.optimality.settle(changed, solver)  # symmetries are those of the changed risk too
        prepared = solver.prepare(self.optimality.operator(changed))
        return prepared if settle is None else settle(prepared)

    @property
    def is_small(self) -> bool:
        """Whether so few rows change that an update is cheaper than to begin again."""
        return sum(part.rows for _, part in self.parts) <= min(MOST_ROWS, self.line.rows)

    @cached_property
    def rows(self) -> list[Tensor]:
        """The rows of ``J`` of each part; one with the inputs of another, such as new labels, shares them."""
        rows: list[Tensor] = []
        for _, part in self.parts:
            before = [other for _, other in self.parts[: len(rows)]]
            same = next((i for i, other in enumerate(before) if _has_inputs_of(part, other)), None)
            rows.append(Jacobian(part.risk, memory_budget=0).to_dense() if same is None else rows[same])
        return rows

    def curvatures(self) -> list[tuple[float, LinearOperator]]:
        """The map's matrix of each part with its sign."""
        if not self.is_small:
            return [(sign, self.optimality.operator(part)) for sign, part in self.parts]
        pairs = zip(self.parts, self.rows, strict=True)
        return [(sign, self.optimality.of_losses(part, rows)) for (sign, part), rows in pairs]

    def _update(self) -> Update:
        """The curvature of the parts, as far as it comes from the loss, and the share of the decay."""
        merged: dict[int, tuple[Tensor, Tensor]] = {}
        for (sign, part), rows in zip(self.parts, self.rows, strict=True):
            curvature = loss_curvature(part.risk, part.sweep.outputs, part.sweep.targets)
            block = sign * curvature.to(torch.float64)
            merged[id(rows)] = rows, block + merged[id(rows)][1] if id(rows) in merged else block
        rows = torch.cat([rows for rows, _ in merged.values()]).to(torch.float64)
        blocks = torch.cat([block for _, block in merged.values()])
        factor, (decay, other) = self.exchange.factor, regularisation_of(self.point.risk)
        shift = decay * (1.0 / factor - 1.0) if other is None else 0.0
        return Update(rows, blocks, factor, shift)

    def _doubt(self, updated: Updated) -> str:
        """What the points take with them: a direction that they hold alone, or positive curvature."""
        if updated.is_decided:
            return ""
        lost = f"{updated.lost} direction{'s' if updated.lost > 1 else ''}"
        leaving = [self.exchange.points[i] for i in updated.holders() if i < len(self.exchange.points)]
        names = ", ".join(map(str, leaving[:NAMED])) + (", …" if len(leaving) > NAMED else "")
        names = f"points {names}" if len(leaving) > 1 else f"point {names}"
        if updated.lost:
            return (
                f"{lost} of the weights decided by {names} alone (leverage 1): without them nothing decides "
                f"the weights there, and the set grows by as many dimensions"
            )
        return (
            f"without {names} the curvature of the risk is negative in a direction: the trained "
            f"weights are not near a minimum of the changed risk; retrain"
        )


def _has_inputs_of(part: TrainedPoint, other: TrainedPoint) -> bool:
    """Whether two parts have the same inputs, point by point, so that their outputs are the same function."""
    few = range(len(part.risk.points))
    if len(few) != len(other.risk.points):
        return False
    return torch.equal(part.risk.points[few][0], other.risk.points[few][0])


class _Changed(LinearOperator):
    """The matrix of the changed risk, ``ρ(H - D + Σ ± H_part) + D`` with the matrix ``D`` of the decay."""

    is_symmetric = True

    def __init__(self, before: LinearOperator, step: NewtonStep) -> None:
        super().__init__(before.shape, before.dtype, before.device)
        self._before, self._factor = before, step.exchange.factor
        self._parts = step.curvatures()
        self._decay = None if self._factor == 1.0 else Regularisation(step.point.risk)

    def _apply(self, block: Tensor) -> Tensor:
        total = self._before @ block
        for sign, part in self._parts:
            total = total + sign * (part @ block)
        if self._decay is None:
            return total
        return self._factor * total + (1.0 - self._factor) * (self._decay @ block)
