"""Trees of tensors, such as the dict batch of a language model, as one row of numbers for each point.

Inside solset a batch of points is one tensor. Batches of dicts, tuples and several tensors become the columns
of one matrix at the door, and are taken apart again only where the model or the loss is called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten_with_path, tree_unflatten

from solset.errors import bad_type, bad_value


@dataclass(frozen=True)
class Leaf:
    """The place of one tensor of a tree among the columns of a row."""

    name: str  # Path of the tensor in its tree, such as ``"input_ids"`` or ``"0.image"``
    shape: tuple[int, ...]  # Shape of the tensor for one point
    dtype: torch.dtype  # Type of the tensor's entries
    start: int  # Index of the first column

    @property
    def stop(self) -> int:
        """The column after the last one."""
        return self.start + prod(self.shape)

    @property
    def is_floating(self) -> bool:
        """Whether entries are real numbers, which have derivatives."""
        return self.dtype.is_floating_point

    def read(self, rows: Tensor, floating: torch.dtype | None = None) -> Tensor:
        """The tensor ``(b, *shape)`` in rows ``(b, width)``; whole numbers are rounded, without a derivative.

        Args:
            rows: Rows of points in this tree's columns.
            floating: Type of real entries; by default that of the leaf.
        """
        values = rows[:, self.start : self.stop].reshape(len(rows), *self.shape)
        if self.is_floating:
            return values.to(floating or self.dtype)
        return values.detach().round().to(self.dtype)


@dataclass(frozen=True)
class Tree:
    """The shape of a tree of tensors, without their entries."""

    structure: TreeSpec  # Nesting of dicts, tuples and lists
    # Tensors of the tree in its order, or the constants (numbers, texts, ``None``) between them
    parts: tuple[Any, ...]
    width: int  # Number of columns of a row

    @property
    def leaves(self) -> list[Leaf]:
        """The tensors of the tree, in its order."""
        return [part for part in self.parts if isinstance(part, Leaf)]

    def leaf(self, name: str) -> Leaf | None:
        """The tensor with this path, or whose path ends in it if only one does.

        Args:
            name: Path such as ``"pixel_values"``.
        """
        exact = [leaf for leaf in self.leaves if leaf.name == name]
        ending = [leaf for leaf in self.leaves if leaf.name.endswith(f".{name}")]
        return exact[0] if exact else ending[0] if len(ending) == 1 else None

    @staticmethod
    def of(batch: Any, count: int, argument: str, *, first: str | None = None, before: int = 0) -> "Tree":
        """The tree of a batch, with a column for every entry of a point.

        Args:
            batch: Tensors nested in dicts, tuples and lists, each with a row per point.
            count: Number of points in the batch.
            argument: Name of the argument in error messages.
            first: Path of the tensor whose columns stand first; by default all stand in the tree's order.
            before: Number of columns in front of the tree's own.

        Raises:
            TypeError: If the tree holds anything but tensors and constants, or complex tensors.
            ValueError: If a tensor has no row per point.
        """
        named, structure = _flattened(batch)
        for name, value in named:
            _check_leaf(argument, name, value, count)
        order = sorted(
            (i for i, (_, value) in enumerate(named) if isinstance(value, Tensor)),
            key=lambda i: named[i][0] != first,
        )
        parts: list[Any] = [value for _, value in named]
        start = before
        for i in order:
            name, value = named[i]
            parts[i] = Leaf(name, tuple(value.shape[1:]), value.dtype, start)
            start = parts[i].stop
        return Tree(structure, tuple(parts), start)

    def rows(self, batch: Any, like: Tensor, argument: str) -> Tensor:
        """The rows ``(b, width)`` of a batch, columns in front of the tree's own being zero.

        Raises:
            ValueError: If the batch is another tree, or an entry cannot be written in the dtype of ``like``.
        """
        named, structure = _flattened(batch)
        values = [value for _, value in named]
        self._check_same(named, structure, argument)
        tensors = {part.start: values[i] for i, part in enumerate(self.parts) if isinstance(part, Leaf)}
        count = len(next(iter(tensors.values())))
        before = self.width - sum(part.stop - part.start for part in self.leaves)
        columns = [like.new_zeros(count, before)]
        for part in sorted(self.leaves, key=lambda leaf: leaf.start):
            value = tensors[part.start]
            columns.append(_exact(value, like, argument, part.name).reshape(len(value), -1))
        return torch.cat(columns, dim=1)

    def in_float64(self) -> "Tree":
        """The same tree with all real numbers in float64."""
        parts = tuple(
            replace(part, dtype=torch.float64) if isinstance(part, Leaf) and part.is_floating else part
            for part in self.parts
        )
        return replace(self, parts=parts)

    def joined(self, batch: Any, argument: str) -> Tensor:
        """The rows ``(b, width)`` of a batch of real numbers, differentiable in them."""
        named, structure = _flattened(batch)
        self._check_same(named, structure, argument)
        tensors = [value for _, value in named if isinstance(value, Tensor)]
        return torch.cat([value.reshape(len(value), -1) for value in tensors], dim=1)

    def unpack(self, rows: Tensor, floating: torch.dtype | None = None) -> Any:
        """The tree of tensors in rows ``(b, width)``.

        Args:
            rows: Rows of points, from :meth:`rows`.
            floating: Type of real entries; by default that of each tensor of the tree.
        """
        values = [part.read(rows, floating) if isinstance(part, Leaf) else part for part in self.parts]
        return tree_unflatten(values, self.structure)

    def _check_same(self, named: list[tuple[str, Any]], structure: TreeSpec, argument: str) -> None:
        expected = [_kind_of(part) for part in self.parts]
        if structure == self.structure and [_kind_of(value, 1) for _, value in named] == expected:
            return
        texts = [f"{name} {_kind_of(value, 1)}" for name, value in named]
        raise bad_value(
            argument,
            expected=f"the same tree of tensors in every batch, {[leaf.name for leaf in self.leaves]}",
            got=f"one with {', '.join(texts)}",
            cure="Points of different shapes need a DataLoader whose collate_fn pads them.",
        )


def mapped(batch: Any, change: Callable[[Any, str], Any]) -> Any:
    """The same tree with every tensor and constant changed."""
    named, structure = _flattened(batch)
    return tree_unflatten([change(value, name) for name, value in named], structure)


def named_tensors(batch: Any) -> list[tuple[str, Tensor]]:
    """The tensors of a tree with their paths, in order."""
    return [(name, value) for name, value in _flattened(batch)[0] if isinstance(value, Tensor)]


def as_tensors(argument: str, tree: Any, like: Tensor) -> Any:
    """A tree in which arrays and frames are tensors, real ones in the dtype of the weights.

    Args:
        argument: Name of the argument as the caller wrote it.
        tree: Tensor, array, frame, or a tree of them; whatever else is inside stays as it is.
        like: Tensor with the dtype and device of the weights.
    """
    return mapped(tree, lambda value, path: _held(value, label(argument, path), like))


def label(argument: str, path: str) -> str:
    """The name of a tensor of a tree in messages, such as ``inputs, 'mask'``."""
    return f"{argument}, '{path}'" if path else argument


def is_array(value: Any) -> bool:
    """Whether a value is an array, a frame or a series, of whatever library."""
    return hasattr(value, "__array__") or hasattr(value, "to_numpy")


def _held(value: Any, name: str, like: Tensor) -> Any:
    """A tensor of the user as a detached view, which counts writes to it; an array or frame as a copy."""
    if isinstance(value, Tensor):
        if value.is_nested or value.layout is not torch.strided:
            raise bad_type(
                name,
                expected="a dense tensor",
                got="a nested one" if value.is_nested else f"one of {value.layout}",
                cure="Use .to_dense(), or pad points of different lengths and pass their mask.",
            )
        return value.detach()
    if not is_array(value):
        return value
    array = value.to_numpy() if hasattr(value, "to_numpy") else value.__array__()
    if array.dtype.kind == "O" and all(isinstance(one, Real | np.bool_) for one in array.flat):
        array = array.astype(np.float64)  # columns of truth values beside numbers
    if array.dtype.kind not in "fiub":
        raise bad_type(
            name,
            expected="numbers",
            got=f"an array of {array.dtype}",
            cure="Encode categories, texts and dates as numbers, and give every column one dtype.",
        )
    values = torch.tensor(array.tolist()) if array.dtype.byteorder == ">" else torch.tensor(array)
    return values.to(like.device, like.dtype if values.is_floating_point() else values.dtype)


def _kind_of(value: Any, skipped: int = 0) -> object:
    if isinstance(value, Tensor):
        return (tuple(value.shape[skipped:]), value.dtype)
    return (value.shape, value.dtype) if isinstance(value, Leaf) else value


def _flattened(batch: Any) -> tuple[list[tuple[str, Any]], TreeSpec]:
    pairs, structure = tree_flatten_with_path(plain(batch))
    return [(".".join(_step(step) for step in path), value) for path, value in pairs], structure


def _step(step: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(step, attribute):
            return str(getattr(step, attribute))
    return str(step)


def plain(batch: Any) -> Any:
    """The same tree with mappings of other libraries, such as a tokenizer's, as dicts."""
    if isinstance(batch, Mapping) and not isinstance(batch, dict):
        return {name: plain(value) for name, value in batch.items()}
    if type(batch) in {dict, list, tuple}:
        values = batch.items() if isinstance(batch, dict) else enumerate(batch)
        parts = {name: plain(value) for name, value in values}
        return parts if isinstance(batch, dict) else type(batch)(parts.values())
    return batch


