"""Losses as functions of outputs: of all points at once, of each by itself, and of their slopes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from solset.errors import bad_value


@dataclass(frozen=True)
class WholeBatch:
    """A loss that training took of all outputs at once, and that is no sum over the points.

    Contrastive and ranking losses, Dice over the batch and partial likelihoods are such losses.
    The risk is ``L(f(x_1, w), …, f(x_n, w), y_1, …, y_n)``, with weight decay and penalty beside it. All
    outputs are held, ``n·c`` numbers, and the curvature of the loss in them is used by products. What needs
    the loss of single points, such as a removal, is refused. A training on mini-batches of such a loss has
    another risk, which depends on the batches.

    Attributes:
        loss: Function ``(outputs, targets) -> scalar`` of the outputs and targets of all points, in order.
        count: Number of points that the loss takes; a problem sets it to that of its training points.

    Example:
        >>> import torch
        >>> pairs = WholeBatch(lambda outputs, targets: (outputs[:, None] - outputs).square().mean())
        >>> pairs(torch.tensor([0.0, 2.0]), torch.zeros(2))
        tensor(2.)
    """

    loss: Callable[..., Tensor]
    count: int | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of all points.

        Args:
            outputs: Outputs of all points.
            targets: Targets of all points.

        Raises:
            ValueError: If these are not all points of the problem.
        """
        if self.count is not None and len(outputs) != self.count:
            raise bad_value(
                "loss",
                expected=f"taken of all {self.count} points at once, as solset.WholeBatch says",
                got=f"asked for the loss of {len(outputs)} of them, which it has not",
                cure="Removals, scores and losses of single points need a mean or a sum over points; moves, "
                "paths and retraining on all points do not.",
            )
        return self.loss(outputs, targets)


def of_outputs(outputs: Tensor, slopes: Tensor) -> Tensor:
    """The loss ``Σ ⟨s_i, f_i⟩`` of points whose targets are slopes.

    Args:
        outputs: Outputs of some points, ``(b, *out)``.
        slopes: Slope ``s_i`` of the loss of all points in the outputs of each, ``(b, c)``.
    """
    return (outputs.reshape(slopes.shape) * slopes).sum()


def pointwise(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each point of a batch alone, ``(b,)``."""
    parts = [loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(outputs))]
    return torch.stack(parts).reshape(-1)
