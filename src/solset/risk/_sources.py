"""Readers of training data: tensors, arrays, frames, trees of them, datasets and loaders."""

import warnings
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    default_collate,
)

from solset.errors import SolsetWarning, bad_type, bad_value
from solset.risk._points import Points
from solset.risk._trees import as_tensors, is_array, label, mapped, named_tensors

_LABELS = ("labels", "label", "targets", "target")  # keys of a dict batch that hold the targets


@dataclass(frozen=True)
class Source:
    """Training data as they were passed: pairs of trees of tensors, read by index.

    Attributes:
        count: Number of points ``n``.
        read: Function that gives inputs and targets of a batch, as trees with a row per point.
        single: Function that reads one point without the padding of a batch; ``None`` if no batch is padded.
    """

    count: int
    read: Callable[[Sequence[int]], tuple[Any, Any]]
    single: Callable[[int], tuple[Any, Any]] | None = None


def source_of(inputs: Any, targets: Any, like: Tensor) -> Source:
    """The reader of a user's training data.

    Args:
        inputs: Tensors, arrays or frames with a row per point, also nested in dicts and tuples; a map-style
            dataset; or a loader over one that does not shuffle.
        targets: Tensor, array, series or tree of them; for a dataset the key of its dicts, or ``None``.
        like: Tensor with the dtype and device of the weights. Real arrays and frames are read in that dtype;
            tensors must be on that device already.

    Raises:
        TypeError: If the inputs are none of these.
        ValueError: If lengths differ, there are no points, a loader shuffles, or entries are not finite
            (for a dataset: at the time they are read).
    """
    is_tree = isinstance(inputs, Mapping | Tensor) or is_array(inputs)
    has_own_targets = targets is not None and not isinstance(targets, str)
    if is_tree or (has_own_targets and isinstance(inputs, tuple | list)):
        return _in_memory(inputs, targets, like)
    if has_own_targets:
        cure = 'Leave it out, or name the key of the dicts that the dataset gives: "labels".'
        raise bad_type("targets", expected="None beside a dataset", got=type(targets).__name__, cure=cure)
    if isinstance(inputs, DataLoader):
        return _of_loader(inputs, targets, like.device)
    if isinstance(inputs, Dataset) or (hasattr(inputs, "__getitem__") and isinstance(inputs, Sized)):
        return _of_dataset(inputs, default_collate, targets, like.device)
    raise bad_type(
        "inputs",
        expected="a tensor, an array, a tree of them, a map-style dataset or a DataLoader",
        got=type(inputs).__name__,
        cure="Points are read by index, more than once.",
    )


def as_points(inputs: Any, targets: Tensor | None, device: torch.device) -> Points:
    """The training points of inputs and targets that are one tensor each in every batch.

    Args:
        inputs: Tensor, map-style dataset of pairs, or loader that keeps its order.
        targets: Tensor beside tensor inputs, else ``None``.
        device: Device to which batches of a dataset are moved.

    Raises:
        TypeError: As for :func:`source_of`.
        ValueError: As for :func:`source_of`.
    """
    source = source_of(inputs, targets, torch.empty(0, device=device))
    for name, part in zip(("inputs", "targets"), source.read([0]), strict=True):
        if not isinstance(part, Tensor):
            raise bad_type(
                name,
                expected="one tensor with a row for each point",
                got=f"a {type(part).__name__}",
                cure="Pass one tensor, like the data of training.",
            )
    return Points(source.count, source.read)


def _in_memory(inputs: Any, targets: Any, like: Tensor) -> Source:
    if targets is None and isinstance(inputs, Mapping):
        inputs, targets = _split(inputs, None)
    elif isinstance(targets, str) and isinstance(inputs, Mapping):
        inputs, targets = _split(inputs, targets)
    if targets is None or isinstance(targets, str):
        got = type(targets).__name__
        cure = "Pass the labels as a tensor, an array or a tree of them."
        raise bad_type("targets", expected="a tensor beside tensor inputs", got=got, cure=cure)
    _warn_of_order(inputs, targets)
    trees = {name: as_tensors(name, tree, like) for name, tree in (("inputs", inputs), ("targets", targets))}
    tensors = {label(name, path): value for name in trees for path, value in named_tensors(trees[name])}
    count = _count(trees)
    for name, value in tensors.items():
        _check_device(name, value, like.device)
        _require_finite(name, value, range(count))
    versions = {name: value._version for name, value in tensors.items() if not value.is_inference()}

    def read(indices: Sequence[int]) -> tuple[Any, Any]:
        for name, version in versions.items():
            if tensors[name]._version != version:
                raise bad_value(
                    name,
                    expected="the values with which the problem was built",
                    got="a tensor that was written to since",
                    cure="Build the problem again, or write to a copy.",
                )
        chosen = torch.as_tensor(list(indices), device=like.device)
        x, y = (mapped(tree, lambda value, _: _rows(value, chosen)) for tree in trees.values())
        return x, y

    return Source(count, read)


