"""Products with derivatives of a network, through a kept autograd graph or in forward mode.

A product costs a graph (a forward pass, and a backward pass that is itself differentiated) and a sweep
through it. Solvers multiply with the same matrix a hundred times, so graphs are kept between products while
they fit a memory budget, which the first batch tells; else every product builds them again.

``J v`` in forward mode needs no graph and takes the time of one gradient. A kept graph is cheaper if every
layer is a matrix product. For a convolution PyTorch's double backward computes two more convolutions than
``J v`` needs: one product takes 1.4 gradients with a kept graph and 0.9 in forward mode (ResNet20, one
thread; 1.2 on two threads).
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from math import ceil
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from solset import comm
from solset.risk import EmpiricalRisk, in_batches, is_out_of_memory

Graph = TypeVar("Graph")
Part = TypeVar("Part")

GRAPH_BUDGET = 2 * 2**30


class Graphs(Generic[Graph]):
    """One autograd graph for each batch of a risk, in order.

    Args:
        risk: Empirical risk whose batches are taken.
        build: Function that turns inputs and targets of a batch into a graph.
        memory_budget: Bytes that kept graphs may take; 0 builds them again at every sweep.
        complete: Function that makes a graph build its lazy parts, so that all of it is measured.
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

    def each(self, work: Callable[[int, Graph], Part]) -> Iterator[Part]:
        """The results of ``work`` on each graph of this process's share, in order.

        Args:
            work: Function of the start index of a batch and its graph; called again on half of the batch if
                memory runs out.
        """
        share = self._risk.share
        if sum(map(len, self._kept)) != len(share):
            self._kept = {}
            return in_batches(share, self._risk.batch_size, self._risk.room, partial(self._fresh, work))
        return self._again(share, work)

    def _fresh(self, work: Callable[[int, Graph], Part], batch: range) -> Part:
        """The result on a new graph, which is kept if there is room."""
        try:
            graph = self._build(*self._risk.points[batch])
            result = work(batch.start, graph)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                self._drop()
            raise
        if self.are_kept:
            self._kept[batch] = graph
        return result

    def _again(self, share: range, work: Callable[[int, Graph], Part]) -> Iterator[Part]:
        """The results on the kept graphs; if memory runs out, these are dropped and the rest built again."""
        done = share.start
        for batch, graph in list(self._kept.items()):
            try:
                result = work(batch.start, graph)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                break
            yield result
            done = batch.stop
        if done < share.stop:
            self._drop()
            rest = range(done, share.stop)
            yield from in_batches(rest, self._risk.batch_size, self._risk.room, partial(self._fresh, work))

    def _drop(self) -> None:
        self._kept, self._is_crowded = {}, True

    def summed(self, zero: Tensor, work: Callable[[int, Graph], Tensor]) -> Tensor:
        """The sum over the graphs of all processes; arguments as of :meth:`EmpiricalRisk.summed`."""
        return comm.total(sum(self.each(work), zero))

    def joined(self, work: Callable[[int, Graph], Tensor]) -> Tensor:
        """The results of all points, ``(n, ...)``; arguments as of :meth:`EmpiricalRisk.joined`."""
        parts = list(self.each(work))
        return comm.join(torch.cat(parts) if parts else None, device=self._risk.weights.device)

    @property
    def are_kept(self) -> bool:
        """Whether all graphs of this process fit the budget, by the first one, and memory never ran out."""
        return not self._is_crowded and self._fit

    @cached_property
    def _fit(self) -> bool:
        return self._budget > 0 and len(self._risk.share) > 0 and self.all_bytes <= self._budget

    @property
    def all_bytes(self) -> int:
        """Bytes of all graphs of this process, by the size of the first one."""
        return ceil(len(self._risk.share) * self._point_bytes)

    @property
    def batch_bytes(self) -> int:
        """Bytes of the graph of one batch."""
        return ceil(min(self._risk.batch_size, len(self._risk.share)) * self._point_bytes)

    @cached_property
    def _point_bytes(self) -> float:
        """Bytes for each point in the graph of the first batch, which is built once."""
        share, size = self._risk.share, self._risk.batch_size

        def measured(batch: range) -> float:
            data = self._risk.points[batch]
            return saved_bytes(lambda: self._complete(self._build(*data))) / len(batch)

        return next(in_batches(share[:size], size, self._risk.room, measured), 0.0)


def saved_bytes(build: Callable[[], Any]) -> int:
    """Bytes of the distinct storages that autograd saves while ``build`` runs."""
    try:
        return _packed_bytes(build)
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        return reachable_bytes(build())  # the model uses torch.func, which takes no hooks around it


def _packed_bytes(build: Callable[[], Any]) -> int:
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
        # A function that saves its own output is in a reference cycle, which is only broken here.
        for box in boxes:
            box.clear()
    return sum(storages.values())


def has_convolution(model: nn.Module) -> bool:
    """Whether a layer is a convolution, so that forward mode is faster than a kept graph."""
    return any(isinstance(module, _ConvNd) for module in model.modules())


def reachable_bytes(graph: Any) -> int:
    """Bytes of the distinct storages that the nodes of a graph have saved."""
    storages: dict[int, int] = {}
    seen: set[Any] = set()
    waiting = [tensor.grad_fn for tensor in _tensors(graph)]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        for tensor in _saved(node):
            try:
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
            except (RuntimeError, NotImplementedError):  # a tensor of torch.func, which has no storage
                continue
    return sum(storages.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))


def _saved(node: Any) -> Iterator[Tensor]:
    """The tensors that a node has saved, under the names of its arguments."""
    for name in dir(node):
        if name.startswith("_saved_") or name == "saved_tensors":
            try:
                yield from _tensors(getattr(node, name))
            except RuntimeError:  # a tensor of torch.func whose level has ended
                continue
