"""The routes of the maps that have a symmetric matrix: the Hessian, or its Gauss–Newton form."""

from dataclasses import dataclass, replace

import torch

from solset.linalg import gram_block
from solset.operators import rows_at_once
from solset.operators._cost import FACTOR_ROW
from solset.planning._products import NOTHING, Product, Products
from solset.planning._result import Cost, Memory, Route, refused, too_small
from solset.planning._rows import points_per_block, whole_point_rows
from solset.problem import TrainedPoint
from solset.problem._stationary import smaller_side
from solset.solvers import CG, MINRES, RowPlan

CHUNK = 64  # columns of a matrix that are written out together
VECTORS = {"MINRES": 9, "CG": 7}  # in float64, as SciPy has them, and two that go to and fro


@dataclass(frozen=True)
class SymmetricRoutes:
    """Dense, Dual and iterative solvers for ``H`` and for ``AᵀA + λI``.

    Attributes:
        defaults: Sizes and budget.
        products: What one product costs.
    """

    defaults: TrainedPoint
    products: Products

    @property
    def _item(self) -> int:
        return self.defaults.risk.weights.element_size()

    @property
    def _dtype(self) -> torch.dtype:
        return self.defaults.risk.weights.dtype

    def all(self) -> tuple[Route, ...]:
        """Of both maps."""
        newton, hessian = self.products.gauss_newton_block, self.products.hessian
        return (
            self.gauss_newton_dual(),
            self.dense("gauss_newton", newton, self.products.gauss_newton, self.products.row_weights),
            self.gauss_newton_cg(),
            self.dense("stationary", hessian, hessian, NOTHING),
            self.preconditioned(),
            self.minres(),
        )

    def dense(self, optimality: str, block: Product, single: Product, start: Product) -> Route:
        """The matrix written out.

        Args:
            optimality: The map.
            block: A product of many columns, the cost of one of them.
            single: Of one column.
            start: What the operator itself keeps.
        """
        p, budget = self.defaults.weights, self.defaults.memory_budget
        need, chunks = 3 * 8 * p * p, -(-p // CHUNK)
        written = Cost(chunks * block.each.passes, p * block.each.gradients)
        return Route(
            name=f"{optimality} by Dense",
            optimality=optimality,
            solver="Dense",
            obstacle="" if need <= budget else too_small(budget, need),
            smallest_budget=need,
            memory=Memory(8 * p * p, 16 * p * p, block.graphs, start.graphs + 4 * p * self._item),
            prepare=start.once + block.once + written + self.products.mixed.once,
            direction=self.products.mixed.each + single.each,
            note=f"a product of {CHUNK} columns holds as many copies of a batch's activations",
        )

    def gauss_newton_dual(self) -> Route:
        """The Gram side of the Gauss–Newton matrix."""
        known, both = self.defaults, self.products.both
        route = Route(
            name="gauss_newton by Dual",
            optimality="gauss_newton",
            solver="Dual",
            smallest_budget=known.gram_solver().smallest_budget(self.products.jacobian),
            rows=known.rows,
        )
        try:
            plan = known.gram_solver().plan(self.products.jacobian)
        except ValueError:
            return refused(route, known.memory_budget)
        is_kept = plan.place != "recomputed"
        n = len(known.risk.points)
        weights = self.products.all_row_weights
        made = weights.once + whole_point_rows(plan, known.outputs, n)
        # Twice the function of the matrix, a product and its check: each goes to and fro.
        products = Cost() if is_kept else 4 * both.each
        square = plan.gram_memory
        return replace(
            route,
            place=plan.place,
            disk=plan.disk,
            memory=Memory(
                plan.memory - square,
                square,
                self.products.mixed.graphs if is_kept else both.graphs,
                weights.graphs + 4 * known.weights * self._item,
            ),
            prepare=made + self.products.mixed.once + (Cost() if is_kept else both.once),
            direction=self.products.mixed.each + products,
        )

    def gauss_newton_cg(self) -> Route:
        """Conjugate gradients on the Gauss–Newton matrix."""
        product = self.products.gauss_newton
        return self._iterative(
            "gauss_newton by CG", "gauss_newton", "CG", product, CG().max_steps, 1, self.products.row_weights
        )

    def minres(self) -> Route:
        """MINRES on the Hessian."""
        product = self.products.hessian
        return self._iterative(
            "stationary by MINRES",
            "stationary",
            "MINRES",
            product,
            MINRES().max_steps,
            2,
            NOTHING,
        )

    def _iterative(
        self,
        name: str,
        optimality: str,
        solver: str,
        product: Product,
        limit: int,
        checks: int,
        start: Product,
    ) -> Route:
        p = self.defaults.weights
        return Route(
            name=name,
            optimality=optimality,
            solver=solver,
            memory=Memory(graphs=product.graphs, vectors=start.graphs + VECTORS[solver] * 8 * p),
            prepare=start.once + product.once + self.products.mixed.once,
            direction=self.products.mixed.each + checks * product.each,
            step=product.each,
            most_steps=limit,
        )

    def preconditioned(self) -> Route:
        """Conjugate gradients on the Hessian with the Gauss–Newton inverse."""
        known, hessian = self.defaults, self.products.hessian
        is_tall = known.rows >= known.weights
        block = rows_at_once(known.weights, known.memory_budget)
        need = 16 * smaller_side(known) ** 2
        if not is_tall:
            need = max(need, 8 * known.rows**2 + 2 * known.weights * (8 + self._item))
        inner = NOTHING if is_tall else self.products.both
        route = Route(
            name="stationary by preconditioned CG",
            optimality="stationary",
            solver="CG, MINRES",
            smallest_budget=need,
            rows=known.rows,
            step=hessian.each + inner.each,
            most_steps=CG().max_steps,
            note="without the steps of MINRES, which follows if the Hessian proves indefinite",
        )
        if not known.risk.weight_decay > 0:
            return replace(route, obstacle="no weight decay: the Gauss–Newton matrix has no inverse")
        if need > known.memory_budget:
            return refused(route, known.memory_budget)
        if not is_tall:
            block = gram_block((known.rows, known.weights), self._dtype, known.memory_budget)
        weights = self.products.all_row_weights
        made = weights.once + self._factor_rows(block, is_tall=is_tall)
        held = block * known.weights * (self._item + 8)
        return replace(
            route,
            memory=Memory(
                held if is_tall else 2 * held,
                24 * smaller_side(known) ** 2,
                hessian.graphs + inner.graphs,
                weights.graphs + VECTORS["CG"] * 8 * known.weights,
            ),
            prepare=made + hessian.once + inner.once + self.products.mixed.once,
            direction=self.products.mixed.each + hessian.each,
        )

    def _factor_rows(self, block: int, *, is_tall: bool) -> Cost:
        """All rows and their part of the square: once on the tall side, else as a Gram matrix takes."""
        known = self.defaults
        n = len(known.risk.points)
        if is_tall:
            read = float(points_per_block(known.rows, known.outputs, block).sum())
            return Cost(read / n, FACTOR_ROW * known.outputs * read / n)
        plan = RowPlan(rows=known.rows, columns=known.weights, place="recomputed", at_once=block)
        return whole_point_rows(plan, known.outputs, n, row=FACTOR_ROW)
