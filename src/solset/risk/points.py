"""Training points: tensors, map-style datasets and non-shuffling loaders behind one small interface."""

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler, default_collate

from solset.errors import bad_type, bad_value

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Points:
    """An ordered, finite collection of pairs ``(x_i, y_i)``, some of which may have been moved.

    Attributes:
        count: How many.
        fetch: From a list of indices to a batch ``(inputs, targets)``.
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

    def move(self, points: Sequence[int], dx: Tensor) -> "Points":
        """The same points with ``dx[j]`` added to the input of point ``points[j]``.

        Args:
            points: Distinct indices.
            dx: ``(len(points), *input)``.
        """
        inputs, _ = self[points]
        new = {i: x for i, x in zip(points, inputs + dx, strict=True)}
        return Points(self.count, self.fetch, {**self.moved, **new})

    def select(self, indices: Sequence[int]) -> "Points":
        """Only these points, renumbered from 0."""
        chosen = list(indices)
        return Points(len(chosen), lambda positions: self[[chosen[j] for j in positions]])


def as_points(inputs: Any, targets: Tensor | None, device: torch.device) -> Points:
    """The training points that a user's ``inputs`` and ``targets`` stand for.

    Args:
        inputs: A tensor ``(n, ...)``, a map-style dataset of pairs, or a loader over one that does not
            shuffle.
        targets: A tensor ``(n, ...)`` beside tensor inputs, else ``None``.
        device: Where batches of a dataset are moved; tensors must be there already.

    Raises:
        TypeError: If the inputs are none of these.
        ValueError: If lengths differ, there are no points, or a loader shuffles.
    """
    if isinstance(inputs, Tensor):
        return _tensor_points(inputs, targets)
    if targets is not None:
        raise bad_type(
            "targets", expected="None beside a dataset", got=type(targets).__name__, cure="Leave it out."
        )
    if isinstance(inputs, DataLoader):
        if not isinstance(inputs.sampler, SequentialSampler):
            raise bad_value(
                "inputs",
                expected="a loader that keeps the order of its points",
                got=f"one with {type(inputs.sampler).__name__}",
                cure="Build it with shuffle=False: points are named by their index.",
            )
        return _dataset_points(inputs.dataset, inputs.collate_fn, device)
    if isinstance(inputs, Dataset) or (hasattr(inputs, "__getitem__") and isinstance(inputs, Sized)):
        return _dataset_points(inputs, default_collate, device)
    raise bad_type(
        "inputs",
        expected="a tensor, a map-style dataset or a DataLoader",
        got=type(inputs).__name__,
        cure="Points are read by index, more than once.",
    )


def _tensor_points(inputs: Tensor, targets: Tensor | None) -> Points:
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
    inputs, targets = inputs.detach(), targets.detach()

    def fetch(indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(list(indices), device=inputs.device)
        return inputs[chosen], targets[chosen.to(targets.device)]

    return Points(len(inputs), fetch)


def _dataset_points(dataset: Any, collate: Callable[[list[Any]], Any], device: torch.device) -> Points:
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise bad_type(
            "inputs",
            expected="a map-style dataset",
            got=f"iterable {type(dataset).__name__}",
            cure="Points are read by index, more than once.",
        )
    _require_some(len(dataset))

    def fetch(indices: Sequence[int]) -> Batch:
        batch = collate([dataset[i] for i in indices])  # type: ignore[index]
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise bad_type(
                "inputs",
                expected="pairs (input, target)",
                got=type(batch).__name__,
                cure="Return two tensors.",
            )
        return batch[0].to(device), torch.as_tensor(batch[1]).to(device)

    return Points(len(dataset), fetch)


def _require_some(count: int) -> None:
    if count == 0:
        raise bad_value("inputs", expected="at least one point", got="none", cure="Pass the training data.")