def _check_leaf(argument: str, name: str, value: Any, count: int) -> None:
    place = f"{argument}, '{name}'" if name else argument
    if isinstance(value, bool | int | float | str | None):
        return
    if not isinstance(value, Tensor) or value.is_complex() or value.is_sparse:
        got = (
            f"a {type(value).__name__}"
            if not isinstance(value, Tensor)
            else f"a {value.layout} {value.dtype}"
        )
        raise bad_type(
            place,
            expected="a dense tensor of real or whole numbers",
            got=got,
            cure="Name the tensor that is meant, or convert it: complex numbers by torch.view_as_real.",
        )
    if value.ndim == 0 or len(value) != count:
        raise bad_value(
            place,
            expected=f"a tensor with a row for each of the {count} points",
            got=f"shape {tuple(value.shape)}",
            cure="Make a tensor that all points share a buffer of the module; pad graphs of several nodes.",
        )


def _exact(value: Tensor, like: Tensor, argument: str, name: str) -> Tensor:
    """The entries in the dtype and on the device of ``like``; refuses those that it would round."""
    moved = value.detach().to(like.device, like.dtype)
    if value.dtype == like.dtype:
        return moved
    back = moved.to(value.dtype).to(value.device)
    if not bool(((back == value) | (value != value)).all()):  # noqa: PLR0124 - not a number
        raise bad_value(
            f"{argument}, '{name}'",
            expected=f"entries that {str(like.dtype).removeprefix('torch.')} holds exactly",
            got=f"{str(value.dtype).removeprefix('torch.')} entries that it would round",
            cure="Use `model.double()`, or give this tensor in the dtype of the model.",
        )
    return moved
