"""The constraint that outputs are kept, or go to those that fit, and its factorisation at a point."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from solset.changes import Change, Move, Remove, Sum
from solset.courses import Meter
from solset.derivatives import GraphicalDerivative
from solset.errors import bad_value
from solset.operators import (
    FORWARD,
    INPUT_JACOBIAN,
    ROW,
    DirectionalJacobian,
    DirectionSelector,
    InformativeRows,
    InputJacobian,
    Jacobian,
    OutputCurvature,
    OutputDirections,
    choose_directions,
    directions_to_add,
)
from solset.outofcore import gram_solver
from solset.problem import Problem
from solset.risk import EmpiricalRisk
from solset.solvers import GramPrepared


@dataclass(frozen=True)
class Factor:
    """Rows of ``J`` at one point with their Gram matrix, and the slope of the path there."""

    prepared: GramPrepared  # Gram matrix of the rows in use, which applies ``(P J)⁺``
    # Map ``P`` from all outputs to the rows in use; ``None`` where all rows are
    picked: DirectionSelector | None
    slope: Tensor  # Slope of the path ``-(P J)⁺ P J_x Δx``, ``(p,)``
    answer: Tensor  # Rate ``P J_x Δx`` of the outputs in use if the weights did not move, ``(s,)``

    def rows_of(self, outputs: Tensor) -> Tensor:
        """The part of outputs, ``(n, c)`` or flat, that the rows in use see, ``(s,)``."""
        return outputs.flatten() if self.picked is None else self.picked @ outputs.flatten()

    def pull(self, error: Tensor) -> Tensor:
        """The shortest change ``(P J)⁺ P e`` of the weights that makes up for an output error ``(n, c)``."""
        return self.prepared.solve(self.rows_of(error)).value

    @property
    def count(self) -> int:
        """Number of rows in use."""
        return self.prepared.operator.shape[0]

    @property
    def has_full_rank(self) -> bool:
        """Whether the rows in use are numerically independent."""
        return self.prepared.rank == self.count

    @property
    def smallest(self) -> float:
        """The smallest singular value of the rows in use, each at length one where rows were chosen."""
        return self.prepared.smallest**0.5


@dataclass(frozen=True)
class KeptOutputs:
    """``f(x̄ + τΔx, w) = f̄ + τΔf`` for all points, with ``f̄`` the outputs on the clean data.

    Outputs are kept along moves. Those of points with new targets, and of new points, go in a straight line
    to the outputs that fit them; the rows of points that are removed are dropped.
    """

    problem: Problem  # The trained point, with its data
    change: Change  # Change of the training data
    rows: InformativeRows | None  # Choice of the rows of ``J`` to work on; ``None`` for all
    meter: Meter  # Meter that adds up the cost

    @cached_property
    def points(self) -> list[int]:
        """Indices of the points that move, among those that are left."""
        return [self._left.index(i) for move in self._moves for i in move.chosen(self.problem.risk())]

    @cached_property
    def dx(self) -> Tensor:
        """Change of the features of these points, ``(|K|, *input)``; empty where none moves."""
        risk = self.problem.risk()
        for move in self._moves:
            return move.space(risk).unflatten(move.direction(risk))
        return risk.weights.new_zeros(0)

    @cached_property
    def changed(self) -> list[int]:
        """Indices of all points that change or join, among those that are left."""
        risk, count = self.problem.risk(), len(self.problem.risk().points)
        chosen = set(self.change.chosen(risk))
        return [place for place, i in enumerate(self._left) if i in chosen or i >= count]

    @property
    def _parts(self) -> tuple[Change, ...]:
        return self.change.parts if isinstance(self.change, Sum) else (self.change,)

    @property
    def _moves(self) -> list[Move]:
        return [part for part in self._parts if isinstance(part, Move)]

    @cached_property
    def _left(self) -> list[int]:
        """The indices of the points that are not removed, then those of points that join."""
        risk = self.problem.risk()
        gone = {i for part in self._parts if isinstance(part, Remove) for i in part.chosen(risk)}
        return [i for i in range(len(self._whole.points)) if i not in gone]

    @cached_property
    def _whole(self) -> EmpiricalRisk:
        risk = self.problem.risk()
        return self.change.joining(risk) or risk

    @cached_property
    def _risk(self) -> EmpiricalRisk:
        is_whole = len(self._left) == len(self._whole.points)
        return self._whole if is_whole else self._whole.select(self._left)

    @cached_property
    def _start(self) -> Tensor:
        return self.outputs(self._risk)

    @cached_property
    def _end(self) -> EmpiricalRisk | None:
        """The risk after the change, at the trained weights; ``None`` for a move."""
        return None if isinstance(self.change, Move) else self.change.applied_to(self.problem.risk())

    @cached_property
    def _way(self) -> Tensor | None:
        """The change ``Δf`` of the outputs, ``(n, c)``; ``None`` for a move, which keeps them."""
        return None if self._end is None else self.change.outputs_after(self.problem.risk()) - self._start

    def target(self, tau: float) -> Tensor:
        """The outputs at ``τ``, ``(n, c)``."""
        return self._start if self._way is None else self._start + tau * self._way

    def at_fit(self, tau: float, outputs: Tensor) -> tuple[EmpiricalRisk, Tensor]:
        """A risk, and outputs that are as far from those that fit it as the given ones are from the target.

        Along moves these are the risk at ``τ`` and the outputs; else those of the end.
        """
        if self._end is None or self._way is None:
            return self.risk(tau), outputs
        return self._end, outputs + (1.0 - tau) * self._way

    def risk(self, tau: float, weights: Tensor | None = None) -> EmpiricalRisk:
        """The risk on the data at ``τ``, at given weights or at ``w̄``; targets stay."""
        moves = bool(tau) and bool(self.points)
        moved = self._risk.move(self.points, tau * self.dx) if moves else self._risk
        return moved if weights is None else moved.at(weights)

    def outputs(self, risk: EmpiricalRisk) -> Tensor:
        """The outputs on the data of a risk, ``(n, c)``. Cost: a forward pass."""
        self.meter.add(FORWARD)
        return risk.outputs()

    def answer(self, risk: EmpiricalRisk) -> Tensor:
        """``J_x Δx - Δf``, the rate of the outputs off their target for weights that stay, ``(n·c,)``."""
        total = torch.zeros_like(self._start).flatten() if self._way is None else -self._way.flatten()
        if not self.points:
            return total
        self.meter.add_points(INPUT_JACOBIAN, len(self.points))
        budget = self.problem.memory_budget
        return total + InputJacobian(risk, self.points, memory_budget=budget) @ self.dx.flatten()

    def jacobian(self, risk: EmpiricalRisk) -> Jacobian:
        """``J`` at the point of a risk, for several products."""
        return Jacobian(risk, memory_budget=self.problem.memory_budget)

    def first(self, derivative: GraphicalDerivative) -> Factor:
        """Rows, Gram matrix and slope at the trained point, taken from the graphical derivative there.

        Raises:
            ValueError: If the derivative works without a Gram matrix, because it may not keep all rows.
        """
        line = derivative.linearisation
        if not isinstance(self.change, Move):
            return self.factor(0.0, self._risk.weights)
        system = line.system.gram_side()
        if system is None:
            raise bad_value(
                "rows",
                expected="few enough for their Gram matrix",
                got=f"a map {derivative.reason}",
                cure="Give the problem a larger memory_budget, or allow fewer rows with a larger tol.",
            )
        self.meter.add_points(ROW, system.operator.shape[0])
        self.meter.add_points(INPUT_JACOBIAN, len(self.points))
        if line.left_out:
            self.meter.add(FORWARD)  # the loss's curvature, by which the rows were chosen
        answer = line.push(self.dx)
        return Factor(system, None, -system.solve(answer).value, answer)

    def factor(self, tau: float, weights: Tensor) -> Factor:
        """Rows, Gram matrix and slope at a point.

        Where rows are chosen, they are chosen again: all rows of the changed points, those of other points
        that carry the loss's curvature *at this point*, and those whose outputs have left the target by more
        than the tolerance allows.

        Cost: the rows, one backward pass of a point each; a forward pass where they are chosen.
        """
        risk, budget = self.risk(tau, weights), self.problem.memory_budget
        answer = self.answer(risk)
        folder, picked = self.problem.spill_folder, None
        if self.rows is None:
            operator: Jacobian | DirectionalJacobian = Jacobian(risk, memory_budget=0)
        else:
            directions = self._chosen(tau, risk, self.rows, answer)
            operator = DirectionalJacobian(risk, directions, memory_budget=budget)
            picked = DirectionSelector(directions, directions.points, len(risk.points))
        self.meter.add_points(ROW, operator.shape[0])
        solver = gram_solver(budget, folder, is_equilibrated=picked is not None)
        prepared = solver.prepare_rows(operator)
        answer_in_use = answer if picked is None else picked @ answer
        return Factor(prepared, picked, -prepared.solve(answer_in_use).value, answer_in_use)

    def _chosen(
        self, tau: float, risk: EmpiricalRisk, rows: InformativeRows, answer: Tensor
    ) -> OutputDirections:
        outputs = self.outputs(risk)
        choice = choose_directions(
            OutputCurvature.of(risk, outputs), self.changed, 0.75 * rows.tol, risk.weights.dtype
        )
        allowed = (0.5 * rows.tol * float(answer.norm())) ** 2
        room = max(rows.max_rows - len(choice.directions), 0)
        return choice.with_more(
            directions_to_add(choice, outputs - self.target(tau), allowed)[:room]
        ).directions
