"""The data of a training, some of whose points were changed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from solset.changes import TrainingChange
from solset.errors import bad_value
from solset.linalg import Space
from solset.risk import Source, digest, flat_rows, mapped, named_tensors
from solset.storage import hash_bytes
from solset.training._entry import Entry
from solset.training._state import own_randomness


@dataclass(frozen=True, eq=False)
class Part:
    """Points that go through the model together."""

    inputs: Any  # Inputs of the points, as trees with a row per point
    targets: Any  # Targets of the points
    # Targets in which some are exchanged for labels to which points are on their way; ``None`` where none is
    # on its way
    labels: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """The points of one step: those that the recipe drew, then those of each addition to the training."""

    parts: tuple[Part, ...]  # Groups of points that go through the model together
    factors: Tensor | None  # Factor of each point's loss, ``(b,)``; ``None`` where every factor is 1
    # Share of the new label in each point's loss, ``(b,)``; ``None`` where no label is on its way
    shares: Tensor | None

    @property
    def count(self) -> int:
        """``b``, the number of all points of the step."""
        return sum(_count(part.inputs) for part in self.parts)

    def at(
        self,
        data: "Data",
        features: Tensor | None,
        targets: Tensor | None,
        factors: Tensor | None,
        shares: Tensor | None,
    ) -> "Batch":
        """The same step with tensors that are differentiated in the place of its own.

        Args:
            data: Data of the batch, which say which tensor of the inputs may move.
            features: Features of all points, in the order of the parts; ``None`` leaves them.
            targets: Targets of all points; ``None`` leaves them.
            factors: Factors of all points; ``None`` leaves them.
            shares: Shares of new labels; ``None`` leaves them.
        """
        parts, start = [], 0
        for part in self.parts:
            stop = start + _count(part.inputs)
            inputs = (
                part.inputs if features is None else data.with_features(part.inputs, features[start:stop])
            )
            here = part.targets if targets is None else targets[start:stop]
            parts.append(Part(inputs, here, part.labels))
            start = stop
        factors = self.factors if factors is None else factors
        return Batch(tuple(parts), factors, self.shares if shares is None else shares)

    def to(self, dtype: torch.dtype) -> "Batch":
        """The same step with real numbers of another type."""

        def cast(tree: Any) -> Any:
            return mapped(tree, lambda value, _: _cast(value, dtype))

        parts = (Part(cast(part.inputs), cast(part.targets), cast(part.labels)) for part in self.parts)
        return Batch(tuple(parts), _cast(self.factors, dtype), _cast(self.shares, dtype))


@dataclass(frozen=True)
class Quiet:
    """A reader of points that leaves the user's generators as they are, and reads the same whenever asked.

    A data set may augment its points, and draws from PyTorch's generators for it.
    """

    read: Callable[[Sequence[int]], tuple[Any, Any]]  # Reader of some points by their indices

    def __call__(self, indices: Sequence[int]) -> tuple[Any, Any]:
        """Inputs and targets of some points."""
        with own_randomness(torch.device("cpu")):
            torch.default_generator.manual_seed(0)
            return self.read(indices)


@dataclass(frozen=True, eq=False)
class Data:
    """Training points with what was changed in them."""

    # Reader of the points, whose inputs may be trees of tensors; :class:`Quiet` outside of steps
    source: Source
    # Path of the tensor in the inputs that may move; empty for inputs that are one tensor, ``None`` where no
    # tensor is of real numbers
    moving: str | None
    # Change of the features of moved points, by index
    moved: Mapping[int, Tensor] = field(default_factory=dict)
    # Factor of each point's loss, ``(n + k,)``; ``None`` where every factor is 1
    factors: Tensor | None = None
    targets: Mapping[int, Tensor] = field(default_factory=dict)  # Target of relabelled points, by index
    # New label of points on their way to it, and its share in their loss, by index
    labels: Mapping[int, tuple[Tensor, float]] = field(default_factory=dict)
    # Inputs and targets of the ``k`` points that joined, numbered after the others
    added: tuple[Any, Any] | None = None
    # Number of the first point of each addition; those of one go through the model together
    groups: tuple[int, ...] = ()
    entry: Entry | None = None  # Rule by which points that join enter the batches; ``None`` where they cannot

    @cached_property
    def in_step(self) -> "Data":
        """The same points as a step reads them: what a data set draws comes from the step's generators."""
        read = self.source.read
        return replace(self, source=replace(self.source, read=read.read)) if isinstance(read, Quiet) else self

    def __len__(self) -> int:
        return self.drawn + (0 if self.added is None else _count(self.added[0]))

    @property
    def drawn(self) -> int:
        """The number of points that the recipe draws its batches from."""
        return self.source.count

    @property
    def space(self) -> Space:
        """The space of one point's features.

        Raises:
            ValueError: If no tensor of the inputs may move.
        """
        features = self.features_in(self.source.read([0])[0])
        if features is None:
            raise bad_value(
                "change",
                expected="of something else than features, since no input is of real numbers",
                got="a move of features",
                cure="Remove or reweight points, or make embeddings the inputs.",
            )
        return Space("dx", tuple(features.shape[1:]), features.dtype, features.device)

    def of_step(self, drawn: Sequence[int], step: int) -> list[int]:
        """The indices of a step's points: those that the recipe drew, then those that joined."""
        count = len(self) - self.drawn
        if count == 0 or self.entry is None:
            return list(drawn)
        return [*drawn, *(self.drawn + i for i in self.entry.at(step, count))]

    def batch(self, indices: Sequence[int]) -> Batch:
        """The points of a step with all that was changed in them."""
        starts = [0, *self.groups, len(self)]
        groups = [[i for i in indices if a <= i < b] for a, b in pairwise(starts)]
        parts = [self._part(group) for group in groups if group]
        shares = None
        if not self.labels.keys().isdisjoint(indices):
            shares = torch.tensor([self.labels[i][1] if i in self.labels else 0.0 for i in indices])
        factors = None if self.factors is None else self.factors[list(indices)]
        return Batch(tuple(parts), factors, None if shares is None else shares.double())

    def read(self, indices: Sequence[int]) -> tuple[Any, Any]:
        """Inputs and targets of points that the recipe draws, or of points that joined."""
        if indices[0] < self.drawn:
            inputs, targets = self.source.read(indices)
        else:
            assert self.added is not None  # noqa: S101 - only added points have such indices
            rows = [i - self.drawn for i in indices]
            inputs, targets = (mapped(tree, lambda value, _: _rows(value, rows)) for tree in self.added)
        if not self.moved.keys().isdisjoint(indices):
            features = self.features_in(inputs)
            assert features is not None  # noqa: S101 - a change of features was accepted
            zero = torch.zeros_like(features[0])
            moves = torch.stack([self.moved.get(i, zero) for i in indices])
            inputs = self.with_features(inputs, features + moves)
        return inputs, _exchanged(targets, indices, self.targets)

    def as_source(self) -> Source:
        """The reader of all points with what was changed in them, those that joined last."""
        if not self.moved and not self.targets and self.added is None:
            return self.source

        def read(indices: Sequence[int]) -> tuple[Any, Any]:
            groups = [[i for i in indices if (i < self.drawn) == is_drawn] for is_drawn in (True, False)]
            first, *others = [self.read(group) for group in groups if group]
            whole = joined(first, others[0]) if others else first
            order = [i for group in groups for i in group]
            rows = [order.index(i) for i in indices]
            inputs, targets = (mapped(tree, lambda value, _: _rows(value, rows)) for tree in whole)
            return inputs, targets

        return Source(len(self), read)

    def _part(self, indices: Sequence[int]) -> Part:
        inputs, targets = self.read(indices)
        if self.labels.keys().isdisjoint(indices):
            return Part(inputs, targets)
        return Part(
            inputs, targets, _exchanged(targets, indices, {i: new for i, (new, _) in self.labels.items()})
        )

    def features_in(self, inputs: Any) -> Tensor | None:
        """The tensor in the inputs of a batch that may move."""
        return None if self.moving is None else dict(named_tensors(inputs))[self.moving]

    def features(self, points: Sequence[int]) -> Tensor:
        """The features of some points that may move, ``(|K|, *input)``.

        Raises:
            ValueError: If no tensor of the inputs may move.
        """
        shape = self.space.shape
        features = [self.features_in(part.inputs) for part in self.batch(points).parts]
        return torch.cat([each for each in features if each is not None]).reshape(len(points), *shape)

    def with_features(self, inputs: Any, features: Tensor) -> Any:
        """The inputs of a batch with another tensor in the place of the one that may move."""
        return mapped(inputs, lambda value, path: features if path == self.moving else value)

    def silent_features(self) -> tuple[int, ...]:
        """Indices, in a flat input, of the features that are zero in every point."""
        is_silent: Tensor | None = None
        for inputs, _ in self._in_turn():
            features = self.features_in(inputs)
            if features is None:
                return ()
            zero = (flat_rows(features) == 0).all(dim=0)
            is_silent = zero if is_silent is None else is_silent & zero
        return () if is_silent is None else tuple(is_silent.nonzero().flatten().tolist())

    def digest(self) -> str:
        """A sum over all inputs, targets and factors, of whatever tree. Cost: one read of the data."""
        parts = [
            digest(value for tree in trees for _, value in named_tensors(tree)) for trees in self._in_turn()
        ]
        if self.factors is not None:
            parts.append(digest([self.factors]))
        return hash_bytes("".join(parts).encode())[:32]

    def _in_turn(self) -> Iterator[tuple[Any, Any]]:
        """Inputs and targets of all points, some at a time."""
        for first, last in ((0, self.drawn), (self.drawn, len(self))):
            for start in range(first, last, 256):
                yield self.read(range(start, min(start + 256, last)))

    def changed(self, change: TrainingChange, scale: float = 1.0) -> "Data":
        """The data after a change."""
        data = self._with_added(change, scale) if change.added else self
        moved = dict(data.moved)
        for point, dx in change.features.items():
            moved[point] = moved[point] + scale * dx if point in moved else scale * dx
        factors = data.factors
        if change.factors:
            factors = torch.ones(len(data), dtype=torch.float64) if factors is None else factors.clone()
            for point, step in change.factors.items():
                factors[point] += scale * step
        targets, labels = dict(data.targets), dict(data.labels)
        for point, new in change.targets.items():
            if new.is_floating_point():
                old = data.read([point])[1][0]
                targets[point] = new if scale == 1.0 else old + scale * (new - old)
            elif scale == 1.0:
                targets[point] = new
            else:
                labels[point] = (new, scale)
        return replace(data, moved=moved, factors=factors, targets=targets, labels=labels)

    def _with_added(self, change: TrainingChange, scale: float) -> "Data":
        new = change.added[0]
        count = _count(new[0])
        old = torch.ones(len(self), dtype=torch.float64) if self.factors is None else self.factors
        factors = torch.cat([old, torch.full((count,), scale, dtype=torch.float64).to(old)])
        added = new if self.added is None else joined(self.added, new)
        return replace(self, added=added, factors=factors, groups=(*self.groups, len(self)))


