"""Training points from tensors, map-style datasets or loaders that keep their order."""

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
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

from solset.checks import points_of, shaped
from solset.errors import bad_type, bad_value

Batch = tuple[Tensor, Tensor]
Indices = Sequence[int] | Tensor


@dataclass(frozen=True)
class Points:
    """An ordered, finite collection of pairs ``(x_i, y_i)``, some of which may have been moved.

    Attributes:
        count: Number of points ``n``.
        fetch: Function that turns a list of indices into a batch ``(inputs, targets)``.
        moved: New inputs of moved points, by index.
    """

    count: int
    fetch: Callable[[Sequence[int]], Batch]
    moved: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        """The batch of these points, in this order."""
        inputs, targets = self.fetch(indices)
        if self.moved and not self.moved.keys().isdisjoint(indices):
            inputs = torch.stack([self.moved.get(i, inputs[j]) for j, i in enumerate(indices)])
        return inputs, targets

    def move(self, points: Indices, dx: Tensor) -> "Points":
        """The same points with ``dx[j]`` added to the input of point ``points[j]``.

        Args:
            points: Distinct indices of points.
            dx: Change of each of these inputs, ``(len(points), *input)``.

        Raises:
            ValueError: If indices or shape do not fit.
        """
        chosen = points_of(points, self.count)
        inputs, _ = self[chosen]
        cure = "Pass one block per point, in the order of `points`, each shaped like one input."
        shaped("dx", dx, inputs.shape, cure=cure)
        new = {i: x for i, x in zip(chosen, inputs + dx, strict=True)}
        return Points(self.count, self.fetch, {**self.moved, **new})

    def select(self, indices: Indices) -> "Points":
        """These points alone, renumbered from 0."""
        chosen = points_of(indices, self.count)
        return Points(len(chosen), lambda positions: self[[chosen[j] for j in positions]])


def as_points(inputs: Any, targets: Tensor | None, device: torch.device) -> Points:
    """The training points in a user's ``inputs`` and ``targets``.

    Args:
        inputs: A tensor ``(n, ...)``, a map-style dataset of pairs, or a loader over one that does not
            shuffle.
        targets: A tensor ``(n, ...)`` beside tensor inputs, else ``None``.
        device: Device to which batches of a dataset are moved; tensors must be there already.

    Raises:
        TypeError: If the inputs are none of these.
        ValueError: If lengths differ, there are no points, a loader shuffles, or entries are not finite
            (for a dataset: at the time they are read).
    """
    if isinstance(inputs, Tensor):
        return _tensor_points(inputs, targets, device)
    if targets is not None:
        raise bad_type(
            "targets", expected="None beside a dataset", got=type(targets).__name__, cure="Leave it out."
        )
    if isinstance(inputs, DataLoader):
        return _loader_points(inputs, device)
    if isinstance(inputs, Dataset) or (hasattr(inputs, "__getitem__") and isinstance(inputs, Sized)):
        return _dataset_points(inputs, default_collate, device)
    raise bad_type(
        "inputs",
        expected="a tensor, a map-style dataset or a DataLoader",
        got=type(inputs).__name__,
        cure="Points are read by index, more than once.",
    )


def _loader_points(loader: DataLoader[Any], device: torch.device) -> Points:
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
    return _dataset_points(loader.dataset, loader.collate_fn, device)


def _tensor_points(inputs: Tensor, targets: Tensor | None, device: torch.device) -> Points:
    if not isinstance(targets, Tensor):
        raise bad_type(
            "targets",
            expected="a tensor beside tensor inputs",
            got=type(targets).__name__,
            cure="Pass the labels as a tensor.",
        )
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
        raise bad_value(
            "targets",
            expected=f"one per input ({tuple(inputs.shape)})",
            got=f"shape {tuple(targets.shape)}",
            cure="The first dimension counts the points.",
        )
    _require_some(len(inputs))
    for name, values in (("inputs", inputs), ("targets", targets)):
        if values.device != device:
            raise bad_value(
                name,
                expected=f"on {device}, like the model",
                got=f"on {values.device}",
                cure=f"Use `{name}.to(device)`.",
            )
    _require_finite(inputs, targets, range(len(inputs)))
    named = {"inputs": inputs.detach(), "targets": targets.detach()}  # detached views count writes together
    versions = {} if inputs.is_inference() else {name: data._version for name, data in named.items()}
    inputs, targets = named.values()

    def fetch(indices: Sequence[int]) -> Batch:
        for name, version in versions.items():
            if named[name]._version != version:
                raise bad_value(
                    name,
                    expected="the values with which the problem was built",
                    got="a tensor that was written to since",
                    cure="Build the problem again, or write to a copy.",
                )
        chosen = torch.as_tensor(list(indices), device=inputs.device)
        return inputs[chosen], targets[chosen]

    return Points(len(inputs), fetch)


def _dataset_points(dataset: Any, collate: Callable[[list[Any]], Any], device: torch.device) -> Points:
    has_index = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
    if not isinstance(dataset, Sized) or not has_index:
        raise bad_type(
            "inputs",
            expected="a map-style dataset",
            got=f"iterable {type(dataset).__name__}",
            cure="Points are read by index, more than once.",
        )
    _require_some(len(dataset))

    def fetch(indices: Sequence[int]) -> Batch:
        batch = collate([dataset[i] for i in indices])  # type: ignore[index]
        if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor)):
            parts = batch if isinstance(batch, tuple | list) else [batch]
            raise bad_type(
                "inputs",
                expected="pairs (input, target) of tensors",
                got=f"({', '.join(type(part).__name__ for part in parts)})",
                cure="Let the dataset return two tensors.",
            )
        inputs, targets = batch[0], torch.as_tensor(batch[1])
        _require_finite(inputs, targets, indices)
        return inputs.to(device), targets.to(device)

    return Points(len(dataset), fetch)


def _require_finite(inputs: Tensor, targets: Tensor, indices: Sequence[int]) -> None:
    for name, values in (("inputs", inputs), ("targets", targets)):
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
