"""The data of a training, some of whose points were changed."""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from solset.changes import PointChange
from solset.risk import Points, flat_rows, pointwise

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Data:
    """Training points with what was changed in them.

    Attributes:
        points: Points with their features, some of which may have been moved.
        factors: Factor of each point's loss, ``(n,)``; ``None`` where every factor is 1.
    """

    points: Points
    factors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)

    def batch(self, indices: Sequence[int]) -> tuple[Any, Any, Tensor | None]:
        """Inputs, targets and factors of a batch.

        Args:
            indices: Indices of the points, in the order of the batch.
        """
        inputs, targets = self.points[indices]
        return inputs, targets, None if self.factors is None else self.factors[list(indices)]

    def silent_features(self) -> tuple[int, ...]:
        """Indices, in a flat input, of the features that are zero in every point."""
        is_silent: Tensor | None = None
        for start in range(0, len(self), 256):
            inputs, _ = self.points[range(start, min(start + 256, len(self)))]
            if not inputs.is_floating_point():
                return ()
            zero = (flat_rows(inputs) == 0).all(dim=0)
            is_silent = zero if is_silent is None else is_silent & zero
        return () if is_silent is None else tuple(is_silent.nonzero().flatten().tolist())

    def changed(self, change: PointChange, scale: float = 1.0) -> "Data":
        """The data after a change of single points.

        Args:
            change: Change of single points.
            scale: Factor of the change: 0.5 goes half the way.
        """
        points, factors = self.points, self.factors
        if change.features is not None:
            points = points.move(change.points, scale * change.features)
        if change.factors is not None:
            factors = torch.ones(len(self), dtype=torch.float64) if factors is None else factors.clone()
            factors[change.points] += scale * change.factors.to(factors)
        return Data(points, factors)


def weighted_loss(losses: Tensor, factors: Tensor) -> Tensor:
    """The loss of a batch whose points have factors: ``Σ a_i ℓ_i / Σ a_i``, or 0 where all factors are 0.

    Args:
        losses: Loss of each point, ``(b,)``.
        factors: Factor ``a_i`` of each point, ``(b,)``.
    """
    factors = factors.to(losses)
    total = factors.sum()
    return (factors * losses).sum() / (total if float(total.detach()) != 0.0 else 1.0)


def losses_of(loss: Loss) -> Loss:
    """A function of outputs and targets that returns the loss of each point of a batch, ``(b,)``.

    Args:
        loss: Function ``(outputs, targets) -> scalar``, a mean over the points of a batch; a loss with the
            option ``reduction`` is asked for all points at once, others point by point.
    """
    unreduced = _unreduced(loss)
    if unreduced is None:
        return lambda outputs, targets: pointwise(loss, outputs, targets)

    def losses(outputs: Any, targets: Any) -> Tensor:
        values = unreduced(outputs, targets)
        return flat_rows(values).mean(dim=1) if values.ndim > 1 else values

    return losses


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
