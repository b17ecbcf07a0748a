"""The constraint that outputs are kept, ``f(x̄ + τΔx, w) = f̄``, and its factorisation at a point."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from solset.derivatives import GraphicalDerivative
from solset.errors import bad_value
from solset.operators import (
    InformativeRows,
    InputJacobian,
    Jacobian,
    OutputCurvature,
    OutputDirections,
    OutputRows,
    choose_rows,
    rows_to_add,
    switch_gradients,
    switch_values,
)
from solset.operators._cost import FORWARD, INPUT_JACOBIAN, ROW
from solset.operators._informative import Combinations
from solset.outofcore import gram_solver
from solset.paths._cost import Meter
from solset.problem import Problem
from solset.risk import EmpiricalRisk
from solset.solvers import Deferred, GramPrepared


@dataclass(frozen=True)
class Factor:
    """Rows of ``J`` at one point with their Gram matrix, and the slope of the path there.

    Attributes:
        prepared: ``(P J)⁺`` by its Gram matrix.
        picked: ``P``, from all outputs to the rows in use; ``None`` where all are.
        slope: ``-(P J)⁺ P J_x Δx``, ``(p,)``.
        answer: ``P J_x Δx``, how fast the outputs in use would change with the weights held, ``(s,)``.
    """

    prepared: GramPrepared
    picked: Combinations | None
    slope: Tensor
    answer: Tensor

    def rows_of(self, outputs: Tensor) -> Tensor:
        """The entries of ``(n, c)`` or flat outputs that the rows in use see, ``(s,)``."""
        return outputs.flatten() if self.picked is None else self.picked @ outputs.flatten()

    def pull(self, error: Tensor) -> Tensor:
        """``(P J)⁺ P e``, the shortest change of the weights that answers an output error ``(n, c)``."""
        return self.prepared.solve(self.rows_of(error)).value

    @property
    def count(self) -> int:
        """Rows in use."""
        return self.prepared.operator.shape[0]

    @property
    def has_full_rank(self) -> bool:
        """Whether they are numerically independent."""
        return self.prepared.rank == self.count

    @property
    def smallest(self) -> float:
        """The smallest singular value of the rows in use, each at length one where rows were chosen."""
        return self.prepared.smallest**0.5


class KeptOutputs:
    """``f(x̄ + τΔx, w) = f̄`` for all points, with ``f̄`` the outputs on the clean data.

    Args:
        problem: The trained point.
        points: ``K``.
        dx: ``Δx``, ``(|K|, *input)``.
        rows: Which rows of ``J`` to work on; ``None`` for all.
        meter: Counts what is computed.
    """

    def __init__(
        self,
        problem: Problem,
        points: Sequence[int],
        dx: Tensor,
        *,
        rows: InformativeRows | None,
        meter: Meter,
    ) -> None:
        self._problem, self.points, self._dx, self._rows, self.meter = problem, list(points), dx, rows, meter
        self._risk = problem.risk()
        self.target = self.outputs(self._risk)

    def risk(self, tau: float, weights: Tensor | None = None) -> EmpiricalRisk:
        """The risk on the data at ``τ``, at ``w̄`` by default."""
        moved = self._risk.move(self.points, tau * self._dx) if tau else self._risk
        return moved if weights is None else moved.at(weights)

    def outputs(self, risk: EmpiricalRisk) -> Tensor:
        """``(n, c)``. Cost: a forward pass."""
        self.meter.add(FORWARD)
        return risk.outputs()

    def answer(self, risk: EmpiricalRisk) -> Tensor:
        """``J_x Δx``, how fast the outputs would change with the weights held, ``(n·c,)``.

        Args:
            risk: At the point.
        """
        self.meter.add_points(INPUT_JACOBIAN, len(self.points))
        return (
            InputJacobian(risk, self.points, memory_budget=self._problem.memory_budget) @ self._dx.flatten()
        )

    def jacobian(self, risk: EmpiricalRisk) -> Jacobian:
        """``J`` at a point, for several products.

        Args:
            risk: At the point.
        """
        return Jacobian(risk, memory_budget=self._problem.memory_budget)

    @cached_property
    def switch_count(self) -> int:
        """Values of :meth:`switches`, 0 if there are none. Cost: a forward pass of one point."""
        values = switch_values(self._risk.select([0]))
        return 0 if values is None else len(values) * len(self._risk.points)

    def switches(self, tau: float, weights: Tensor) -> Tensor:
        """How far activations are from their kinks, as :func:`switch_values`; empty if none are seen.

        Args:
            tau: ``τ``.
            weights: ``(p,)``.
        """
        self.meter.add(FORWARD)
        values = switch_values(self.risk(tau, weights))
        return weights.new_empty(0) if values is None else values

    def switch_rows(self, risk: EmpiricalRisk, switches: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Gradients of activations' arguments in the weights, ``(k, p)``, and their rates along ``Δx``.

        Args:
            risk: At the point.
            switches: Places among the values of :meth:`switches`.
        """
        self.meter.add_points(ROW, len(switches))
        units = self.switch_count // len(risk.points)
        owners = [switch // units for switch in switches]
        rows, by_inputs = switch_gradients(risk, owners, [switch % units for switch in switches])
        change = torch.zeros_like(by_inputs)
        for k, owner in enumerate(owners):
            if owner in self.points:
                change[k] = self._dx[self.points.index(owner)]
        return rows, (by_inputs * change).flatten(1).sum(dim=1)

    def bend(self, tau: float, three: Sequence[Tensor], switch: int, cotangent: Tensor) -> float:
        """The second difference of ``uᵀf`` of the point that a switch belongs to.

        Args:
            tau: ``τ``.
            three: Weights on a line, ``(p,)`` each.
            switch: Place among the values of :meth:`switches`.
            cotangent: ``u``, ``(n·c,)``.
        """
        n = len(self._risk.points)
        point = switch // (self.switch_count // n)
        self.meter.add_points(FORWARD, 3)
        risk = self.risk(tau).select([point])
        low, middle, high = (risk.at(weights).outputs().flatten() for weights in three)
        return float((low - 2 * middle + high) @ cotangent.reshape(n, -1)[point])

    def first(self, derivative: GraphicalDerivative) -> Factor:
        """Rows, Gram matrix and slope at the trained point, as the graphical derivative has them.

        Args:
            derivative: On the interpolating map.

        Raises:
            ValueError: If it works without a Gram matrix, on more rows than it may keep.
        """
        line = derivative.linearisation
        system = line.system.inner if isinstance(line.system, Deferred) else line.system
        if not isinstance(system, GramPrepared):
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
        answer = line.data @ self._dx.flatten()
        return Factor(system, None, -system.solve(answer).value, answer)

    def factor(self, tau: float, weights: Tensor) -> Factor:
        """Rows, Gram matrix and slope at a point.

        Rows are chosen anew: all of the moved points, those of the others that carry the curvature which the
        loss has *there*, and those whose outputs have left ``f̄`` by more than the tolerance allows.

        Args:
            tau: ``τ``.
            weights: ``(p,)``.

        Cost: the rows, one backward pass of a point each; a forward pass where they are chosen.
        """
        risk, budget = self.risk(tau, weights), self._problem.memory_budget
        answer = self.answer(risk)
        folder, picked = self._problem.spill_folder, None
        if self._rows is None:
            operator: Jacobian | OutputRows = Jacobian(risk, memory_budget=0)
        else:
            directions = self._chosen(risk, self._rows, answer)
            operator = OutputRows(risk, directions, memory_budget=budget)
            picked = Combinations(directions, directions.points, len(risk.points))
        self.meter.add_points(ROW, operator.shape[0])
        solver = gram_solver(budget, folder, is_equilibrated=picked is not None)
        prepared = solver.prepare_rows(operator)
        own = answer if picked is None else picked @ answer
        return Factor(prepared, picked, -prepared.solve(own).value, own)

    def _chosen(self, risk: EmpiricalRisk, rows: InformativeRows, answer: Tensor) -> OutputDirections:
        outputs = self.outputs(risk)
        choice = choose_rows(
            OutputCurvature.of(risk, outputs), self.points, 0.75 * rows.tol, risk.weights.dtype
        )
        allowed = (0.5 * rows.tol * float(answer.norm())) ** 2
        room = max(rows.most - len(choice.directions), 0)
        return choice.with_more(rows_to_add(choice, outputs - self.target, allowed)[:room]).directions
