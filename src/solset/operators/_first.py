"""First derivatives of the outputs: the Jacobians ``J`` and ``J_x``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from solset.linalg import LinearOperator
from solset.operators._graphs import (
    GRAPH_BUDGET,
    INPUT_JACOBIAN,
    JACOBIAN_GRAPH,
    JACOBIAN_PRODUCT,
    JACOBIAN_SWEEP,
    Cost,
    Graphs,
    ProductCost,
    has_convolution,
)
from solset.operators._passes import has_forward_mode, is_adjoint, pull_back, push_forward
from solset.operators._per_sample import PerSampleGradients
from solset.risk import EmpiricalRisk, Routes, flat_rows, output_shape

ROWS_AT_ONCE = 2**24  # numbers in the rows by which J v is computed where autograd has no other way


@dataclass(frozen=True)
class OutputGraph:
    """Outputs of a batch as differentiable functions of the weights or of the inputs."""

    per_sample: PerSampleGradients
    routes: Routes
    inputs: Tensor
    source: list[Tensor]
    outputs: Tensor
    targets: Tensor

    def push(self, directions: Sequence[Tensor]) -> Tensor:
        """``J v`` for a block of directions, ``(k, b, c)``: the adjoint of the pull-back, or from entries."""
        if self._pushes_right:
            return self._pushed(directions)
        if self._by_inputs:
            return torch.einsum("bcd,kbd->kbc", self.entries, directions[0].flatten(2))
        flat = torch.cat([flat_rows(part) for part in directions], dim=1)
        return torch.cat([torch.einsum("bcp,kp->kbc", rows, flat) for rows in self._rows()], dim=1)

    def pull(self, cotangents: Tensor) -> list[Tensor]:
        """``Jᵀ u`` for a block of cotangents ``(k, b, c)``."""
        return pull_back([self.outputs], self.source, [cotangents], self.routes)

    @property
    def _by_inputs(self) -> bool:
        return self.source[0] is self.inputs

    def _pushed(self, directions: Sequence[Tensor]) -> Tensor:
        cotangent, pulled = self.pulled
        return pull_back(pulled, [cotangent], directions, self.routes)[0]

    @property
    def _pushes_right(self) -> bool:
        """Whether the adjoint of the pull-back is ``J v``; a function may have no second derivative."""
        key = ("push", self._by_inputs, tuple(self.outputs.shape))
        is_right = self.routes.is_right
        if key not in is_right:
            is_right[key] = is_adjoint(
                lambda v: self._pushed([part.unsqueeze(0) for part in v])[0], self.outputs, self.source
            )
        return is_right[key]

    @property
    def entries(self) -> Tensor:
        """The entries of ``J_x`` at every point of the batch, ``(b, c, d)``."""
        b, c = self.outputs.shape
        unit = torch.eye(c, dtype=self.outputs.dtype, device=self.outputs.device)
        # One output at a time: a vectorised pull would hold c copies of a convolution's activations.
        columns = [flat_rows(self.pull(unit[j].expand(1, b, c))[0][0]) for j in range(c)]
        return torch.stack(columns, dim=1)

    def _rows(self) -> Iterator[Tensor]:
        """The entries of ``J`` at a few points at a time, ``(points, c, p)``."""
        c, size = self.outputs.shape[1], sum(leaf.numel() for leaf in self.source)
        unit = torch.eye(c, dtype=self.outputs.dtype, device=self.outputs.device)
        for inputs in self.inputs.split(max(1, ROWS_AT_ONCE // (c * size))):
            yield self.per_sample.rows(inputs, unit.expand(len(inputs), c, c))

    @cached_property
    def pulled(self) -> tuple[Tensor, Sequence[Tensor]]:
        """A cotangent 0, and the pull-back as a linear function of it."""
        with torch.enable_grad():
            cotangent = torch.zeros_like(self.outputs, requires_grad=True)
            pulled = [torch.zeros_like(leaf) for leaf in self.source]
            if self.outputs.requires_grad:
                pulled = torch.autograd.grad(
                    self.outputs,
                    self.source,
                    cotangent,
                    create_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
        return cotangent, pulled


def output_graph(
    per_sample: PerSampleGradients, risk: EmpiricalRisk, inputs: Tensor, targets: Tensor, *, by_inputs: bool
) -> OutputGraph:
    """The graph of a batch's flattened outputs, differentiable in the weights or in the inputs."""
    leaf, inputs = risk.points.leaf(inputs) if by_inputs else (inputs, inputs.detach())
    source = [leaf] if by_inputs else risk.leaves()
    weights = risk.layout.split(risk.weights) if by_inputs else source
    with torch.enable_grad():
        outputs = flat_rows(risk.forward(weights, inputs))
    return OutputGraph(per_sample, risk.routes, leaf, source, outputs, targets)


