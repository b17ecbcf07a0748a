"""The curvature ``Λ`` of the loss in the outputs, and the Gauss–Newton matrix."""

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from math import prod

import torch
from torch import Tensor

from solset.errors import bad_value
from solset.linalg import BlockDiagonal, DenseOperator, LinearOperator, NormalOperator, Product
from solset.operators._first import Jacobian, OutputGraph
from solset.operators._graphs import (
    FORWARD,
    GAUSS_NEWTON_PRODUCT,
    GAUSS_NEWTON_SWEEP,
    GRAPH_BUDGET,
    JACOBIAN_GRAPH,
    Cost,
    ProductCost,
)
from solset.operators._passes import push_forward
from solset.operators._regularisation import regularisation_of
from solset.risk import EmpiricalRisk, flat_rows, is_out_of_memory, output_shape, through_loss

MOST_COUPLED = 1000  # outputs of all points together up to which the same is done for a loss of all at once
MOST_OUTPUTS = 256  # outputs of a point up to which the loss's curvature is written out for products


def loss_curvature(
    risk: EmpiricalRisk, outputs: Tensor | None = None, targets: Tensor | None = None
) -> Tensor:
    """The blocks ``α Λ_i = α ∇²_f L(f(x_i), y_i)``, ``(n, c, c)``.

    The result is in float64 if the loss takes it, whatever the dtype of the network: the curvature of a
    confident softmax is about ``1 - p``, which float32 rounds to 0.

    Args:
        risk: Empirical risk with the loss and the network.
        outputs: Outputs of all points, ``(n, c)`` or ``(n, *out)``; computed by default.
        targets: Targets of all points; read from the risk by default.

    Cost: one forward pass, or none if outputs are passed, and ``c`` sweeps through the loss alone; memory for
    ``n·c²`` numbers.
    """
    if risk.is_whole:
        raise bad_value(
            "loss",
            expected="a mean or a sum over points where its curvature at each is asked for",
            got="a loss of all outputs at once, whose curvature couples the points",
            cure='Take optimality="stationary" or "gauss_newton", a move of points, a path or retrain.',
        )
    if outputs is not None:
        return through_loss(risk, outputs, lambda out, y: _of_batch(risk, out, y), targets=targets)
    return _through_network(risk, _of_batch)


