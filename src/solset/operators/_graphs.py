"""Autograd graphs of the batches, kept between products while they fit a memory budget.

A product with a derivative of a network costs a graph (forward, and one backward that is itself
differentiated) and one sweep through it. Solvers multiply with the same matrix a hundred times, so the
graph is worth keeping; it is measured on the first batch and rebuilt at each product when all of them
would not fit.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from math import ceil
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from solset import comm
from solset.risk import EmpiricalRisk, in_batches, is_out_of_memory

Graph = TypeVar("Graph")
Found = TypeVar("Found")

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
        self._kept: dict[range, Graph] = {}
        self._is_crowded = False

    def each(self, work: Callable[[int, Graph], Found]) -> Iterator[Found]:
        """What the work finds on each graph of this process's share, in order.

        Args:
            work: From the start index of a batch and its graph; may be done again on half of the batch.
        """
        own = self._risk.share
        if sum(map(len, self._kept)) != len(own):
            self._kept = {}
            return in_batches(own, self._risk.batch_size, self._risk.room, partial(self._fresh, work))
        return self._again(own, work)

    def _fresh(self, work: Callable[[int, Graph], Found], batch: range) -> Found:
        """Builds a graph, and keeps it if there is room."""
        try:
            graph = self._build(*self._risk.points[batch])
            found = work(batch.start, graph)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                self._drop()
            raise
        if self.are_kept:
            self._kept[batch] = graph
        return found

    def _again(self, own: range, work: Callable[[int, Graph], Found]) -> Iterator[Found]:
        """From the kept graphs; where memory runs out beside them, they go and the rest is built anew."""
        done = own.start
        for batch, graph in list(self._kept.items()):
            try:
                found = work(batch.start, graph)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                break
            yield found
            done = batch.stop
        if done < own.stop:
            self._drop()
            rest = range(done, own.stop)
            yield from in_batches(rest, self._risk.batch_size, self._risk.room, partial(self._fresh, work))

    def _drop(self) -> None:
        self._kept, self._is_crowded = {}, True

    def summed(self, zero: Tensor, work: Callable[[int, Graph], Tensor]) -> Tensor:
        """The sum over all graphs, of all processes; arguments as of :meth:`EmpiricalRisk.summed`."""
        total = zero
        for found in self.each(work):
            total = total + found
        return comm.total(total)

    def joined(self, work: Callable[[int, Graph], Tensor]) -> Tensor:
        """What is found point by point, of all points, ``(n, ...)``; as :meth:`EmpiricalRisk.joined`."""
        parts = list(self.each(work))
        return comm.join(torch.cat(parts) if parts else None, device=self._risk.weights.device)

    @property
    def are_kept(self) -> bool:
        """Whether all of this process's fit the budget, judged by the first, and memory did not run out."""
        return not self._is_crowded and self._fit

    @cached_property
    def _fit(self) -> bool:
        return self._budget > 0 and len(self._risk.share) > 0 and self.all_bytes <= self._budget

    @property
    def all_bytes(self) -> int:
        """Of this process's graphs together, judged by the first."""
        return ceil(len(self._risk.share) * self._point_bytes)

    @property
    def batch_bytes(self) -> int:
        """Of one batch's graph."""
        return ceil(min(self._risk.batch_size, len(self._risk.share)) * self._point_bytes)

    @cached_property
    def _point_bytes(self) -> float:
        """Of the first batch's graph, for each of its points. Cost: it is built once."""
        own, size = self._risk.share, self._risk.batch_size

        def measured(batch: range) -> float:
            data = self._risk.points[batch]
            return saved_bytes(lambda: self._complete(self._build(*data))) / len(batch)

        return next(in_batches(own[:size], size, self._risk.room, measured), 0.0)


def saved_bytes(build: Callable[[], Any]) -> int:
    """Bytes of the distinct storages that autograd saves while ``build`` runs."""
    storages: dict[int, int] = {}
    boxes: list[list[Tensor]] = []

    def pack(tensor: Tensor) -> list[Tensor]:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        boxes.append([tensor])
        return boxes[-1]

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box[0]):
            build()
    finally:
        # A function that saves its own output is in a cycle with it, which nothing else would ever find.
        for box in boxes:
            box.clear()
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
