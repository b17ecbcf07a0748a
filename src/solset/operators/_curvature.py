"""The loss's own curvature ``Λ`` in the outputs, and the Gauss–Newton matrix made of it."""

from collections.abc import Callable
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from solset.linalg import BlockDiagonal, LinearOperator, NormalOperator, Product
from solset.operators._cost import (
    FORWARD,
    GAUSS_NEWTON_PRODUCT,
    GAUSS_NEWTON_SWEEP,
    JACOBIAN_GRAPH,
    Cost,
    ProductCost,
)
from solset.operators._first import Jacobian, OutputGraph
from solset.operators._graphs import GRAPH_BUDGET, push_forward
from solset.risk import EmpiricalRisk, flat_rows, output_shape, through_loss


def loss_curvature(
    risk: EmpiricalRisk, outputs: Tensor | None = None, targets: Tensor | None = None
) -> Tensor:
    """The blocks ``α Λ_i = α ∇²_f L(f(x_i), y_i)``, ``(n, c, c)``.

    In float64 if the loss takes it, whatever the network's dtype: the curvature of a confident softmax is
    ``1 - p``, which float32 rounds away.

    Args:
        risk: Gives the loss, and the network where outputs are not given.
        outputs: Those of all points, ``(n, c)`` or ``(n, *out)``, where they are known.
        targets: Those of all points, where they are known: then no point is read.

    Cost: one forward pass, or none with outputs given, and ``c`` sweeps through the loss alone; ``n·c²``
    numbers.
    """
    if outputs is not None:
        return through_loss(risk, outputs, lambda own, y: _of_batch(risk, own, y), targets=targets)
    return _through_network(risk, _of_batch)


