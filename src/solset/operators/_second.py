"""Second derivatives of the risk: the Hessian ``H`` and the mixed derivative ``B``."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from solset.linalg import LinearOperator
from solset.operators._coupling import coupled_hessian, coupled_mixed, separable
from solset.operators._differences import GradientDifferences, or_differences
from solset.operators._graphs import (
    GRAPH_BUDGET,
    HESSIAN_GRAPH,
    HESSIAN_PRODUCT,
    MIXED_PRODUCT,
    Graphs,
    ProductCost,
)
from solset.operators._passes import pull_back
from solset.operators._regularisation import Regularisation
from solset.risk import EmpiricalRisk, flat_rows


@dataclass(frozen=True)
class _GradientGraph:
    """Gradients of a batch as differentiable functions of its leaves."""

    weights: list[Tensor]
    inputs: Tensor
    by_weights: Sequence[Tensor]
    by_inputs: Tensor


def _gradient_graph(risk: EmpiricalRisk, inputs: Tensor, targets: Tensor, *, mixed: bool) -> _GradientGraph:
    weights = risk.leaves()
    leaf, inputs = risk.points.leaf(inputs) if mixed else (inputs, inputs.detach())
    with torch.enable_grad():
        value = risk.batch_value(weights, inputs, targets)
        sources = [*weights, leaf] if mixed else weights
        slopes = torch.autograd.grad(
            value, sources, create_graph=True, allow_unused=True, materialize_grads=True
        )
    return _GradientGraph(weights, leaf, slopes[: len(weights)], slopes[-1] if mixed else leaf)


class Hessian(LinearOperator):
    """The Hessian ``H = ∇²_w E(x̄, w̄)``, ``(p, p)``, weight decay included.

    Products are sweeps through the differentiated gradient (Pearlmutter 1994). For a loss of all outputs at
    once they are ``Σ s_i ∇²f_i + JᵀΛJ`` with its slopes ``s`` and its curvature ``Λ`` in all outputs.

    Args:
        risk: Empirical risk at the point of linearisation.
        memory_budget: Bytes that graphs kept between products may take.

    Cost: one graph (about two gradients) once if it fits, then about two gradients for each product; one more
    for a loss of all outputs at once.
    """

    is_symmetric = True

    def __init__(self, risk: EmpiricalRisk, *, memory_budget: int = GRAPH_BUDGET) -> None:
        p = risk.layout.size
        super().__init__((p, p), risk.weights.dtype, risk.weights.device)
        self._regularisation, self._coupling = Regularisation(risk), coupled_hessian(risk, memory_budget)
        self._risk = risk = separable(risk)
        self.graphs = Graphs(risk, lambda x, y: _gradient_graph(risk, x, y, mixed=False), memory_budget)

    @property
    def cost(self) -> ProductCost:
        """The cost of ``H v``."""
        through = ProductCost.through(self.graphs, HESSIAN_GRAPH, HESSIAN_PRODUCT)
        return through if self._coupling is None else through + self._coupling.cost

    def _apply(self, block: Tensor) -> Tensor:
        product = or_differences(
            self._risk,
            lambda: self._swept(block),
            lambda: torch.stack([self._differences.of_weights(v) for v in block.T], dim=1),
        )
        if self._coupling is not None:
            product = product + self._coupling @ block
        return product + self._regularisation @ block

    def _swept(self, block: Tensor) -> Tensor:
        """The product through the graphs, without weight decay."""
        directions = self._risk.layout.split_block(block)

        def product(_: int, graph: _GradientGraph) -> Tensor:
            parts = pull_back(graph.by_weights, graph.weights, directions, self._risk.routes)
            return torch.cat([flat_rows(part) for part in parts], dim=1).T

        return self.graphs.summed(torch.zeros_like(block), product)

    @cached_property
    def _differences(self) -> GradientDifferences:
        return GradientDifferences(self._risk)


class Mixed(LinearOperator):
    """The mixed derivative ``B = ∇_x ∇_w E(x̄, w̄)``, ``(p, |K|·d)``, for the moved points ``K``.

    The factor ``α`` is that of the whole problem: if a few points of a mean risk move, ``B`` is divided by
    ``n``, not by ``|K|``. Departs from the paper: its equation (13) divides by ``|K|``.

    Args:
        risk: Empirical risk at the point of linearisation.
        points: Indices ``K`` of the moved points, in the order of the data directions.
        memory_budget: Bytes that graphs kept between products may take.

    Cost: about ``3|K|/n`` gradients for each product, forward or transposed.
    """

    def __init__(
        self, risk: EmpiricalRisk, points: Sequence[int], *, memory_budget: int = GRAPH_BUDGET
    ) -> None:
        self._coupling = coupled_mixed(risk, points, memory_budget)
        risk = separable(risk)
        moved = risk.select(points)
        self._size = prod(moved.points.feature_shape)
        super().__init__(
            (risk.layout.size, len(points) * self._size), risk.weights.dtype, risk.weights.device
        )
        self._risk = moved
        self.graphs = Graphs(moved, lambda x, y: _gradient_graph(moved, x, y, mixed=True), memory_budget)
        self._share = len(points) / len(risk.points)

    @property
    def cost(self) -> ProductCost:
        """The cost of ``B Δx``."""
        through = ProductCost.through(self.graphs, 1.0, MIXED_PRODUCT - 1.0, share=self._share)
        return through if self._coupling is None else through + self._coupling.cost

    def _apply(self, block: Tensor) -> Tensor:
        product = or_differences(
            self._risk,
            lambda: self._swept(block),
            lambda: torch.stack([self._differences.along_inputs(u) for u in block.T], dim=1),
        )
        return product if self._coupling is None else product + self._coupling @ block

    def _apply_transposed(self, block: Tensor) -> Tensor:
        product = or_differences(
            self._risk,
            lambda: self._swept_transposed(block),
            lambda: torch.stack([self._differences.of_inputs(v) for v in block.T], dim=1),
        )
        return product if self._coupling is None else product + self._coupling.T @ block

    @cached_property
    def _differences(self) -> GradientDifferences:
        return GradientDifferences(self._risk)

    def _swept(self, block: Tensor) -> Tensor:
        def product(start: int, graph: _GradientGraph) -> Tensor:
            direction = self._slice(block, start, graph.inputs)
            parts = pull_back([graph.by_inputs], graph.weights, [direction], self._risk.routes)
            return torch.cat([flat_rows(part) for part in parts], dim=1).T

        return self.graphs.summed(block.new_zeros(self.shape[0], block.shape[1]), product)

    def _swept_transposed(self, block: Tensor) -> Tensor:
        directions = self._risk.layout.split_block(block)

        def product(_: int, graph: _GradientGraph) -> Tensor:
            pulled = pull_back(graph.by_weights, [graph.inputs], directions, self._risk.routes)[0]
            return pulled.flatten(2).permute(1, 2, 0)

        return self.graphs.joined(product).reshape(-1, block.shape[1])

    def _slice(self, block: Tensor, start: int, inputs: Tensor) -> Tensor:
        """The rows of a data block that belong to a batch, in the shape ``(k, *batch)``."""
        rows = block[start * self._size : (start + len(inputs)) * self._size]
        return rows.T.reshape(-1, *inputs.shape)
