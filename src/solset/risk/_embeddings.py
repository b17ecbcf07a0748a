"""Embeddings that move: a displacement is added to what an embedding layer gives, in an unchanged model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from solset.errors import bad_value


@dataclass(frozen=True)
class EmbeddingOf:
    """What moves is the output of an embedding layer; made by :func:`embedding_of`."""

    # Name of the token ids in the batch, or of the layer in the model; ``None`` for the only ids
    name: str | None = None


def embedding_of(name: str | None = None) -> EmbeddingOf:
    """Says that the embeddings of token ids move: pass it as ``moves`` to a problem.

    The features of a point are then a displacement of the embedding layer's output, ``(T, d)`` for ``T``
    ids, which is zero at the training data. The layer's own weights stay weights.

    Args:
        name: Name of the token ids in the batch, such as ``"input_ids"``, or of the ``nn.Embedding`` in the
            model. By default the only whole numbers that an embedding layer reads.

    Example:
        >>> embedding_of("input_ids")
        EmbeddingOf(name='input_ids')
    """
    return EmbeddingOf(name)


@dataclass(frozen=True)
class Lookup:
    """One call of an embedding layer in a forward pass."""

    weight: str  # Name of the layer's weight in the model
    order: int  # Number of calls with this weight before it
    shape: tuple[int, ...]  # Shape of the output for one point
    reads: str | None = None  # Name of the ids in the batch; ``None`` if the model makes them itself

    def displaced(self, displacement: Tensor, state: Mapping[str, Tensor]) -> "Displaced":
        """A context in which this call gives its output plus a displacement.

        Args:
            displacement: Displacement for a batch, ``(b, *shape)``.
            state: Parameters and buffers with which the model is called, by name.
        """
        return Displaced(state[self.weight], self.order, displacement)


class Displaced(TorchFunctionMode):
    """A context in which one call of an embedding gives its output plus a displacement."""

    def __init__(self, weight: Tensor, order: int, displacement: Tensor) -> None:
        super().__init__()
        self._weight, self._left, self._displacement = weight, order, displacement

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],  # noqa: ARG002
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function, and adds the displacement to the output of the chosen call."""
        result = func(*args, **(kwargs or {}))
        if func is functional.embedding and _arguments(args, kwargs)[1] is self._weight:
            self._left -= 1
            if self._left == -1:
                return result + self._displacement.reshape(result.shape)
        return result


class _Lookups(TorchFunctionMode):
    """A context that records the ids and outputs of embeddings."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        self.calls: list[tuple[str, Tensor, Tensor]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],  # noqa: ARG002
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function, and records it if it is an embedding by a weight of the model."""
        result = func(*args, **(kwargs or {}))
        if func is functional.embedding:
            ids, weight = _arguments(args, kwargs)
            if id(weight) in self._names:
                self.calls.append((self._names[id(weight)], ids.detach().clone(), result))
        return result


def _arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> tuple[Any, Any]:
    given = dict(zip(("input", "weight"), args, strict=False)) | dict(kwargs or {})
    return given["input"], given["weight"]


def lookup_of(
    asked: EmbeddingOf,
    model: nn.Module,
    whole_numbers: Mapping[str, Tensor],
    call: Callable[[Mapping[str, Tensor]], object],
) -> Lookup:
    """The call of an embedding layer that is meant, found in a forward pass.

    Raises:
        ValueError: If no call is meant, or more than one.
    """
    state = {name: value.detach() for name, value in model.named_parameters()}
    state |= {name: value.clone() for name, value in model.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(), _Lookups({id(v): k for k, v in state.items()}) as seen:
        call(state)
    count = len(next(iter(whole_numbers.values()))) if whole_numbers else 0
    order: dict[str, int] = {}
    meant: list[Lookup] = []
    for weight, ids, output in seen.calls:
        place = order.setdefault(weight, 0)
        order[weight] += 1
        readers = [name for name, value in whole_numbers.items() if _same(ids, value)]
        layer = weight.removesuffix(".weight")
        names = [*readers, layer, *([None] if readers else [])]
        is_meant = asked.name in names or (asked.name is not None and layer.endswith(f".{asked.name}"))
        if is_meant and count and output.numel() == ids.numel() * output.shape[-1] and _fits(ids, count):
            shape = (*_point_shape(ids, count), output.shape[-1])
            meant.append(Lookup(weight, place, shape, readers[0] if readers else None))
    if len(meant) == 1:
        return meant[0]
    layers = sorted({weight.removesuffix(".weight") for weight, _, _ in seen.calls})
    raise bad_value(
        "moves",
        expected="an embedding that the model looks up once for each point",
        got=f"{asked.name!r}, which {len(meant) or 'no'} look-ups fit",
        cure=f"Whole numbers of the batch: {list(whole_numbers)}; layers that look up: {layers}.",
    )


def _same(ids: Tensor, value: Tensor) -> bool:
    return ids.numel() == value.numel() and bool((ids.reshape(-1) == value.reshape(-1)).all())


def _fits(ids: Tensor, count: int) -> bool:
    return ids.numel() % count == 0


def _point_shape(ids: Tensor, count: int) -> tuple[int, ...]:
    return tuple(ids.shape[1:]) if len(ids) == count else (ids.numel() // count,)
