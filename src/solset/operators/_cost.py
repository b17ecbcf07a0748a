"""The cost of products by count: one unit is a gradient of the risk over all points."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solset.operators._graphs import Graphs

FORWARD = 1 / 3  # a gradient is a forward pass and a backward pass of twice its work
JACOBIAN_GRAPH = 0.5  # a forward pass that is kept, with its share of what a push needs
JACOBIAN_SWEEP = 0.5  # J v or Jᵀ u through a kept graph
JACOBIAN_PRODUCT = 1.0  # from scratch, or in forward mode
GAUSS_NEWTON_SWEEP = 1.0  # a push and a pull through a kept graph
GAUSS_NEWTON_PRODUCT = 2.0  # from scratch: measured between 1.5 and 2.4
HESSIAN_GRAPH = 1.0  # a gradient that can itself be differentiated
HESSIAN_PRODUCT = 2.0  # a sweep through it: measured 1 for matrix products, 4 for convolutions
INPUT_JACOBIAN = 1.5  # graph, and a sweep through it, of the points concerned
MIXED_PRODUCT = 3.0  # the same of the mixed derivative
INPUT_ROW = 1 / 3  # a backward pass of one point without its weight part
ROW = 1.0  # one backward pass of one point, with its share of the forward pass
FACTOR_ROW = 1.5  # the same with its part of the p × p matrix of inner products


@dataclass(frozen=True)
class Cost:
    """Work, of all processes together.

    Attributes:
        passes: Number of times that all points are read.
        gradients: Work by count, in gradients of the risk over all points.

    Example:
        >>> 2 * Cost(1.0, 0.5) + Cost(passes=1.0)
        Cost(passes=3.0, gradients=1.0)
    """

    passes: float = 0.0
    gradients: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.passes + other.passes, self.gradients + other.gradients)

    def __rmul__(self, times: int | float) -> "Cost":
        return Cost(times * self.passes, times * self.gradients)


@dataclass(frozen=True)
class ProductCost:
    """What an operator says of its products, before the first one.

    Attributes:
        once: Work for what is kept between products.
        each: Work of each product.
        graphs: Bytes at hand during a product, above all those of graphs.
    """

    once: Cost = Cost()
    each: Cost = Cost()
    graphs: int = 0

    @classmethod
    def through(
        cls, graphs: "Graphs[Any]", graph: float, sweep: float, *, share: float = 1.0
    ) -> "ProductCost":
        """Products through graphs that are built once and swept, or built anew for each product.

        Args:
            graphs: Graphs of the operator.
            graph: Gradients that building all graphs takes.
            sweep: Gradients that a sweep through them takes.
            share: Share of all points that the graphs are of.
        """
        if graphs.are_kept:
            return cls(share * Cost(1.0, graph), share * Cost(0.0, sweep), graphs.all_bytes)
        return cls(Cost(), share * Cost(1.0, graph + sweep), graphs.batch_bytes)

    def __add__(self, other: "ProductCost") -> "ProductCost":
        """Products with two operators that are at hand together."""
        return ProductCost(self.once + other.once, self.each + other.each, self.graphs + other.graphs)