def _through_network(risk: EmpiricalRisk, work: Callable[[EmpiricalRisk, Tensor, Tensor], Tensor]) -> Tensor:
    """The results of ``work`` on the outputs and targets of each batch, in one forward pass."""
    parameters = risk.layout.split(risk.weights)

    def batch(_: int, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            outputs = risk.forward(parameters, inputs)
        return work(risk, outputs, targets)

    return risk.joined(batch)


def _of_batch(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor) -> Tensor:
    try:
        return _batch_curvature(risk, *_doubled(outputs, targets))
    except (RuntimeError, TypeError):  # a device without float64, or a loss with weights of its own dtype
        return _batch_curvature(risk, outputs, targets)


def _doubled(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    precise = targets.to(torch.float64) if targets.is_floating_point() else targets
    return outputs.to(torch.float64), precise


def _batch_curvature(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor) -> Tensor:
    slope_at = partial(_slope, risk, outputs, targets)
    leaf = flat_rows(outputs).detach().clone().requires_grad_()
    columns = range(leaf.shape[1])
    try:
        if risk.routes.loss == "differences":
            raise RuntimeError("the derivative by autograd is wrong")
        slope = slope_at(leaf, create_graph=True)
        block = torch.stack([_column(slope, leaf, j) for j in columns], dim=2)
    except RuntimeError as error:
        if is_out_of_memory(error) or leaf.dtype != torch.float64:
            raise
        # Hinge losses and others have a first derivative only; differences are as exact in float64.
        block = torch.stack([_difference(slope_at, leaf.detach(), j) for j in columns], dim=2)
    return (block + block.mT) / 2


def _slope(
    risk: EmpiricalRisk, outputs: Tensor, targets: Tensor, leaf: Tensor, *, create_graph: bool = False
) -> Tensor:
    """The gradient of a batch's loss in its outputs, at other outputs, ``(b, c)``."""
    with torch.enable_grad():
        value = risk.batch_scale(len(outputs)) * risk.loss(leaf.reshape(outputs.shape), targets)
        return torch.autograd.grad(value, leaf, create_graph=create_graph)[0]


def _difference(slope_at: Callable[[Tensor], Tensor], outputs: Tensor, j: int) -> Tensor:
    """Column ``j`` of every block, as a central difference of the slope of the loss."""
    step = torch.zeros_like(outputs)
    step[:, j] = 1e-5 * outputs.abs().amax().clamp_min(1.0)
    ahead, behind = ((outputs + sign * step).requires_grad_() for sign in (1.0, -1.0))
    return (slope_at(ahead) - slope_at(behind)) / (2 * step[:, j : j + 1])


def _column(slope: Tensor, leaf: Tensor, j: int) -> Tensor:
    if not slope.requires_grad:
        return torch.zeros_like(leaf)
    return torch.autograd.grad(slope[:, j].sum(), leaf, retain_graph=True)[0]


def curved(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor, pushed: Tensor) -> Tensor:
    """``αΛ`` times changes of the outputs of a batch, ``(k, b, c)``, by products alone.

    Args:
        risk: Empirical risk with the loss.
        outputs: Outputs of the batch, ``(b, *out)``; of all points for a loss of all at once.
        targets: Targets of the same points.
        pushed: Changes of these outputs, ``(k, b, c)``.

    Cost: a sweep through the loss for each change; memory for a few of them.
    """
    try:
        curved = _products(risk, *_doubled(outputs, targets), pushed.to(torch.float64))
    except (RuntimeError, TypeError) as error:  # as for the blocks
        if is_out_of_memory(error):
            raise
        curved = _products(risk, outputs, targets, pushed)
    return curved.to(pushed.dtype)


def _products(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor, pushed: Tensor) -> Tensor:
    slope_at = partial(_slope, risk, outputs, targets)
    leaf = flat_rows(outputs).detach().clone().requires_grad_()
    try:
        if risk.routes.loss == "differences":
            raise RuntimeError("the derivative by autograd is wrong")
        slope = slope_at(leaf, create_graph=True)
        if not slope.requires_grad:
            return torch.zeros_like(pushed)
        return torch.stack([torch.autograd.grad(slope, leaf, part, retain_graph=True)[0] for part in pushed])
    except RuntimeError as error:
        if is_out_of_memory(error) or leaf.dtype != torch.float64:
            raise
        return torch.stack([_along(slope_at, leaf.detach(), part) for part in pushed])


def _along(slope_at: Callable[[Tensor], Tensor], outputs: Tensor, direction: Tensor) -> Tensor:
    """The derivative of the slope of the loss along a direction, as a central difference."""
    length = 1e-5 * outputs.abs().amax().clamp_min(1.0) / direction.abs().amax().clamp_min(1e-300)
    ahead, behind = ((outputs + sign * length * direction).requires_grad_() for sign in (1.0, -1.0))
    return (slope_at(ahead) - slope_at(behind)) / (2 * length)


def _root(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor) -> Tensor:
    """``(αΛ_i)^{1/2}`` of a batch, ``(b, c, c)``."""
    values, vectors = torch.linalg.eigh(_of_batch(risk, outputs, targets))
    return ((vectors * values.clamp_min(0).sqrt().unsqueeze(1)) @ vectors.mT).to(risk.weights.dtype)


def gauss_newton_of_rows(
    risk: EmpiricalRisk, rows: Tensor, outputs: Tensor, targets: Tensor
) -> NormalOperator:
    """The Gauss–Newton matrix of a few losses by their rows of ``J``, ``(p, p)``: no product runs a network.

    Args:
        risk: Losses of a few points, without weight decay and penalty.
        rows: Rows of ``J`` at the weights of the risk, ``(n·c, p)``.
        outputs: Outputs of the points there, ``(n, *out)``.
        targets: Targets of the points.

    Cost: ``c`` sweeps through the loss; memory for ``n·c·p`` numbers.
    """
    c = prod(output_shape(risk))
    if c > MOST_OUTPUTS:  # as for the matrix of all points
        return GaussNewton(risk)
    roots = through_loss(risk, outputs, lambda out, y: _root(risk, out, y), targets=targets)
    return NormalOperator(DenseOperator(torch.bmm(roots, rows.reshape(len(roots), c, -1)).flatten(0, 1)))


def _whole_root(risk: EmpiricalRisk) -> Tensor:
    """``Λ^{1/2}`` of a loss of all outputs at once, ``(1, n·c, n·c)``."""
    outputs, targets = risk.outputs_and_targets()
    unit = torch.eye(outputs.numel(), dtype=torch.float64, device=outputs.device)
    matrix = torch.cat([curved(risk, outputs, targets, part) for part in _panels(unit, outputs)])
    matrix = matrix.reshape(len(unit), -1)
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root.to(risk.weights.dtype).unsqueeze(0)


def _panels(unit: Tensor, outputs: Tensor) -> Iterator[Tensor]:
    for panel in unit.split(256):
        yield panel.reshape(len(panel), len(outputs), -1)


class CurvatureRoot(BlockDiagonal):
    """``√α Λ^{1/2}``, by which the Gauss–Newton matrix weights the rows of ``J``, ``(m, m)``.

    Negative eigenvalues of a loss that is not convex in the outputs are replaced by 0.

    Args:
        risk: Empirical risk with the loss and the network.
        memory_budget: Bytes that the blocks may take with what they are computed from; a gigabyte at least.

    Attributes:
        side: Number of outputs in a block: those of one point, or of all for a loss of all outputs at once.

    Raises:
        ValueError: If the blocks of all points do not fit the budget.

    Cost: one forward pass at the first use; memory for ``n·c²`` numbers.
    """

    def __init__(self, risk: EmpiricalRisk, *, memory_budget: int = GRAPH_BUDGET) -> None:
        self._risk, self._budget = risk, memory_budget
        m = len(risk.points) * prod(output_shape(risk))
        self.side = m if risk.is_whole else m // len(risk.points)
        LinearOperator.__init__(self, (m, m), risk.weights.dtype, risk.weights.device)

    @property
    def blocks(self) -> Tensor:
        """One block for each point, ``(n, c, c)``; one in all for a loss of all outputs at once."""
        return self._computed

    @property
    def bytes(self) -> int:
        """Memory that the blocks take."""
        return self.shape[0] * self.side * self._risk.weights.element_size()

    @cached_property
    def _computed(self) -> Tensor:
        needed = 3 * 8 * self.shape[0] * self.side
        if needed > max(self._budget, 2**30):
            of = "in all, which it couples" if self._risk.is_whole else "a point"
            raise bad_value(
                "memory_budget",
                expected=f"at least {needed} bytes: the loss has {self.side} outputs {of}",
                got=self._budget,
                cure="Take a solver that needs products only: CG() for gauss_newton, else MINRES().",
            )
        return _whole_root(self._risk) if self._risk.is_whole else _through_network(self._risk, _root)


class GaussNewton(NormalOperator):
    """The Gauss–Newton matrix ``AᵀA + λI`` with rows ``A = √α Λ^{1/2} J``, ``(p, p)``.

    Unequal weight decays stand on the diagonal in place of ``λI``. Where points have more than 256 outputs
    (or, for a loss of all outputs at once, all together more than 1000), products go through the loss and not
    through ``Λ^{1/2}``: then a loss that is not convex in the outputs keeps its negative curvature.

    It equals the Hessian at zero residual, and if the outputs are linear in the weights. The factor ``A`` is
    an attribute, so that solvers may work on the smaller side.

    Args:
        risk: Empirical risk at the point of linearisation.
        memory_budget: Bytes that graphs kept between products may take.

    Cost: about one gradient for each product with a kept graph; 1.5 to 2.4 without one, or with convolutions.
    The loss's curvature (``n·c²`` numbers) is kept for up to 256 outputs a point if it fits the budget too.
    """

    def __init__(self, risk: EmpiricalRisk, *, memory_budget: int = GRAPH_BUDGET) -> None:
        self._jacobian = Jacobian(risk, memory_budget=memory_budget)
        self._risk, self._weights = risk, CurvatureRoot(risk, memory_budget=memory_budget)
        side = self._weights.side
        is_small = side <= (MOST_COUPLED if risk.is_whole else MOST_OUTPUTS)
        self.keeps_weights = is_small and self._weights.bytes <= memory_budget
        damping, rest = regularisation_of(risk)
        super().__init__(Product(self._weights, self._jacobian), damping, rest)

    @property
    def floor(self) -> float:
        """The smallest weight decay; 0 where products keep negative curvature of the loss."""
        return super().floor if self.keeps_weights else 0.0

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
        return ProductCost(Cost(1.0, FORWARD), Cost(), self._weights.bytes)

    @property
    def _kept_weights_cost(self) -> ProductCost:
        return self.weights_cost if self.keeps_weights else ProductCost()

    def _weighed(self, start: int, outputs: Tensor, targets: Tensor, pushed: Tensor) -> Tensor:
        """``αΛ`` times changes of the outputs of a batch, ``(k, b, c)``."""
        if self.keeps_weights:
            roots = self._weights.blocks[start : start + len(outputs)]
        else:
            shaped = outputs.detach().reshape(-1, *output_shape(self._risk))
            if self._jacobian.outputs > MOST_OUTPUTS:
                return curved(self._risk, shaped, targets, pushed)
            roots = _root(self._risk, shaped, targets)
        return torch.einsum("bij,bjl,kbl->kbi", roots, roots, pushed)

    def _apply(self, block: Tensor) -> Tensor:
        """One sweep over the batches: push, weigh and pull through each graph."""
        if self._risk.is_whole:
            return self._apply_whole(block)
        if self.keeps_weights:
            _ = self._weights.blocks  # computed by all processes together, before each takes its batches
        if self._jacobian.pushes_forward(block.shape[1]):
            return self._apply_forward(block[:, 0]).unsqueeze(1)
        directions = self._risk.layout.split_block(block)

        def product(start: int, graph: OutputGraph) -> Tensor:
            weighed = self._weighed(start, graph.outputs, graph.targets, graph.push(directions))
            return torch.cat([flat_rows(part) for part in graph.pull(weighed)], dim=1).T

        total = self._jacobian.graphs.summed(torch.zeros_like(block), product)
        return total + self.added(block)

    def _apply_whole(self, block: Tensor) -> Tensor:
        """The product for a loss of all outputs at once, by its root or by products with its curvature."""
        if self.keeps_weights:
            return super()._apply(block)
        outputs, targets = self._risk.outputs_and_targets()
        pushed = (self._jacobian @ block).T.reshape(block.shape[1], len(outputs), -1)
        weighed = curved(self._risk, outputs, targets, pushed).reshape(block.shape[1], -1)
        return self._jacobian.T @ weighed.T + self.added(block)

    def _apply_forward(self, vector: Tensor) -> Tensor:
        """The same product by one forward pass in forward mode, and one backward pass."""
        direction = self._risk.layout.split(vector)

        def product(start: int, inputs: Tensor, targets: Tensor) -> Tensor:
            batch = push_forward(self._risk, inputs, direction, with_graph=True)
            weighed = self._weighed(start, batch.outputs, targets, batch.tangent.unsqueeze(0))[0]
            parts = torch.autograd.grad(
                batch.outputs, batch.source, weighed, allow_unused=True, materialize_grads=True
            )
            return self._risk.layout.join(parts)

        return self._risk.summed(torch.zeros_like(vector), product) + self.added(vector)
