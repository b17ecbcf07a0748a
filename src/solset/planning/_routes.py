"""The routes to a graphical derivative: each map, operator and solver is asked what it needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Literal, cast

import numpy as np

from solset.changes import Move
from solset.linalg import gram_block
from solset.operators import (
    FACTOR_ROW,
    FORWARD,
    ROW,
    Cost,
    Hessian,
    InputJacobian,
    Jacobian,
    Mixed,
    ProductCost,
    rows_at_once,
)
from solset.operators import GaussNewton as GaussNewtonMatrix
from solset.planning._result import Memory, Route, refused, too_small
from solset.problem import (
    DAMPING_PRODUCTS,
    MAX_ROWS,
    GaussNewton,
    InformativeSelection,
    Interpolating,
    LinearisedMap,
    Proximal,
    Stationary,
    TrainedPoint,
    preconditioned,
    smaller_side,
)
from solset.solvers import CG, LSMR, MINRES, Dense, Dual, FirstToConverge, RowPlan, Solver


def whole_point_rows(plan: RowPlan, outputs: int, points: int, *, row: float = ROW) -> Cost:
    """The work to compute all ``m = n·c`` rows of ``J`` in the blocks of a plan, for ``n`` points.

    A point whose rows lie in two blocks is computed for both; ``row`` is the cost of one in its gradients.
    """
    read = points_per_block(plan.rows, outputs, plan.at_once)
    # Where rows are not stored, block i of the Gram matrix needs all earlier blocks, computed once more.
    total = float(read.cumsum().sum()) if plan.place == "recomputed" else float(read.sum())
    return Cost(total / points, row * outputs * total / points)


def points_per_block(rows: int, outputs: int, at_once: int) -> np.ndarray:
    """The number of points that each block of ``at_once`` rows needs.

    Example:
        >>> points_per_block(12, 3, 4)  # rows 0 to 3 belong to points 0 and 1, rows 4 to 7 to points 1 and 2
        array([2, 2, 2])
    """
    start = np.arange(0, rows, at_once)
    stop = np.minimum(start + at_once, rows)
    return -(-stop // outputs) - start // outputs


def single_rows(plan: RowPlan, points: int) -> Cost:
    """The work to compute rows of chosen output directions, where each row needs one of ``n`` points."""
    return plan.rows * plan.sweeps / points * Cost(1.0, ROW)


RowsInUse = Literal["all", "chosen", "weighted"]

KINKS = Cost(1.0, FORWARD)  # once a problem, each point is looked at for kinks

CHUNK = 64  # columns of a matrix that are written out together


@dataclass(frozen=True)
class Routes:
    """Every route from a trained point, for a choice of points that move."""

    point: TrainedPoint  # Trained point at which the maps are linearised
    moved: Sequence[int]  # Indices of the points that move, checked
    # Rows of ``J`` that carry the constraint; ``None`` where they cannot be chosen
    selection: InformativeSelection | None
    in_use: RowsInUse  # Rows that the interpolating map takes by default: all, chosen ones, or all weighted

    def all(self, automatic: LinearisedMap) -> tuple[Route, ...]:
        """The routes of the interpolating, the Gauss–Newton and the stationary map, one of them automatic."""
        interpolating, newton, stationary, proximal = Interpolating(), GaussNewton(), Stationary(), Proximal()
        maps = (interpolating, newton, stationary, proximal)
        solver_of = {each.name: each.default_solver(self.point) for each in maps}
        by_gauss_newton = (
            (self.gauss_newton_dual(), newton, Dual, "all"),
            (self.dense(newton, self.gauss_newton.block_cost), newton, Dense, "all"),
            (self.iterative(newton, CG()), newton, CG, "all"),
        )
        damped = tuple(
            (self._damped(route), proximal, solver, rows) for route, _, solver, rows in by_gauss_newton
        )
        routes = (
            (self.all_rows(), interpolating, Dual, "all"),
            (self.chosen_rows(), interpolating, Dual, "chosen"),
            (self.iterative(interpolating, LSMR()), interpolating, LSMR, "weighted"),
            *by_gauss_newton,
            *(() if self.point.is_stationary else damped),
            (self.dense(stationary, self._cost(stationary)), stationary, Dense, "all"),
            (self.preconditioned(), stationary, FirstToConverge, "all"),
            (self.iterative(stationary, MINRES()), stationary, MINRES, "all"),
        )
        marked, refusal = [], interpolating.refusal(self.point)
        for route, optimality, solver, rows in routes:
            in_use = self.in_use if optimality.keeps_outputs else "all"
            is_default = in_use == rows  # a choice of rows brings its solver
            if in_use == "all":
                is_default = rows != "chosen" and isinstance(solver_of[optimality.name], solver)
            obstacle = refusal if optimality.keeps_outputs and refusal else route.obstacle
            is_automatic = is_default and optimality.name == automatic.name
            marked.append(replace(route, obstacle=obstacle, is_default=is_default, is_automatic=is_automatic))
        return tuple(marked)

    def _damped(self, route: Route) -> Route:
        """The route of the proximal map like one of the Gauss–Newton map."""
        name = route.name.replace(GaussNewton.name, Proximal.name)
        rule = DAMPING_PRODUCTS * self.gauss_newton.cost.each
        return replace(route, name=name, optimality=Proximal.name, prepare=route.prepare + rule)

    @cached_property
    def gauss_newton(self) -> GaussNewtonMatrix:
        """The Gauss–Newton matrix; nothing is multiplied with it."""
        return cast("GaussNewtonMatrix", GaussNewton().operator(self.point))

    @property
    def jacobian(self) -> Jacobian:
        """The Jacobian of all training outputs; nothing is multiplied with it."""
        return self.gauss_newton.jacobian

    @cached_property
    def hessian(self) -> Hessian:
        """The Hessian; nothing is multiplied with it."""
        return cast("Hessian", Stationary().operator(self.point))

    @cached_property
    def _operators(self) -> dict[str, Jacobian | GaussNewtonMatrix | Hessian]:
        return {
            Interpolating.name: self.jacobian,
            GaussNewton.name: self.gauss_newton,
            Stationary.name: self.hessian,
        }

    def _cost(self, optimality: LinearisedMap) -> ProductCost:
        """The cost of products with the map's operator."""
        return self._operators[optimality.name].cost

    @cached_property
    def _data(self) -> dict[bool, ProductCost]:
        """The costs of the two data operators, by whether the map keeps the outputs."""
        point, change = self.point, Move(self.moved)
        operators = {
            each.keeps_outputs: each.data(change, point.risk, point.memory_budget)
            for each in (Interpolating(), Stationary())
        }
        return {key: cast("InputJacobian | Mixed", operator).cost for key, operator in operators.items()}

    def data(self, optimality: LinearisedMap) -> ProductCost:
        """The cost of products with the map's data operator."""
        return self._data[optimality.keeps_outputs]

    @property
    def _vectors(self) -> int:
        return 4 * self.point.weights * self.point.risk.weights.element_size()

    def iterative(self, optimality: LinearisedMap, solver: Solver) -> Route:
        """The route by an iterative solver, which holds nothing but vectors."""
        point, cost, data = self.point, self._cost(optimality), self.data(optimality)
        needs, name = solver.plan(self._operators[optimality.name]), type(solver).__name__
        together = 2 if optimality.keeps_outputs else 1  # the cost of rows is of a product with A and Aᵀ
        looked = cost.each if isinstance(optimality, Stationary) else Cost()  # verifies symmetries
        return Route(
            name=f"{optimality.name} {'on all rows ' if optimality.keeps_outputs else ''}by {name}",
            optimality=optimality.name,
            solver=name,
            rows=point.rows if optimality.keeps_outputs else None,
            memory=Memory(graphs=cost.graphs + data.graphs, vectors=needs.memory),
            prepare=KINKS + cost.once + data.once + looked,
            direction=data.each + needs.products / together * cost.each,
            step=needs.products_per_step / together * cost.each,
            max_steps=needs.max_steps,
        )

    def dense(self, optimality: LinearisedMap, block: ProductCost) -> Route:
        """The route by a decomposition of the matrix; ``block`` is the cost of one column of many."""
        solver, point, data = self.point.dense_solver(), self.point, self.data(optimality)
        needs = solver.plan(self.gauss_newton)  # any matrix of this side
        chunks = -(-needs.preparation // CHUNK)
        written = Cost(chunks * block.each.passes, needs.preparation * block.each.gradients)
        short = needs.memory > point.memory_budget
        return Route(
            name=f"{optimality.name} by Dense",
            optimality=optimality.name,
            solver="Dense",
            obstacle=too_small(point.memory_budget, needs.memory) if short else "",
            smallest_budget=needs.memory,
            memory=Memory(needs.memory // 3, 2 * needs.memory // 3, block.graphs, self._vectors),
            prepare=KINKS + block.once + written + data.once,
            direction=data.each + needs.products * self._cost(optimality).each,
            note=f"a product of {CHUNK} columns holds as many copies of a batch's activations",
        )

    def all_rows(self) -> Route:
        """The route by the Gram matrix of all rows of ``J``."""
        point, solver = self.point, self.point.gram_solver()
        route = Route(
            name="interpolating on all rows by Dual",
            optimality=Interpolating.name,
            solver="Dual",
            rows=point.rows,
            smallest_budget=solver.smallest_budget(self.jacobian),
        )
        if point.rows <= MAX_ROWS:  # below that, a call for Dual works on chosen rows
            route = replace(route, smallest_budget=max(route.smallest_budget, point.gram_bytes))
        try:
            plan = solver.plan(self.jacobian)
        except ValueError:
            return refused(route, point.memory_budget)
        rows = whole_point_rows(plan, point.outputs, len(point.risk.points))
        route = self._by_gram(route, plan, rows, self.data(Interpolating()), self._cost(Interpolating()))
        if not Interpolating().chooses_rows(point):
            return route
        short = f"{point.rows} rows are more than the {MAX_ROWS} that a Gram matrix is built of unasked"
        if point.rows <= MAX_ROWS:
            short = too_small(point.memory_budget, route.smallest_budget)
        return replace(route, obstacle=f"{short}; Dual takes informative rows instead")

    def chosen_rows(self) -> Route:
        """The route by the Gram matrix of the rows that carry the constraint, with a check of all rows."""
        point, selection = self.point, self.selection
        route = Route(
            name="interpolating on informative rows by Dual",
            optimality=Interpolating.name,
            solver="Dual",
            smallest_budget=point.curvature_bytes,
            note="before rows are added, if the check of all rows asks for more",
        )
        if selection is None:
            return route if point.curvature_fits else refused(route, point.memory_budget)
        operator, n = selection.linearisation.operator, len(point.risk.points)
        least = max(point.curvature_bytes, selection.solver.smallest_budget(operator))
        route = replace(route, rows=operator.shape[0], smallest_budget=least)
        try:
            plan = selection.solver.plan(operator)
        except ValueError:
            return refused(route, point.memory_budget)
        share = len(selection.choice.directions.points.unique()) / n
        cost, data, check = self._cost(Interpolating()), self.data(Interpolating()), self.jacobian.push_cost
        of_rows = ProductCost(share * cost.once, share * cost.each, int(share * cost.graphs))
        route = self._by_gram(route, plan, single_rows(plan, n), data, of_rows)
        vectors = self._vectors + 2 * prod(selection.curvature.vectors.shape) * 8
        return replace(
            route,
            obstacle=selection.too_many,
            memory=replace(route.memory, graphs=route.memory.graphs + check.graphs, vectors=vectors),
            # The first direction is solved and checked when it is asked about, and applied once more.
            prepare=route.prepare + check.once + check.each + data.each,
        )

    def gauss_newton_dual(self) -> Route:
        """The route by the Gram matrix whose factors make up the Gauss–Newton matrix."""
        point, solver, matrix = self.point, self.point.gram_solver(), self.gauss_newton
        route = Route(
            name="gauss_newton by Dual",
            optimality=GaussNewton.name,
            solver="Dual",
            smallest_budget=solver.smallest_budget(matrix),
            rows=point.rows,
        )
        if matrix.rest is not None:
            text = "unequal weight decays or a penalty: the Gram side knows one multiple of the identity only"
            return replace(route, obstacle=text)
        try:
            plan = solver.plan(matrix)
        except ValueError:
            return refused(route, point.memory_budget)
        rows, factor = matrix.weights_cost, matrix.factor_cost
        made = rows.once + whole_point_rows(plan, point.outputs, len(point.risk.points))
        # Twice the function of the matrix, a product and its check: each goes to and fro.
        double = replace(factor, each=2 * factor.each)
        route = self._by_gram(route, plan, made, self.data(GaussNewton()), double)
        return replace(route, memory=replace(route.memory, vectors=rows.graphs + self._vectors))

    def _by_gram(
        self, route: Route, plan: RowPlan, rows: Cost, data: ProductCost, factor: ProductCost
    ) -> Route:
        """The route with rows in memory, on the disk, or computed anew at every product with ``factor``."""
        if plan.place != "recomputed":
            factor = ProductCost()
        square = plan.gram_memory
        return replace(
            route,
            place=plan.place,
            disk=plan.disk,
            memory=Memory(plan.memory - square, square, data.graphs + factor.graphs, self._vectors),
            prepare=KINKS + rows + data.once + factor.once,
            direction=data.each + 2 * factor.each,  # the solve, its refinement and its check
        )

    def preconditioned(self) -> Route:
        """The route by conjugate gradients on the Hessian, preconditioned by the Gauss–Newton inverse."""
        point, item, dtype = self.point, self.jacobian.dtype.itemsize, self.jacobian.dtype
        hessian, data = self._cost(Stationary()), self.data(Stationary())
        is_tall, side = point.rows >= point.weights, smaller_side(point)
        need = 16 * side**2
        if not is_tall:
            need = max(need, 8 * point.rows**2 + 2 * point.weights * (8 + item))
        inner = ProductCost() if is_tall else self._cost(Interpolating())
        route = Route(
            name="stationary by preconditioned CG",
            optimality=Stationary.name,
            solver="CG, MINRES",
            smallest_budget=need,
            rows=point.rows,
            step=hessian.each + inner.each,
            max_steps=CG().max_steps,
            note="without the steps of MINRES, which follows if the Hessian proves indefinite",
        )
        if not point.risk.least_decay > 0:
            text = "weights without weight decay: the Gauss–Newton matrix may have no inverse"
            return replace(route, obstacle=text)
        if need > point.memory_budget:
            return refused(route, point.memory_budget)
        block = rows_at_once(point.weights, point.memory_budget)
        if not is_tall:
            block = gram_block((point.rows, point.weights), dtype, point.memory_budget)
        rows, needs = self.gauss_newton.weights_cost, preconditioned(point).solvers[0].plan(self.gauss_newton)
        held = block * point.weights * (item + 8) * (1 if is_tall else 2)
        made = rows.once + self._factor_rows(block, is_tall=is_tall)
        return replace(
            route,
            memory=Memory(held, 24 * side**2, hessian.graphs + inner.graphs, rows.graphs + needs.memory),
            prepare=KINKS + made + hessian.once + inner.once + data.once + hessian.each,
            direction=data.each + hessian.each,
        )

    def _factor_rows(self, block: int, *, is_tall: bool) -> Cost:
        """The work to compute all rows and add up their square (tall side) or Gram matrix (wide side)."""
        point, n = self.point, len(self.point.risk.points)
        if is_tall:
            read = float(points_per_block(point.rows, point.outputs, block).sum())
            return Cost(read / n, FACTOR_ROW * point.outputs * read / n)
        plan = RowPlan(rows=point.rows, columns=point.weights, place="recomputed", at_once=block)
        return whole_point_rows(plan, point.outputs, n, row=FACTOR_ROW)