def output_graphs(risk: EmpiricalRisk, memory_budget: int, *, by_inputs: bool) -> Graphs[OutputGraph]:
    """The output graph of every batch, differentiable in the weights or in the inputs."""
    per_sample = PerSampleGradients(risk)
    return Graphs(
        risk,
        lambda inputs, targets: output_graph(per_sample, risk, inputs, targets, by_inputs=by_inputs),
        memory_budget,
        complete=lambda graph: (graph, graph.pulled),
    )


class Jacobian(LinearOperator):
    """The Jacobian ``J = ∇_w f`` of the training outputs, ``(m, p)`` with ``m = n·c``, point after point.

    Args:
        risk: Empirical risk at the point of linearisation.
        points: Indices of the points whose rows are taken; all by default.
        memory_budget: Bytes that graphs kept between products may take.

    Cost: a product ``Jᵀ u`` takes about half a gradient with a kept graph, else one. ``J v`` takes the same,
    but always one gradient for a network with convolutions.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        *,
        points: Sequence[int] | None = None,
        memory_budget: int = GRAPH_BUDGET,
    ) -> None:
        self._risk = risk if points is None else risk.select(points)
        self.outputs = output_count(risk)
        m = len(self._risk.points) * self.outputs
        super().__init__((m, risk.layout.size), risk.weights.dtype, risk.weights.device)
        self.graphs = output_graphs(self._risk, memory_budget, by_inputs=False)

    def pushes_forward(self, columns: int) -> bool:
        """Whether ``J`` times that many columns is faster in forward mode."""
        return columns == 1 and (self._convolves or not self.graphs.are_kept) and self._has_forward_mode

    @cached_property
    def _has_forward_mode(self) -> bool:
        return has_forward_mode(self._risk)

    @cached_property
    def _convolves(self) -> bool:
        return has_convolution(self._risk.model)

    @property
    def push_cost(self) -> ProductCost:
        """The cost of ``J v``."""
        if self.pushes_forward(1):
            return ProductCost(Cost(), Cost(1.0, JACOBIAN_PRODUCT), self.graphs.batch_bytes)
        return self.pull_cost

    @property
    def pull_cost(self) -> ProductCost:
        """The cost of ``Jᵀ u``."""
        return ProductCost.through(self.graphs, JACOBIAN_GRAPH, JACOBIAN_SWEEP)

    @property
    def cost(self) -> ProductCost:
        """The cost of ``J v`` and ``Jᵀ u``, which share their graphs."""
        push, pull = self.push_cost, self.pull_cost
        return ProductCost(pull.once, push.each + pull.each, max(push.graphs, pull.graphs))

    def _apply(self, block: Tensor) -> Tensor:
        if self.pushes_forward(block.shape[1]):
            direction = self._risk.layout.split(block[:, 0])

            def forward(_: int, inputs: Tensor, __: Tensor) -> Tensor:
                return push_forward(self._risk, inputs, direction, with_graph=False).tangent

            return self._risk.joined(forward).reshape(-1, 1)
        directions = self._risk.layout.split_block(block)
        pushed = self.graphs.joined(lambda _, graph: graph.push(directions).permute(1, 2, 0))
        return pushed.reshape(-1, block.shape[1])

    def _apply_transposed(self, block: Tensor) -> Tensor:
        def pulled(start: int, graph: OutputGraph) -> Tensor:
            b, c = graph.outputs.shape
            cotangents = block[start * c : (start + b) * c].T.reshape(-1, b, c)
            return torch.cat([flat_rows(part) for part in graph.pull(cotangents)], dim=1).T

        return self.graphs.summed(block.new_zeros(self.shape[1], block.shape[1]), pulled)

    @cached_property
    def per_sample(self) -> PerSampleGradients:
        """The rows of whole points, and the route by which they are computed."""
        return PerSampleGradients(self._risk)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` as per-sample gradients of their points.

        Cost: one forward pass over these points, and one backward pass for each output; memory for the rows
        of all outputs of these points.
        """
        c = self.outputs
        first, last = start // c, -(-stop // c)
        unit = torch.eye(c, dtype=self.dtype, device=self.device).expand(last - first, c, c)
        rows = self.per_sample.rows_of(range(first, last), unit).flatten(0, 1)
        return rows[start - first * c : stop - first * c]


