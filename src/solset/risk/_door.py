"""How a batch goes into the user's model, which of its outputs are taken, and which features move."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from solset.errors import bad_type, bad_value
from solset.risk._called import called, network_of
from solset.risk._embeddings import EmbeddingOf, Lookup, lookup_of
from solset.risk._points import Points
from solset.risk._sources import Source
from solset.risk._trees import Leaf, Tree, named_tensors, plain

Pick = str | int | Callable[[Any], Any] | None
"""Name, key or index of an output, or a function of the model's return; ``None`` takes it as it is."""

Moves = str | EmbeddingOf | None
"""Name of the tensor that moves, or :func:`embedding_of`; ``None`` takes the only tensor of real numbers."""


@dataclass(frozen=True)
class Door:
    """How a batch goes into a model, and what is taken out."""

    # Way of passing a batch: ``"whole"`` as one argument, ``"spread"`` a tuple as several, ``"named"`` a dict
    # as keyword arguments
    style: str = "whole"
    pick: Pick = None  # Choice among the outputs; ``None`` takes what the model returns
    # Tree of the outputs where the loss takes several tensors; ``None`` for one tensor
    outputs: Tree | None = None
    # Look-up of an embedding whose output moves; ``None`` if a tensor of the batch moves
    lookup: Lookup | None = None
    moves_target: bool = False  # Whether the target is the input itself and moves with it
    # Names of the loss's own weights that move; they come beside the outputs, a row per point
    learned: tuple[str, ...] = ()

    def call(self, model: nn.Module, state: Mapping[str, Tensor], points: Points, inputs: Tensor) -> Any:
        """What the model returns for a batch, after the choice among its outputs."""
        batch = inputs if points.tree is None else points.tree.unpack(inputs)
        with self._displaced(points, inputs, state):
            returned = run(model, state, batch, self.style)
        chosen = picked(returned, self.pick)
        if self.learned:
            row = torch.cat([state[name].reshape(1, -1) for name in self.learned], dim=1)
            return chosen, row.expand(len(inputs), -1)
        return (chosen, points.features_in(inputs)) if self.moves_target else chosen

    def _displaced(
        self, points: Points, inputs: Tensor, state: Mapping[str, Tensor]
    ) -> AbstractContextManager[Any]:
        if self.lookup is None or points.moving is None:
            return nullcontext()
        return self.lookup.displaced(points.moving.read(inputs), state)

    def tensor(self, chosen: Any, count: int) -> Tensor:
        """The outputs as one tensor with a row per point; several are joined as columns.

        Raises:
            TypeError: If the outputs are anything else.
        """
        if self.outputs is not None:
            return self.outputs.joined(chosen, "outputs")
        if isinstance(chosen, Tensor):
            if chosen.ndim and chosen.shape[0] == count:
                return chosen
            if count == 1:  # the model ends in a squeeze() that drops the axis of the points too
                return chosen.unsqueeze(0)
        raise bad_type(
            "model",
            expected="a module that returns one tensor with a row per point",
            got=tuple(chosen.shape) if isinstance(chosen, Tensor) else type(chosen).__name__,
            cure='Name the output, as in outputs="logits", or give a function: outputs=lambda o: o[0].',
        )


def run(model: nn.Module, state: Mapping[str, Tensor], batch: Any, style: str) -> Any:
    """What the model returns for a batch."""
    model, state = network_of(model, state)
    if style == "named":
        return called(model, state, (), batch)
    return called(model, state, batch if style == "spread" else (batch,), {})


def picked(returned: Any, pick: Pick) -> Any:
    """The chosen part of what a model returned.

    Args:
        returned: Value that the model returned.
        pick: Attribute, key, index or function; ``None`` for all of it.

    Raises:
        ValueError: If there is no such part.
    """
    if pick is None:
        return returned
    if callable(pick):
        return pick(returned)
    try:
        return _part(returned, pick)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        parts = list(returned) if isinstance(returned, Mapping) else type(returned).__name__
        raise bad_value(
            "outputs",
            expected="an attribute, key or index of what the model returns",
            got=f"{pick!r}, where the model returns {parts}",
            cure="Name one of its parts, or give a function of what it returns.",
        ) from error


def _part(returned: Any, pick: str | int) -> Any:
    """An attribute, entry or element; a text with dots is a path of them, as error messages show it."""
    if isinstance(pick, int) or (isinstance(returned, Mapping) and pick in returned):
        return returned[pick]
    if not isinstance(returned, Mapping) and hasattr(returned, pick):
        return getattr(returned, pick)
    first, _, rest = pick.partition(".")
    if rest:
        return _part(_part(returned, first), rest)
    return returned[first] if isinstance(returned, Mapping) else returned[int(first)]


def style_of(model: nn.Module, batch: Any) -> str:
    """The way in which a model takes a batch: a dict by keywords, a tuple spread, where the signature allows.

    Args:
        model: Network whose ``forward`` is looked at.
        batch: Tensor or tree of tensors.
    """
    if isinstance(batch, Tensor):
        return "whole"
    style = "named" if isinstance(batch, Mapping) else "spread"
    model, _ = network_of(model, {})
    try:
        signature = inspect.signature(model.forward)
        args, named = ((), dict(batch)) if style == "named" else (tuple(batch), {})
        signature.bind(*args, **named)
    except (TypeError, ValueError):
        return "whole"
    return style


