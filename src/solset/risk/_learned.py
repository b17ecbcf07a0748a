"""A loss with weights of its own that move with those of the network, such as learned task weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from solset.errors import bad_value
from solset.risk._called import PREFIX
from solset.risk._empirical import EmpiricalRisk, Loss
from solset.risk._losses import WholeBatch
from solset.risk._tree_loss import TreeLoss
from solset.risk._verified import takes_vmap
from solset.risk._weighed import WeighedLoss, weighed


@dataclass(frozen=True, eq=False)
class LearnedLoss:
    """A user's loss whose weights come beside the outputs, a row of them for each point.

    All rows are equal where the network is called. Where losses of single points are differentiated, each
    point has its own row, so that the loss stays a sum over points.
    """

    loss: nn.Module  # The user's module of outputs and targets
    shapes: Mapping[str, tuple[int, ...]]  # Shapes of its weights that move, by their names in that module
    # Values of all weights of the module; those that move are taken from here while ``is_held``
    held: Mapping[str, Tensor]
    is_held: bool = True  # Whether all weights are held, as they are while it is found out what the loss is

    def __call__(self, given: tuple[Any, Tensor], targets: Any) -> Tensor:
        """The loss of a batch.

        Args:
            given: Outputs of the batch as the user's loss takes them, and the rows of weights, ``(b, q)``.
            targets: Targets of the batch.
        """
        outputs, rows = given
        weights = dict(self.held)
        if not self.is_held:
            parts = rows.mean(dim=0).split([prod(shape) for shape in self.shapes.values()])
            named = zip(self.shapes.items(), parts, strict=True)
            weights |= {name: part.reshape(shape) for (name, shape), part in named}
        return functional_call(self.loss, weights, (outputs, targets))


def beside_outputs(risk: EmpiricalRisk, target_moves: bool | None) -> EmpiricalRisk:
    """The risk whose loss gets its own weights beside the outputs; they are held for now.

    Raises:
        ValueError: If the target moves too.
    """
    if target_moves:
        raise bad_value(
            "target_moves",
            expected="left out where weights of the loss move",
            got="True",
            cure="Hold the target, or the weights of the loss.",
        )
    names = tuple(name for name in risk.layout.shapes if name.startswith(PREFIX))
    return replace(risk, loss=held_loss(risk.loss, names), door=replace(risk.door, learned=names))


def held_loss(loss: Loss, names: Sequence[str]) -> Loss:
    """The loss as a function of outputs and rows of its weights, held for now.

    Args:
        loss: The user's loss, with weights of its own.
        names: Names of all weights that move; those of the loss begin with ``"loss."``.
    """
    if isinstance(loss, WholeBatch):
        return replace(loss, loss=held_loss(loss.loss, names))
    assert isinstance(loss, nn.Module)  # noqa: S101 - for the type checker
    held = {name: value.detach().clone() for name, value in loss.named_parameters()}
    moved = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    shapes = {name: tuple(held[name].shape) for name in moved}
    return cast("Loss", LearnedLoss(loss, shapes, held))  # of trees, which a TreeLoss unpacks


def moving(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor) -> EmpiricalRisk:
    """The risk in which the weights of the loss move too, after it was found out what the loss is."""
    loss = risk.loss
    if isinstance(loss, WholeBatch):
        return replace(risk, loss=replace(loss, loss=_moving(loss.loss)))
    plain = _moving(loss.loss if isinstance(loss, WeighedLoss) else loss)
    is_batched = takes_vmap(plain, outputs, targets)
    if isinstance(loss, WeighedLoss):
        return replace(risk, loss=replace(loss, loss=plain, scales=False, is_batched=is_batched))
    ones = torch.ones(len(targets), dtype=torch.float64, device=targets.device)
    return weighed(
        replace(risk, loss=plain), ones, targets, scales=False, is_batched=is_batched, is_normalised=True
    )


def with_held_weights(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss of outputs alone: weights of its own that move are held; any other loss as it is."""
    if isinstance(loss, TreeLoss) and isinstance(loss.loss, LearnedLoss):
        return replace(loss, loss=replace(loss.loss, is_held=True))
    return loss


def _moving(loss: Callable[..., Tensor]) -> TreeLoss:
    outer = cast("TreeLoss", loss)  # its outputs are a tree, in which the weights stand last
    return replace(outer, loss=replace(cast("LearnedLoss", outer.loss), is_held=False))
