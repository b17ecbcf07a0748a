"""Autograd graphs of the batches, kept between products while they fit a memory budget.

A product with a derivative of a network costs a graph (forward, and one backward that is itself
differentiated) and one sweep through it. Solvers multiply with the same matrix a hundred times, so the
graph is worth keeping; it is measured on the first batch and rebuilt at each product when all of them
would not fit.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from solset.risk import EmpiricalRisk

Graph = TypeVar("Graph")

GRAPH_BUDGET = 2 * 2**30


class Graphs(Generic[Graph]):
    """One graph per batch of a risk, in order.

    Args:
        risk: Whose batches.
        build: From inputs and targets to a graph.
        memory_budget: Bytes that kept graphs may take; 0 rebuilds them at every sweep.
        complete: Asks a graph for what it builds on demand, so that it is measured whole.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        build: Callable[[Tensor, Tensor], Graph],
        memory_budget: int,
        complete: Callable[[Graph], object] = lambda graph: graph,
    ) -> None:
        self._risk, self._build, self._budget, self._complete = risk, build, memory_budget, complete
        self._kept: dict[int, Graph] | None = None

    def __iter__(self) -> Iterator[tuple[int, Graph]]:
        """Start index and graph of each batch."""
        if self._kept is not None:
            yield from self._kept.items()
            return
        kept: dict[int, Graph] = {}
        for start, inputs, targets in self._risk.batches():
            graph = self._build(inputs, targets)
            if self.are_kept:
                kept[start] = graph
            yield start, graph
        if self.are_kept:
            self._kept = kept

    @cached_property
    def are_kept(self) -> bool:
        """Whether all of them fit the budget, judged by the first."""
        if self._budget <= 0:
            return False
        batches = -(-len(self._risk.points) // self._risk.batch_size)
        _, inputs, targets = next(self._risk.batches())
        return batches * saved_bytes(lambda: self._complete(self._build(inputs, targets))) <= self._budget


def saved_bytes(build: Callable[[], Any]) -> int:
    """Bytes of the distinct storages that autograd saves while ``build`` runs."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = build()
    del graph
    return sum(storages.values())


def pull_back(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> list[Tensor]:
    """``Σ_j (∂outputs_j/∂inputs)ᵀ cotangents_j`` for a block of cotangents ``(k, *shape)``.

    Args:
        outputs: Tensors of a kept graph; those that depend on nothing count as constant.
        inputs: Leaves of the graph.
        cotangents: One block per output.

    Returns:
        For each input a block ``(k, *shape)``.
    """
    k = cotangents[0].shape[0]
    live = [(out, block) for out, block in zip(outputs, cotangents, strict=True) if out.requires_grad]
    if not live:
        return [leaf.new_zeros(k, *leaf.shape) for leaf in inputs]
    tensors = [out for out, _ in live]

    def sweep(blocks: list[Tensor], *, batched: bool) -> list[Tensor]:
        found = torch.autograd.grad(
            tensors, inputs, blocks, retain_graph=True, allow_unused=True, is_grads_batched=batched
        )
        shape = (lambda leaf: (k, *leaf.shape)) if batched else (lambda leaf: leaf.shape)
        return [
            leaf.new_zeros(shape(leaf)) if part is None else part
            for leaf, part in zip(inputs, found, strict=True)
        ]

    if k == 1:
        return [part.unsqueeze(0) for part in sweep([block[0] for _, block in live], batched=False)]
    return sweep([block for _, block in live], batched=True)