def _warn_of_order(inputs: Any, targets: Any) -> None:
    """Warns of frames whose rows have other labels than the targets beside them."""
    first, second = getattr(inputs, "index", None), getattr(targets, "index", None)
    if first is None or second is None or callable(first) or callable(second) or len(first) != len(second):
        return
    if not first.equals(second):
        warnings.warn(
            "the rows of inputs and targets have different labels in their index: they are paired by their "
            "order; use targets.loc[inputs.index] to pair them by label",
            SolsetWarning,
            stacklevel=2,
        )


def _rows(value: Any, chosen: Tensor) -> Any:
    return value[chosen] if isinstance(value, Tensor) else value


def _count(trees: Mapping[str, Any]) -> int:
    """The number of points, the length of all tensors."""
    sizes = {
        label(name, path): tuple(value.shape) for name in trees for path, value in named_tensors(trees[name])
    }
    first = next((name for name in sizes if name.startswith("inputs")), None)
    if first is None or not any(name.startswith("targets") for name in sizes):
        missing = "inputs" if first is None else "targets"
        got = type(trees[missing]).__name__
        raise bad_type(missing, expected="a tensor or a tree of tensors", got=got, cure="Pass tensors.")
    for name, shape in sizes.items():
        if not shape or not sizes[first] or shape[0] != sizes[first][0]:
            raise bad_value(
                name,
                expected=f"one per input ({sizes[first]})",
                got=f"shape {shape}",
                cure="The first dimension counts the points; what all share is a buffer of the module.",
            )
    _require_some(sizes[first][0])
    return sizes[first][0]


def _of_loader(loader: DataLoader[Any], key: str | None, device: torch.device) -> Source:
    batches = loader.batch_sampler
    order = getattr(batches, "sampler", loader.sampler)
    is_ordered = type(batches) is BatchSampler and isinstance(order, SequentialSampler)
    if not is_ordered and not isinstance(loader.dataset, IterableDataset):
        raise bad_value(
            "inputs",
            expected="a loader that batches its points and keeps their order",
            got=f"one with {type(order).__name__} and {type(batches).__name__}",
            cure="Build it with shuffle=False and a batch_size: points are named by their index.",
        )
    left_out = len(order) % loader.batch_size if loader.drop_last and loader.batch_size else 0  # type: ignore[arg-type]
    if left_out:
        raise bad_value(
            "inputs",
            expected="a loader of all points",
            got=f"drop_last=True, which leaves out the last {left_out}",
            cure="Build it without drop_last, or leave these points out of the dataset.",
        )
    return _of_dataset(loader.dataset, loader.collate_fn, key, device)


def _of_dataset(
    dataset: Any, collate: Callable[[list[Any]], Any], key: str | None, device: torch.device
) -> Source:
    has_index = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
    if not isinstance(dataset, Sized) or not has_index:
        raise bad_type(
            "inputs",
            expected="a map-style dataset",
            got=f"iterable {type(dataset).__name__}",
            cure="Points are read by index, more than once.",
        )
    _require_some(len(dataset))

    def read(indices: Sequence[int]) -> tuple[Any, Any]:
        points = [_point(dataset, i) for i in indices]
        try:
            collated = collate(points)
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise bad_value(
                "inputs",
                expected="points that can be stacked",
                got=f"{type(error).__name__}: {error}",
                cure="Pass a DataLoader whose collate_fn pads points of different shapes and makes tensors.",
            ) from error
        inputs, targets = _split(collated, key)
        for name, tree in (("inputs", inputs), ("targets", targets)):
            for path, value in named_tensors(tree):
                if value.ndim and len(value) == len(indices):
                    _require_finite(label(name, path), value, indices)
        move = lambda value, _: value.to(device) if isinstance(value, Tensor) else value  # noqa: E731
        return mapped(inputs, move), mapped(targets, move)

    if collate is default_collate:
        return Source(len(dataset), read)
    return _padded(len(dataset), read)