def open_door(
    model: nn.Module, source: Source, few: list[int], like: Tensor, *, moves: Moves, pick: Pick
) -> tuple[Points, Door]:
    """The training points of a source, and the way in which the model takes their batches.

    Raises:
        TypeError: If a batch holds anything but tensors, or what is to move is no tensor of real numbers.
        ValueError: If it is not clear what moves, or a tensor has no row per point.
    """
    batch, targets = source.read(few)
    batch = plain(batch)
    door = Door(style_of(model, batch), pick)
    if isinstance(moves, EmbeddingOf):
        whole = {name: x for name, x in named_tensors(batch) if not x.is_floating_point()}
        lookup = lookup_of(moves, model, whole, lambda state: run(model, state, batch, door.style))
        door = replace(door, lookup=lookup)
    points = _points(source.read, source.count, few, like, moves, door.lookup)
    if source.single is not None:
        read = source.single
        points = replace(
            points,
            alone=lambda index: _points(lambda _: read(index), 1, [index], like, moves, door.lookup),
        )
    return points, door


def _points(
    read: Callable[[Sequence[int]], tuple[Any, Any]],
    count: int,
    few: Sequence[int],
    like: Tensor,
    moves: Moves,
    lookup: Lookup | None,
) -> Points:
    """Points whose inputs and targets are one tensor each."""
    batch, targets = read(few)
    batch = plain(batch)
    _require_tensors(batch, targets)
    aims = None if isinstance(targets, Tensor) else Tree.of(targets, len(few), "targets")
    tree, moving = None, None
    if lookup is not None:
        ids = next((x for name, x in named_tensors(batch) if name == lookup.reads), None)
        shape = lookup.shape if ids is None else (*ids.shape[1:], lookup.shape[-1])
        moving = Leaf(f"embedding {lookup.weight}", shape, like.dtype, 0)
        tree = Tree.of(batch, len(few), "inputs", before=moving.stop)
    elif not (isinstance(batch, Tensor) and batch.is_floating_point() and moves is None):
        assert not isinstance(moves, EmbeddingOf)  # noqa: S101 - for the type checker: it has a look-up
        tree = Tree.of(batch, len(few), "inputs", first=_moving_name(batch, len(few), moves))
        moving = next((leaf for leaf in tree.leaves if leaf.start == 0 and leaf.is_floating), None)
        _check_dtype(moving, like.dtype)

    def fetch(indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        x, y = read(indices)
        inputs, targets = points.rows(x, like), points.target_rows(y, like)
        for name, values in (("inputs", inputs), ("targets", targets)):
            if values.ndim == 0 or len(values) != len(indices):
                raise bad_value(
                    name,
                    expected=f"a row for each of the {len(indices)} points of a batch",
                    got=f"shape {tuple(values.shape)}",
                    cure="Pad what has several rows a point, such as the nodes of a graph.",
                )
        return inputs, targets

    points = Points(count, fetch, tree=tree, moving=moving, targets=aims)
    return points


def _require_tensors(batch: Any, targets: Any) -> None:
    for name, part in (("inputs", batch), ("targets", targets)):
        if not named_tensors(part):
            raise bad_type(
                name,
                expected="tensors, with a row for each point",
                got=f"a {type(part).__name__} without any",
                cure="Turn texts into token ids, and objects into tensors.",
            )


def _moving_name(batch: Any, count: int, moves: str | None) -> str | None:
    """The path of the tensor that moves; ``None`` if nothing can."""
    tree = Tree.of(batch, count, "inputs")
    real = [leaf.name for leaf in tree.leaves if leaf.is_floating]
    if moves is None and len(real) <= 1:
        return real[0] if real else None
    leaf = None if moves is None else tree.leaf(moves)
    if leaf is None:
        raise bad_value(
            "moves",
            expected="the name of the one tensor whose entries move",
            got=f"{moves!r}, where the batch holds {[leaf.name for leaf in tree.leaves]}",
            cure=f"Real numbers, which can move, are in {real}; all other tensors are held.",
        )
    if not leaf.is_floating:
        raise bad_type(
            "moves",
            expected="a tensor of real numbers",
            got=f"{moves!r}, which holds {str(leaf.dtype).removeprefix('torch.')}",
            cure=f"Use moves=solset.embedding_of({moves!r}) for token ids, or one of {real}.",
        )
    return leaf.name


def _check_dtype(moving: Leaf | None, dtype: torch.dtype) -> None:
    if moving is not None and moving.dtype != dtype:
        cure = "Use `inputs.to(dtype)` or `model.to(dtype)`."
        name = f"inputs, '{moving.name}'" if moving.name else "inputs"
        raise bad_value(name, expected=f"{dtype}, like the model", got=str(moving.dtype), cure=cure)
