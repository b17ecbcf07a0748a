"""The data of a training, some of whose points were changed."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from solset.changes import PointChange
from solset.errors import bad_value
from solset.linalg import Space
from solset.risk import Source, digest, flat_rows, mapped, named_tensors
from solset.storage import hash_bytes

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Data:
    """Training points with what was changed in them.

    Attributes:
        source: Reader of the points, whose inputs may be trees of tensors.
        moving: Path of the tensor in the inputs that may move; empty for inputs that are one tensor, ``None``
            where no tensor is of real numbers.
        moved: Change of the features of moved points, by index.
        factors: Factor of each point's loss, ``(n,)``; ``None`` where every factor is 1.
    """

    source: Source
    moving: str | None
    moved: Mapping[int, Tensor] = field(default_factory=dict)
    factors: Tensor | None = None

    def __len__(self) -> int:
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

    def batch(self, indices: Sequence[int]) -> tuple[Any, Any, Tensor | None]:
        """Inputs, targets and factors of a batch.

        Args:
            indices: Indices of the points, in the order of the batch.
        """
        inputs, targets = self.source.read(indices)
        if not self.moved.keys().isdisjoint(indices):
            features = self.features_in(inputs)
            assert features is not None  # noqa: S101 - a change of features was accepted
            zero = torch.zeros_like(features[0])
            moves = torch.stack([self.moved.get(i, zero) for i in indices])
            inputs = self.with_features(inputs, features + moves)
        return inputs, targets, None if self.factors is None else self.factors[list(indices)]

    def features_in(self, inputs: Any) -> Tensor | None:
        """The tensor in the inputs of a batch that may move.

        Args:
            inputs: Tensor, or tree of tensors.
        """
        return None if self.moving is None else dict(named_tensors(inputs))[self.moving]

    def with_features(self, inputs: Any, features: Tensor) -> Any:
        """The inputs of a batch with another tensor in the place of the one that may move.

        Args:
            inputs: Tensor, or tree of tensors.
            features: Tensor to put in.
        """
        return mapped(inputs, lambda value, path: features if path == self.moving else value)

    def silent_features(self) -> tuple[int, ...]:
        """Indices, in a flat input, of the features that are zero in every point."""
        is_silent: Tensor | None = None
        for start in range(0, len(self), 256):
            features = self.features_in(self.source.read(range(start, min(start + 256, len(self))))[0])
            if features is None:
                return ()
            zero = (flat_rows(features) == 0).all(dim=0)
            is_silent = zero if is_silent is None else is_silent & zero
        return () if is_silent is None else tuple(is_silent.nonzero().flatten().tolist())

    def digest(self) -> str:
        """A sum over all inputs and targets, of whatever tree. Cost: one read of the data."""
        parts = []
        for start in range(0, len(self), 256):
            inputs, targets = self.source.read(range(start, min(start + 256, len(self))))
            parts.append(digest(value for tree in (inputs, targets) for _, value in named_tensors(tree)))
        return hash_bytes("".join(parts).encode())[:32]

    def changed(self, change: PointChange, scale: float = 1.0) -> "Data":
        """The data after a change of single points.

        Args:
            change: Change of single points.
            scale: Factor of the change: 0.5 goes half the way.
        """
        moved, factors = dict(self.moved), self.factors
        if change.features is not None:
            for point, dx in zip(change.points, scale * change.features, strict=True):
                moved[point] = moved[point] + dx if point in moved else dx
        if change.factors is not None:
            factors = torch.ones(len(self), dtype=torch.float64) if factors is None else factors.clone()
            factors[change.points] += scale * change.factors.to(factors)
        return replace(self, moved=moved, factors=factors)


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


def weighted_loss(losses: Tensor, factors: Tensor) -> Tensor:
    """The loss of a batch whose points have factors: ``Σ a_i ℓ_i / Σ a_i``, or 0 where all factors are 0.

    Args:
        losses: Loss of each point, ``(b,)``.
        factors: Factor ``a_i`` of each point, ``(b,)``.
    """
    factors = factors.to(losses)
    total = factors.sum()
    return (factors * losses).sum() / (total if float(total.detach()) != 0.0 else 1.0)


def is_mean(loss: Tensor, losses: Tensor) -> bool:
    """Whether the loss of a batch is the mean of those of its points.

    Args:
        loss: Loss of the batch.
        losses: Loss of each point, ``(b,)``.
    """
    return abs(float(loss) - float(losses.mean())) <= 1e-4 * float(losses.abs().mean())


def require_mean(loss: Tensor, losses: Tensor) -> None:
    """Refuses factors of single points for a loss that is no mean of theirs; arguments of :func:`is_mean`.

    Raises:
        ValueError: If the loss has class weights, is a sum, or depends on the whole batch.
    """
    loss, losses = loss.detach(), losses.detach()
    if bool(torch.isfinite(losses).all()) and not is_mean(loss, losses):
        raise bad_value(
            "change",
            expected="one of features alone, since the loss is no mean over the points of a batch",
            got=f"factors of points, for a batch of loss {float(loss):.4g}, mean {float(losses.mean()):.4g}",
            cure="Use a loss that is the mean of each point's own loss, without class weights.",
        )


def losses_of(loss: Loss) -> Loss:
    """A function of outputs and targets that returns the loss of each point of a batch, ``(b,)``.

    Args:
        loss: Function ``(outputs, targets) -> scalar``, a mean over the points of a batch; a loss with the
            option ``reduction`` is asked for all points at once, others point by point.
    """
    unreduced = _unreduced(loss)
    if unreduced is None:
        return lambda outputs, targets: _one_by_one(loss, outputs, targets)

    def losses(outputs: Any, targets: Any) -> Tensor:
        values = unreduced(outputs, targets)
        return flat_rows(values).mean(dim=1) if values.ndim > 1 else values

    return losses


def _one_by_one(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    count = len(named_tensors(outputs)[0][1])

    def of_point(tree: Any, i: int) -> Any:
        return mapped(tree, lambda value, _: value[i : i + 1] if isinstance(value, Tensor) else value)

    return torch.stack([loss(of_point(outputs, i), of_point(targets, i)) for i in range(count)]).reshape(-1)


def _unreduced(loss: Loss) -> Loss | None:
    if isinstance(loss, nn.Module):
        if getattr(loss, "reduction", None) != "mean":
            return None
        twin = copy.copy(loss)  # shares its tensors with the user's loss, which stays as it is
        twin.reduction = "none"  # type: ignore[assignment]
        return twin
    try:
        takes_reduction = "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):
        return None
    return cast("Loss", partial(cast("Any", loss), reduction="none")) if takes_reduction else None