def _point(dataset: Any, index: int) -> Any:
    try:
        return dataset[index]
    except (IndexError, KeyError) as error:
        raise bad_value(
            "inputs",
            expected=f"a dataset of {len(dataset)} points, as its length says",
            got=f"{type(error).__name__} at point {index}: {error}",
            cure="Let __len__ and __getitem__ agree; points are counted from 0.",
        ) from error


def _padded(count: int, read: Callable[[Sequence[int]], tuple[Any, Any]]) -> Source:
    """A source of which every batch has the shape of all points together.

    A collate function pads a batch to its longest point. The longest of all points are read with every batch
    and left out of it again, so that a point has the same shape in each. Cost: one read of the data.
    """
    longest: dict[tuple[str, int], tuple[int, int]] = {}
    is_ragged = False
    for index in range(count):
        inputs, targets = read([index])
        for name, tree in (("inputs", inputs), ("targets", targets)):
            for path, value in named_tensors(tree):
                for axis, size in enumerate(value.shape[1:], start=1):
                    place = (label(name, path), axis)
                    is_ragged |= longest.get(place, (size, 0))[0] != size
                    longest[place] = max(longest.get(place, (size, index)), (size, index))
    if not is_ragged:
        return Source(count, read)
    added = sorted({index for _, index in longest.values()})

    def read_padded(indices: Sequence[int]) -> tuple[Any, Any]:
        together = [*indices, *added]

        def shortened(value: Any, path: str) -> Any:
            if not isinstance(value, Tensor) or not value.ndim:
                return value
            if len(value) != len(together):
                raise bad_value(
                    label("inputs", path),
                    expected=f"a row for each of the {len(together)} points of a batch",
                    got=f"{len(value)} rows",
                    cure="Pad what has several rows a point, such as the nodes of a graph.",
                )
            return value[: len(indices)]

        inputs, targets = read(together)
        return mapped(inputs, shortened), mapped(targets, shortened)

    return Source(count, read_padded, lambda index: read([index]))


def _split(batch: Any, key: str | None) -> tuple[Any, Any]:
    """Inputs and targets of a collated batch: by a key of a dict, else the last part of a tuple."""
    if isinstance(batch, Mapping):
        named = [key] if key is not None else [name for name in _LABELS if name in batch]
        if len(named) != 1 or named[0] not in batch:
            raise bad_value(
                "targets",
                expected="the key of the targets in the dicts of the data",
                got=f"{named or None} beside the keys {list(batch)}",
                cure='Pass the key, as in targets="labels".',
            )
        return {name: part for name, part in batch.items() if name != named[0]}, batch[named[0]]
    if key is not None:
        cure = "Leave it out: the last part of a tuple is the target."
        raise bad_value("targets", expected="None beside a dataset of tuples", got=repr(key), cure=cure)
    parts = list(batch) if isinstance(batch, tuple | list) else [batch]
    if len(parts) < 2:
        raise bad_type(
            "inputs",
            expected="pairs (input, target), tuples that end in the target, or dicts with labels",
            got=f"({', '.join(type(part).__name__ for part in parts)})",
            cure="Let the dataset return inputs and targets.",
        )
    inputs = parts[0] if len(parts) == 2 else tuple(parts[:-1])
    targets = parts[-1]
    return inputs, targets if isinstance(targets, Mapping | tuple | list) else torch.as_tensor(targets)


def _check_device(name: str, value: Tensor, device: torch.device) -> None:
    if value.device != device:
        raise bad_value(
            name,
            expected=f"on {device}, like the model",
            got=f"on {value.device}",
            cure=f"Use `{name}.to(device)`.",
        )


def _require_finite(name: str, values: Tensor, indices: Sequence[int]) -> None:
    whole = torch.isfinite(values).reshape(len(values), -1).all(dim=1)
    if not bool(whole.all()):
        where = [indices[j] for j in (~whole).nonzero().flatten().tolist()]
        raise bad_value(
            name,
            expected="finite",
            got=f"NaN or infinite entries in points {where[:5]}",
            cure="Clean or leave out these points.",
        )


def _require_some(count: int) -> None:
    if count == 0:
        raise bad_value("inputs", expected="at least one point", got="none", cure="Pass the training data.")
