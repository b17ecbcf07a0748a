"""What one product with each operator costs, as the operators would compute it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from solset.operators import GaussNewton, Graphs, Hessian, InputJacobian, Jacobian, Mixed
from solset.operators._cost import (
    FORWARD,
    GAUSS_NEWTON_PRODUCT,
    GAUSS_NEWTON_SWEEP,
    HESSIAN_GRAPH,
    HESSIAN_PRODUCT,
    INPUT_JACOBIAN,
    JACOBIAN_GRAPH,
    JACOBIAN_PRODUCT,
    JACOBIAN_SWEEP,
    MIXED_PRODUCT,
)
from solset.planning._result import Cost, Kept
from solset.problem import Problem


@dataclass(frozen=True)
class Product:
    """Products with one operator.

    Attributes:
        once: For what is kept.
        each: Product.
        graphs: Bytes of what is at hand, above all graphs.
    """

    once: Cost
    each: Cost
    graphs: int


NOTHING = Product(Cost(), Cost(), 0)


class Products:
    """The operators of a problem, asked whether they keep their graphs. Nothing is multiplied.

    Args:
        problem: The trained point.
        points: ``K``.

    Cost: the graph of one batch for each operator asked.
    """

    def __init__(self, problem: Problem, points: Sequence[int]) -> None:
        self._risk, self._points, self._budget = problem.risk(), list(points), problem.memory_budget
        self._share = len(self._points) / problem.point_count

    @cached_property
    def jacobian(self) -> Jacobian:
        """``J``."""
        return Jacobian(self._risk, memory_budget=self._budget)

    @cached_property
    def _hessian(self) -> Hessian:
        return Hessian(self._risk, memory_budget=self._budget)

    @cached_property
    def row_weights(self) -> Product:
        """The loss's curvature in all outputs, where a Gauss–Newton matrix keeps it between its products."""
        if GaussNewton(self._risk, memory_budget=self._budget).keeps_weights:
            return self.all_row_weights
        return NOTHING

    @cached_property
    def all_row_weights(self) -> Product:
        """The same where rows are weighed, which needs it at hand."""
        rows, outputs = self.jacobian.shape[0], self.jacobian.outputs
        return Product(Cost(1.0, FORWARD), Cost(), rows * outputs * self._risk.weights.element_size())

    @cached_property
    def kept(self) -> tuple[Kept, ...]:
        """Whether graphs are, of the two operators of all points."""
        pairs = (("Jacobian", self.jacobian.graphs), ("Hessian", self._hessian.graphs))
        return tuple(
            Kept(name, graphs.batch_bytes, graphs.all_bytes, graphs.are_kept) for name, graphs in pairs
        )

    @cached_property
    def push(self) -> Product:
        """``J v``."""
        graphs = self.jacobian.graphs
        if self.jacobian.pushes_forward(1):
            return Product(Cost(), Cost(1.0, JACOBIAN_PRODUCT), graphs.batch_bytes)
        return _product(graphs, JACOBIAN_GRAPH, JACOBIAN_SWEEP)

    @cached_property
    def pull(self) -> Product:
        """``Jᵀ u``."""
        return _product(self.jacobian.graphs, JACOBIAN_GRAPH, JACOBIAN_SWEEP)

    @cached_property
    def both(self) -> Product:
        """``J v`` and ``Jᵀ u``, which share their graphs."""
        once = self.pull.once
        return Product(once, self.push.each + self.pull.each, max(self.push.graphs, self.pull.graphs))

    @cached_property
    def gauss_newton(self) -> Product:
        """``(AᵀA + λI) v``."""
        graphs = self.jacobian.graphs
        if self.jacobian.pushes_forward(1):
            return Product(Cost(), Cost(1.0, GAUSS_NEWTON_PRODUCT), graphs.batch_bytes)
        return _product(graphs, JACOBIAN_GRAPH, GAUSS_NEWTON_SWEEP)

    @cached_property
    def gauss_newton_block(self) -> Product:
        """The same with many columns at once, where there is no forward mode; cost is of one column."""
        return _product(self.jacobian.graphs, JACOBIAN_GRAPH, GAUSS_NEWTON_SWEEP)

    @cached_property
    def hessian(self) -> Product:
        """``H v``."""
        return _product(self._hessian.graphs, HESSIAN_GRAPH, HESSIAN_PRODUCT)

    @cached_property
    def by_inputs(self) -> Product:
        """``J_x Δx``."""
        graphs = InputJacobian(self._risk, self._points, memory_budget=self._budget).graphs
        return self._of_moved(graphs, INPUT_JACOBIAN, INPUT_JACOBIAN - 1.0)

    @cached_property
    def mixed(self) -> Product:
        """``B Δx``."""
        graphs = Mixed(self._risk, self._points, memory_budget=self._budget).graphs
        return self._of_moved(graphs, MIXED_PRODUCT, MIXED_PRODUCT - 1.0)

    def _of_moved(self, graphs: Graphs, fresh: float, sweep: float) -> Product:
        found = _product(graphs, fresh - sweep, sweep)
        return Product(self._share * found.once, self._share * found.each, found.graphs)


def _product(graphs: Graphs, graph: float, sweep: float) -> Product:
    """Built once and swept, or built anew at each product."""
    if graphs.are_kept:
        return Product(Cost(1.0, graph), Cost(0.0, sweep), graphs.all_bytes)
    return Product(Cost(), Cost(1.0, graph + sweep), graphs.batch_bytes)
