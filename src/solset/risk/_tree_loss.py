"""A loss of trees of tensors, as a function of one tensor of outputs and one of targets."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from solset.risk._empirical import EmpiricalRisk, Loss
from solset.risk._losses import WholeBatch
from solset.risk._trees import Tree
from solset.risk._weighed import WeighedLoss


@dataclass(frozen=True)
class TreeLoss:
    """A user's loss that takes several outputs or targets, as a function of their rows."""

    loss: Callable[..., Tensor]  # The user's function of outputs and targets
    outputs: Tree | None  # Tree of the outputs; ``None`` for one tensor
    targets: Tree | None  # Tree of the targets; ``None`` for one tensor
    moves_target: bool = False  # Whether the second of the outputs stands for the target

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        given = outputs if self.outputs is None else self.outputs.unpack(outputs, outputs.dtype)
        if self.moves_target:
            return self.loss(*given)
        return self.loss(
            given, targets if self.targets is None else self.targets.unpack(targets, outputs.dtype)
        )


def own_loss(risk: EmpiricalRisk, loss: Loss | None) -> Loss:
    """Another loss of the user on the outputs and targets of a risk; the risk's own for ``None``.

    Args:
        risk: Risk that knows the trees of outputs and targets.
        loss: Function ``(outputs, targets) -> scalar`` of the user.
    """
    if loss is None:
        return risk.loss
    theirs = risk.loss.loss if isinstance(risk.loss, WeighedLoss | WholeBatch) else risk.loss
    if not isinstance(theirs, TreeLoss):
        return loss
    if risk.door.learned:  # the weights of the risk's own loss stand beside the outputs
        return replace(theirs, loss=lambda given, targets: loss(given[0], targets))
    return replace(theirs, loss=loss)
