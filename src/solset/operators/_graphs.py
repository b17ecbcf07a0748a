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
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property, partial
from math import ceil
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from solset import comm
from solset.risk import EmpiricalRisk, in_batches, is_out_of_memory

Graph = TypeVar("Graph")
Part = TypeVar("Part")

GRAPH_BUDGET = 2 * 2**30
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


if TYPE_CHECKING:
    from solset.operators._graphs import Graphs


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