def _through_network(risk: EmpiricalRisk, work: Callable[[EmpiricalRisk, Tensor, Tensor], Tensor]) -> Tensor:
    """What is found from the outputs and targets of each batch, in one forward pass."""
    parameters = risk.layout.split(risk.weights)

    def found(_: int, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            outputs = risk.forward(parameters, inputs)
        return work(risk, outputs, targets)

    return risk.joined(found)


def _of_batch(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor) -> Tensor:
    try:
        return _batch_curvature(risk, *_doubled(outputs, targets))
    except (RuntimeError, TypeError):  # a device without float64, or a loss with weights of its own dtype
        return _batch_curvature(risk, outputs, targets)


def _doubled(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    precise = targets.to(torch.float64) if targets.is_floating_point() else targets
    return outputs.to(torch.float64), precise


def _batch_curvature(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor) -> Tensor:
    leaf = flat_rows(outputs).clone().requires_grad_()
    with torch.enable_grad():
        value = risk.batch_scale(len(outputs)) * risk.loss(leaf.reshape(outputs.shape), targets)
        (slope,) = torch.autograd.grad(value, leaf, create_graph=True)
    block = torch.stack([_column(slope, leaf, j) for j in range(leaf.shape[1])], dim=2)
    return (block + block.mT) / 2


def _column(slope: Tensor, leaf: Tensor, j: int) -> Tensor:
    if not slope.requires_grad:
        return torch.zeros_like(leaf)
    return torch.autograd.grad(slope[:, j].sum(), leaf, retain_graph=True)[0]


def _root(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor) -> Tensor:
    """``(αΛ_i)^{1/2}`` of a batch, ``(b, c, c)``."""
    values, vectors = torch.linalg.eigh(_of_batch(risk, outputs, targets))
    return ((vectors * values.clamp_min(0).sqrt().unsqueeze(1)) @ vectors.mT).to(risk.weights.dtype)


class CurvatureRoot(BlockDiagonal):
    """``√α Λ^{1/2}``, the weights with which training sees the rows of ``J``, ``(m, m)``.

    Negative eigenvalues of a loss that is not convex in the outputs are cut at zero.

    Args:
        risk: Gives the loss and the network.

    Cost: one forward pass at the first use; ``n·c²`` numbers.
    """

    def __init__(self, risk: EmpiricalRisk) -> None:
        self._risk, self._shape = risk, output_shape(risk)
        m = len(risk.points) * prod(self._shape)
        LinearOperator.__init__(self, (m, m), risk.weights.dtype, risk.weights.device)

    @property
    def blocks(self) -> Tensor:
        """``(n, c, c)``."""
        return self._computed

    @cached_property
    def _computed(self) -> Tensor:
        return _through_network(self._risk, _root)


class GaussNewton(NormalOperator):
    """The Gauss–Newton matrix ``AᵀA + λI`` with rows ``A = √α Λ^{1/2} J``, ``(p, p)``.

    Equal to the Hessian at zero residual or for outputs linear in the weights. It keeps its factor ``A``,
    so that solvers may work on the smaller side.

    Args:
        risk: At the point of linearisation.
        memory_budget: Bytes that graphs kept between products may take.

    Cost: about one gradient a product once the graph is kept; 1.5 to 2.4 where it is not, or with
    convolutions. ``n·c²`` numbers of the loss's curvature are kept if they fit the budget too.
    """

    def __init__(self, risk: EmpiricalRisk, *, memory_budget: int = GRAPH_BUDGET) -> None:
        self._jacobian = Jacobian(risk, memory_budget=memory_budget)
        self._risk, self._weights = risk, CurvatureRoot(risk)
        needed = self._weights.shape[0] * self._jacobian.outputs * risk.weights.element_size()
        self.keeps_weights = needed <= memory_budget
        super().__init__(Product(self._weights, self._jacobian), risk.weight_decay)

    @property
    def jacobian(self) -> Jacobian:
        """The Jacobian ``J`` inside the factor."""
        return self._jacobian

    @property
    def cost(self) -> ProductCost:
        """The cost of a product with one vector."""
        if not self._jacobian.pushes_forward(1):
            return self.block_cost
        graphs = self._jacobian.graphs.batch_bytes
        return ProductCost(Cost(), Cost(1.0, GAUSS_NEWTON_PRODUCT), graphs) + self._kept_weights_cost

    @property
    def block_cost(self) -> ProductCost:
        """The cost of a product with many vectors, for each of them."""
        graphs = self._jacobian.graphs
        return ProductCost.through(graphs, JACOBIAN_GRAPH, GAUSS_NEWTON_SWEEP) + self._kept_weights_cost

    @property
    def factor_cost(self) -> ProductCost:
        """The cost of a product with the factor ``A`` and one with ``Aᵀ``."""
        return self._jacobian.cost

    @property
    def weights_cost(self) -> ProductCost:
        """The cost of the loss's curvature at every point, where it is kept."""
        size = self._weights.shape[0] * self._jacobian.outputs * self._risk.weights.element_size()
        return ProductCost(Cost(1.0, FORWARD), Cost(), size)

    @property
    def _kept_weights_cost(self) -> ProductCost:
        return self.weights_cost if self.keeps_weights else ProductCost()

    def _weighed(self, start: int, outputs: Tensor, targets: Tensor, pushed: Tensor) -> Tensor:
        """``αΛ`` times a batch's changes of outputs, ``(k, b, c)``."""
        if self.keeps_weights:
            roots = self._weights.blocks[start : start + len(outputs)]
        else:
            roots = _root(self._risk, outputs.detach().reshape(-1, *output_shape(self._risk)), targets)
        return torch.einsum("bij,bjl,kbl->kbi", roots, roots, pushed)

    def _apply(self, block: Tensor) -> Tensor:
        """One sweep: push, weigh and pull each batch while its graph is at hand."""
        if self.keeps_weights:
            _ = self._weights.blocks  # all processes together, before each goes through its own batches
        if self._jacobian.pushes_forward(block.shape[1]):
            return self._apply_forward(block[:, 0]).unsqueeze(1)
        directions = self._risk.layout.split_block(block)

        def product(start: int, graph: OutputGraph) -> Tensor:
            weighed = self._weighed(start, graph.outputs, graph.targets, graph.push(directions))
            return torch.cat([flat_rows(part) for part in graph.pull(weighed)], dim=1).T

        total = self._jacobian.graphs.summed(torch.zeros_like(block), product)
        return total + self.damping * block

    def _apply_forward(self, vector: Tensor) -> Tensor:
        """The same with one forward pass that carries the direction along, and one backward pass."""
        direction = self._risk.layout.split(vector)

        def product(start: int, inputs: Tensor, targets: Tensor) -> Tensor:
            batch = push_forward(self._risk, inputs, direction, with_graph=True)
            weighed = self._weighed(start, batch.outputs, targets, batch.tangent.unsqueeze(0))[0]
            parts = torch.autograd.grad(
                batch.outputs, batch.source, weighed, allow_unused=True, materialize_grads=True
            )
            return self._risk.layout.join(parts)

        return self._risk.summed(torch.zeros_like(vector), product) + self.damping * vector
