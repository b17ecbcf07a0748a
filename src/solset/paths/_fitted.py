"""The constraint that outputs are kept, ``f(x̄ + τΔx, w) = f̄``, and its factorisation at a point."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from solset.courses import Meter
from solset.derivatives import GraphicalDerivative
from solset.errors import bad_value
from solset.operators import (
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
from solset.operators._cost import FORWARD, INPUT_JACOBIAN, ROW
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
    """``f(x̄ + τΔx, w) = f̄`` for all points, with ``f̄`` the outputs on the clean data."""

    problem: Problem  # The trained point, with its data
    points: list[int]  # Indices ``K`` of the points that move
    dx: Tensor  # Change ``Δx`` of these points, ``(|K|, *input)``
    rows: InformativeRows | None  # Choice of the rows of ``J`` to work on; ``None`` for all
    meter: Meter  # Meter that adds up the cost

    @cached_property
    def target(self) -> Tensor:
        """The outputs ``f̄``, ``(n, c)``. Cost: a forward pass."""
        return self.outputs(self._risk)

    @cached_property
    def _risk(self) -> EmpiricalRisk:
        return self.problem.risk()

    def risk(self, tau: float, weights: Tensor | None = None) -> EmpiricalRisk:
        """The risk on the data at ``τ``, at given weights or at ``w̄``."""
        moved = self._risk.move(self.points, tau * self.dx) if tau else self._risk
        return moved if weights is None else moved.at(weights)

    def outputs(self, risk: EmpiricalRisk) -> Tensor:
        """The outputs on the data of a risk, ``(n, c)``. Cost: a forward pass."""
        self.meter.add(FORWARD)
        return risk.outputs()

    def answer(self, risk: EmpiricalRisk) -> Tensor:
        """``J_x Δx``, the rate of the outputs if the weights did not move, ``(n·c,)``."""
        self.meter.add_points(INPUT_JACOBIAN, len(self.points))
        budget = self.problem.memory_budget
        return InputJacobian(risk, self.points, memory_budget=budget) @ self.dx.flatten()

    def jacobian(self, risk: EmpiricalRisk) -> Jacobian:
        """``J`` at the point of a risk, for several products."""
        return Jacobian(risk, memory_budget=self.problem.memory_budget)

    def first(self, derivative: GraphicalDerivative) -> Factor:
        """Rows, Gram matrix and slope at the trained point, taken from the graphical derivative there.

        Raises:
            ValueError: If the derivative works without a Gram matrix, because it may not keep all rows.
        """
        line = derivative.linearisation
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

        Where rows are chosen, they are chosen again: all rows of the moved points, those of other points
        that carry the loss's curvature *at this point*, and those whose outputs have left ``f̄`` by more
        than the tolerance allows.

        Cost: the rows, one backward pass of a point each; a forward pass where they are chosen.
        """
        risk, budget = self.risk(tau, weights), self.problem.memory_budget
        answer = self.answer(risk)
        folder, picked = self.problem.spill_folder, None
        if self.rows is None:
            operator: Jacobian | DirectionalJacobian = Jacobian(risk, memory_budget=0)
        else:
            directions = self._chosen(risk, self.rows, answer)
            operator = DirectionalJacobian(risk, directions, memory_budget=budget)
            picked = DirectionSelector(directions, directions.points, len(risk.points))
        self.meter.add_points(ROW, operator.shape[0])
        solver = gram_solver(budget, folder, is_equilibrated=picked is not None)
        prepared = solver.prepare_rows(operator)
        answer_in_use = answer if picked is None else picked @ answer
        return Factor(prepared, picked, -prepared.solve(answer_in_use).value, answer_in_use)

    def _chosen(self, risk: EmpiricalRisk, rows: InformativeRows, answer: Tensor) -> OutputDirections:
        outputs = self.outputs(risk)
        choice = choose_directions(
            OutputCurvature.of(risk, outputs), self.points, 0.75 * rows.tol, risk.weights.dtype
        )
        allowed = (0.5 * rows.tol * float(answer.norm())) ** 2
        room = max(rows.max_rows - len(choice.directions), 0)
        return choice.with_more(directions_to_add(choice, outputs - self.target, allowed)[:room]).directions