class InputJacobian(LinearOperator):
    """The Jacobian ``J_x = ∇_x f`` of all training outputs in the inputs of the moved points ``K``.

    The shape is ``(m, |K|·d)``. Rows of points that do not move are zero; the others are block diagonal.

    Args:
        risk: Empirical risk at the point of linearisation.
        points: Indices ``K`` of the moved points, in the order of the data directions.
        memory_budget: Bytes that graphs kept between products may take.
    """

    def __init__(
        self, risk: EmpiricalRisk, points: Sequence[int], *, memory_budget: int = GRAPH_BUDGET
    ) -> None:
        moved = risk.select(points)
        self._size, self._c = prod(moved.points.feature_shape), output_count(risk)
        m = len(risk.points) * self._c
        super().__init__((m, len(points) * self._size), risk.weights.dtype, risk.weights.device)
        chosen = torch.as_tensor(list(points), device=self.device)
        self._rows = (chosen.unsqueeze(1) * self._c + torch.arange(self._c, device=self.device)).reshape(-1)
        self.graphs = output_graphs(moved, memory_budget, by_inputs=True)
        self._share = len(points) / len(risk.points)

    @property
    def cost(self) -> ProductCost:
        """The cost of ``J_x Δx``."""
        return ProductCost.through(self.graphs, 1.0, INPUT_JACOBIAN - 1.0, share=self._share)

    @property
    def moved_rows(self) -> Tensor:
        """Indices of the rows of moved points, ``(|K|·c,)``; all other rows are zero."""
        return self._rows

    def blocks(self) -> Tensor:
        """``J_{x,k}`` of every moved point, ``(|K|, c, d)``.

        Cost: ``c`` backward passes over the moved points, without their weight part; ``|K|·c·d`` numbers.
        """
        return self.graphs.joined(lambda _, graph: graph.entries)

    def gram_blocks(self) -> Tensor:
        """``J_{x,k} J_{x,k}ᵀ`` of every moved point in float64, ``(|K|, c, c)``. Cost: as :meth:`blocks`."""

        def squares(_: int, graph: OutputGraph) -> Tensor:
            entries = graph.entries.to(torch.float64)
            return entries @ entries.mT

        return self.graphs.joined(squares)

    def _apply(self, block: Tensor) -> Tensor:
        def pushed(start: int, graph: OutputGraph) -> Tensor:
            leaf = graph.source[0]
            rows = block[start * self._size : (start + len(leaf)) * self._size]
            return graph.push([rows.T.reshape(-1, *leaf.shape)]).permute(1, 2, 0)

        result = block.new_zeros(self.shape[0], block.shape[1])
        result[self._rows] = self.graphs.joined(pushed).reshape(-1, block.shape[1])
        return result

    def _apply_transposed(self, block: Tensor) -> Tensor:
        moved = block[self._rows]

        def pulled(start: int, graph: OutputGraph) -> Tensor:
            b, c = graph.outputs.shape
            cotangents = moved[start * c : (start + b) * c].T.reshape(-1, b, c)
            return graph.pull(cotangents)[0].flatten(2).permute(1, 2, 0)

        return self.graphs.joined(pulled).reshape(-1, block.shape[1])


def output_count(risk: EmpiricalRisk) -> int:
    """``c``, the number of outputs of one point."""
    return prod(output_shape(risk))
