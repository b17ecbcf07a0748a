"""The ordered training points, some of which may have been moved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from solset.checks import points_of, shaped
from solset.errors import bad_value
from solset.risk._trees import Leaf, Tree, as_tensors

Batch = tuple[Tensor, Tensor]
Indices = Sequence[int] | Tensor


@dataclass(frozen=True)
class Points:
    """An ordered, finite collection of pairs ``(x_i, y_i)``, some of which may have been moved.

    The inputs of a batch are one tensor. If a point is a tree of tensors, they are rows ``(b, width)``: the
    columns of the tensor that moves come first, all other columns are held.

    Attributes:
        count: Number of points ``n``.
        fetch: Function that turns a list of indices into a batch ``(inputs, targets)``.
        moved: New inputs of moved points, by index.
        tree: Tree of which the inputs are rows; ``None`` if they are the moving tensor itself.
        moving: Tensor of the tree that moves; ``None`` without a tree, or if nothing in it can move.
        targets: Tree of which the targets are rows; ``None`` if they are one tensor.
        alone: Function that gives one point without the padding of a batch; ``None`` if none is padded.
    """

    count: int
    fetch: Callable[[Sequence[int]], Batch]
    moved: dict[int, Tensor] = field(default_factory=dict)
    tree: Tree | None = None
    moving: Leaf | None = None
    targets: Tree | None = None
    alone: "Callable[[int], Points] | None" = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        """The batch of these points, in this order."""
        inputs, targets = self.fetch(indices)
        if self.moved and not self.moved.keys().isdisjoint(indices):
            inputs = torch.stack([self.moved.get(i, inputs[j]) for j, i in enumerate(indices)])
        return inputs, targets

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of the features of one point, those that move; ``(0,)`` if nothing in the inputs can."""
        if self.tree is None:
            return tuple(self[[0]][0].shape[1:])
        return self._moving.shape

    def features(self, indices: Sequence[int]) -> Tensor:
        """The features ``(k, *feature_shape)`` of these points.

        Args:
            indices: Indices of the points, in this order.
        """
        return self.features_in(self[indices][0])

    def features_in(self, inputs: Tensor) -> Tensor:
        """The features ``(b, *feature_shape)`` in the inputs of a batch.

        Args:
            inputs: Inputs of a batch.
        """
        return inputs if self.tree is None else self._moving.read(inputs, inputs.dtype)

    def leaf(self, inputs: Tensor) -> Batch:
        """The features of a batch as a fresh leaf that requires grad, and the inputs as a function of it.

        Args:
            inputs: Inputs of a batch.
        """
        if self.tree is None:
            leaf = inputs.detach().clone().requires_grad_()
            return leaf, leaf
        moving = self._moving
        leaf = moving.read(inputs, inputs.dtype).detach().clone().requires_grad_()
        with torch.enable_grad():
            held = inputs[:, moving.stop :].detach()
            return leaf, torch.cat([leaf.reshape(len(leaf), moving.stop), held], dim=1)

    def with_features(self, inputs: Tensor, features: Tensor) -> Tensor:
        """The inputs of a batch with other features, as a differentiable function of them.

        Args:
            inputs: Inputs of a batch, whose other columns are held.
            features: Features of these points, ``(b, *feature_shape)``.
        """
        if self.tree is None:
            return features
        moving = self._moving
        return torch.cat([features.reshape(len(features), moving.stop), inputs[:, moving.stop :]], dim=1)

    def move(self, points: Indices, dx: Tensor) -> "Points":
        """The same points with ``dx[j]`` added to the features of point ``points[j]``.

        Args:
            points: Distinct indices of points.
            dx: Change of each of these points' features, ``(len(points), *feature_shape)``.

        Raises:
            ValueError: If indices or shape do not fit.
        """
        chosen = points_of(points, self.count)
        cure = "Pass one block per point, in the order of `points`, each shaped like one input."
        shaped("dx", dx, (len(chosen), *self.feature_shape), cure=cure)
        inputs, _ = self[chosen]
        if self.tree is None:
            new = inputs + dx
        else:
            new = inputs.clone()
            new[:, : self._moving.stop] += dx.reshape(len(chosen), -1)
        return replace(self, moved={**self.moved, **dict(zip(chosen, new, strict=True))})

    def require_own(self, points: Sequence[int], dx: Tensor) -> None:
        """Refuses a change of entries that are only there because a batch was padded.

        Args:
            points: Distinct indices of points.
            dx: Change of each of these points' features.

        Raises:
            ValueError: If a change is not zero there; the message names the points.
        """
        if self.alone is None:
            return
        outside = []
        for i, part in zip(points, dx, strict=True):
            short, padded = self.alone(i).features([0])[0], self.features([i])[0]
            if short.shape != padded.shape and bool((part[~_own_entries(short, padded)] != 0).any()):
                outside.append(i)
        if outside:
            raise bad_value(
                "dx",
                expected="zero in the padding of each point",
                got=f"changes of the padding of points {outside[:5]}",
                cure="Set `dx` to zero past a point's own length; the padded shape is that of the longest.",
            )

    def select(self, indices: Indices) -> "Points":
        """These points alone, renumbered from 0."""
        chosen = points_of(indices, self.count)
        alone = self.alone
        return replace(
            self,
            count=len(chosen),
            fetch=lambda positions: self[[chosen[j] for j in positions]],
            moved={},
            alone=None if alone is None else lambda position: alone(chosen[position]),
        )

    def in_float64(self) -> "Points":
        """The same points with all real numbers in float64."""

        def fetch(indices: Sequence[int]) -> Batch:
            inputs, targets = self[indices]
            is_real = targets.is_floating_point()
            return inputs.to(torch.float64), targets.to(torch.float64) if is_real else targets

        moving = None if self.moving is None else replace(self.moving, dtype=torch.float64)
        tree = None if self.tree is None else self.tree.in_float64()
        return replace(self, fetch=fetch, moved={}, tree=tree, moving=moving)

    def rows(self, inputs: Any, like: Tensor) -> Tensor:
        """Inputs of other points as the model's batch: the tensor itself, or the rows of a tree.

        Args:
            inputs: Tensor, or tree of tensors like that of the training points, with a row per point.
            like: Tensor with the dtype and device of the rows.

        Raises:
            ValueError: If the tree is another one.
        """
        return inputs if self.tree is None else self.tree.rows(inputs, like, "inputs")

    def target_rows(self, targets: Any, like: Tensor) -> Tensor:
        """Targets of other points as the loss takes them: the tensor itself, or the rows of a tree.

        Args:
            targets: Tensor, array, or tree of them like that of the training targets, with a row per point.
            like: Tensor with the dtype and device of the weights; the rows of a tree are in float64.

        Raises:
            ValueError: If the tree is another one.
        """
        targets = as_tensors("targets", targets, like)
        if self.targets is None:
            return targets
        return self.targets.rows(targets, like.new_empty(0, dtype=torch.float64), "targets")

    @property
    def _moving(self) -> Leaf:
        return self.moving or Leaf("", (0,), torch.float64, 0)

    def require_moving(self) -> None:
        """Refuses to go on where nothing in the inputs can move.

        Raises:
            ValueError: If all inputs are whole numbers; the message names them.
        """
        if self.tree is not None and self.moving is None:
            raise bad_value(
                "moves",
                expected="the name of features that can move",
                got=f"whole numbers only, in {', '.join(leaf.name or 'inputs' for leaf in self.tree.leaves)}",
                cure='Token ids have no derivative: use moves=solset.embedding_of("input_ids"), or floats.',
            )


def _own_entries(short: Tensor, padded: Tensor) -> Tensor:
    """Which entries of a padded tensor stand in the unpadded one; all of them if it is not a corner of it."""
    entries = torch.zeros_like(padded, dtype=torch.bool)
    first = tuple(slice(0, size) for size in short.shape)
    last = tuple(slice(padded.shape[axis] - size, None) for axis, size in enumerate(short.shape))
    for corner in (first, last):
        if torch.equal(padded[corner], short):
            entries[corner] = True
            return entries
    return ~entries
