"""The memory of an autograd graph, read from the graph itself."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def reachable_bytes(graph: Any) -> int:
    """Bytes of the distinct storages that the nodes of a graph have saved.

    Args:
        graph: Tensors with a graph, in lists, tuples or dataclasses.
    """
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
