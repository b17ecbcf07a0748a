"""The loss of a batch whose points count by factors."""

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from solset.errors import bad_value
from solset.risk import flat_rows, mapped, named_tensors
from solset.training._data import Batch

Loss = Callable[[Any, Any], Tensor]


def loss_by_points(losses: Loss, batch: Batch, outputs: Sequence[Any]) -> Tensor:
    """The loss of a batch whose points have factors, or new labels on the way.

    Args:
        losses: Function that returns the loss of each point, from :func:`losses_of`.
        batch: Points of the step.
        outputs: Outputs of each part of the batch.
    """
    single = torch.cat([losses(out, part.targets) for out, part in zip(outputs, batch.parts, strict=True)])
    if batch.shares is not None:
        there = torch.cat(
            [
                losses(out, part.targets if part.labels is None else part.labels)
                for out, part in zip(outputs, batch.parts, strict=True)
            ]
        )
        single = single + batch.shares.to(single) * (there - single)
    return weighted_loss(single, torch.ones_like(single) if batch.factors is None else batch.factors)


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
            got=f"factors or labels, for a batch of loss {float(loss):.4g}, mean {float(losses.mean()):.4g}",
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