def joined(first: tuple[Any, Any], second: tuple[Any, Any]) -> tuple[Any, Any]:
    """Inputs and targets of two groups of points, the second after the first."""
    inputs, targets = (
        _below(one, dict(named_tensors(other))) for one, other in zip(first, second, strict=True)
    )
    return inputs, targets


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _count(tree: Any) -> int:
    """The number of points of a tree of tensors."""
    return len(named_tensors(tree)[0][1])


def _below(tree: Any, others: Mapping[str, Tensor]) -> Any:
    return mapped(
        tree, lambda value, path: torch.cat([value, others[path]]) if isinstance(value, Tensor) else value
    )


def _rows(value: Any, rows: list[int]) -> Any:
    return value[rows] if isinstance(value, Tensor) else value


def _exchanged(targets: Any, indices: Sequence[int], new: Mapping[int, Tensor]) -> Any:
    """The targets of some points, with new ones where there are any."""
    if new.keys().isdisjoint(indices):
        return targets
    targets = targets.clone()
    for row, point in enumerate(indices):
        if point in new:
            targets[row] = new[point]
    return targets


def quiet(source: Source) -> Source:
    """A reader that draws nothing from the user's generators, and reads the same whenever it is asked."""
    return replace(source, read=Quiet(source.read))


def moving_in(inputs: Any, moves: str | None) -> str | None:
    """The path of the tensor in the inputs that may move; ``None`` if none is of real numbers.

    Args:
        inputs: Inputs of a few points.
        moves: Path that the user chose; by default that of the only tensor of real numbers.

    Raises:
        ValueError: If there is no such tensor, or there are several and none is chosen.
    """
    real = [name for name, value in named_tensors(inputs) if value.is_floating_point()]
    if moves is None and len(real) <= 1:
        return real[0] if real else None
    if moves not in real:
        raise bad_value(
            "moves",
            expected=f"one of {', '.join(map(repr, real))}"
            if real
            else "left out: no input is of real numbers",
            got=repr(moves),
            cure="Name the tensor of the inputs that may move.",
        )
    return moves
