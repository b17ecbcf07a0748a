"""The routes of the interpolating map: rows of the Jacobian, all or chosen ones."""

from dataclasses import dataclass, replace
from math import prod

from solset.planning._products import Products
from solset.planning._result import Cost, Memory, Route, refused, too_small
from solset.planning._rows import single_rows, whole_point_rows
from solset.problem import Interpolating, TrainedPoint
from solset.problem._informative import InformativeSelection
from solset.problem._point import MOST_ROWS
from solset.solvers import LSMR, RowPlan

LSMR_VECTORS = (6, 3)  # of weights and of rows, in float64, as SciPy has them, with those that go to and fro


@dataclass(frozen=True)
class InterpolatingRoutes:
    """Dual on all rows and on chosen ones, LSMR on all.

    Attributes:
        defaults: Sizes and budget.
        products: What one product costs.
        selection: The rows that carry the constraint; ``None`` where they cannot be chosen.
    """

    defaults: TrainedPoint
    products: Products
    selection: InformativeSelection | None

    def all(self) -> tuple[Route, ...]:
        """Each with the obstacle of the map, if it has one."""
        routes = (self.dual(), self.chosen(), self.lsmr())
        obstacle = Interpolating().refusal(self.defaults)
        return tuple(replace(route, obstacle=obstacle or route.obstacle) for route in routes)

    def dual(self) -> Route:
        """The Gram matrix of all rows."""
        known = self.defaults
        route = Route(
            name="interpolating on all rows by Dual",
            optimality="interpolating",
            solver="Dual",
            rows=known.rows,
            smallest_budget=known.gram_solver().smallest_budget(self.products.jacobian),
        )
        if known.rows <= MOST_ROWS:  # below that, a call for Dual works on chosen rows
            route = replace(route, smallest_budget=max(route.smallest_budget, known.gram_bytes))
        try:
            plan = known.gram_solver().plan(self.products.jacobian)
        except ValueError:
            return refused(route, known.memory_budget)
        rows = whole_point_rows(plan, known.outputs, len(known.risk.points))
        found = self._by_gram(route, plan, rows, share=1.0)
        if not Interpolating().chooses_rows(known):
            return found
        short = f"{known.rows} rows are more than the {MOST_ROWS} that a Gram matrix is built of unasked"
        if known.rows <= MOST_ROWS:
            short = too_small(known.memory_budget, route.smallest_budget)
        return replace(found, obstacle=f"{short}; Dual takes informative rows instead")

    def chosen(self) -> Route:
        """The Gram matrix of the rows that carry the constraint, with a check of all rows."""
        known, needed = self.defaults, self.defaults.curvature_bytes
        route = Route(
            name="interpolating on informative rows by Dual",
            optimality="interpolating",
            solver="Dual",
            smallest_budget=needed,
            note="before rows are added, if the check of all rows asks for more",
        )
        if self.selection is None:
            return route if known.curvature_fits else refused(route, known.memory_budget)
        operator = self.selection.linearisation.constraint.operator
        n, dtype = len(known.risk.points), operator.dtype
        least = self.selection.solver.smallest_budget(operator)
        route = replace(route, rows=operator.shape[0], smallest_budget=max(needed, least))
        try:
            plan = self.selection.solver.plan(operator)
        except ValueError:
            return refused(route, known.memory_budget)
        concerned = len(self.selection.choice.directions.points.unique()) / n
        found = self._by_gram(route, plan, single_rows(plan, n), share=concerned)
        check = self.products.push
        vectors = 4 * known.weights * dtype.itemsize + 2 * prod(self.selection.curvature.vectors.shape) * 8
        return replace(
            found,
            obstacle=self.selection.too_many,
            memory=replace(found.memory, graphs=found.memory.graphs + check.graphs, vectors=vectors),
            # The first direction is solved and checked when it is asked about, and applied once more.
            prepare=found.prepare + check.once + check.each + self.products.by_inputs.each,
        )

    def _by_gram(self, route: Route, plan: RowPlan, rows: Cost, *, share: float) -> Route:
        """With what rows in memory, on the disk or computed anew take; products are on a share of points."""
        known, by_inputs, both = self.defaults, self.products.by_inputs, self.products.both
        is_kept, square = plan.place != "recomputed", plan.gram_memory
        prepare, direction, graphs = rows + by_inputs.once, by_inputs.each, by_inputs.graphs
        if not is_kept:  # the solve, its refinement and its check: Aᵀ, A, Aᵀ, A
            prepare += share * both.once
            direction += 2 * share * both.each
            graphs += int(share * both.graphs)
        vectors = 4 * known.weights * known.risk.weights.element_size()
        return replace(
            route,
            place=plan.place,
            disk=plan.disk,
            memory=Memory(plan.memory - square, square, graphs, vectors),
            prepare=prepare,
            direction=direction,
        )

    def lsmr(self) -> Route:
        """No rows at hand: products with all of them."""
        known, by_inputs = self.defaults, self.products.by_inputs
        push, pull, both = self.products.push, self.products.pull, self.products.both
        of_weights, of_rows = LSMR_VECTORS
        return Route(
            name="interpolating on all rows by LSMR",
            optimality="interpolating",
            solver="LSMR",
            rows=known.rows,
            memory=Memory(
                graphs=both.graphs + by_inputs.graphs,
                vectors=8 * (of_weights * known.weights + of_rows * known.rows),
            ),
            prepare=both.once + by_inputs.once,
            direction=by_inputs.each + pull.each + push.each,
            step=both.each,
            most_steps=LSMR().max_steps,
        )
