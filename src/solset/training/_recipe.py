"""The recipe of a training: everything but the model and the data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from solset.checks import checked, one_of, positive, within
from solset.errors import bad_value
from solset.training._data import Loss


@checked
@dataclass(frozen=True, eq=False)
class Recipe:
    """How a model is trained: loss, optimizer, batches, schedule and the seed of everything random.

    Attributes:
        loss: Function ``(outputs, targets) -> scalar``, a mean over the points of a batch.
        optimizer: Function of the list of trained parameters that returns an optimizer of ``torch.optim``,
            such as ``partial(torch.optim.AdamW, lr=1e-3)``.
        epochs: Number of passes over the data.
        steps: Number of steps after which training ends; all of the epochs by default.
        batch_size: Number of points in a batch; ``None`` takes all points in each step.
        is_shuffled: Whether each epoch takes the points in a new order.
        drops_last: Whether a last batch that is not full is left out.
        schedule: Function of the optimizer that returns a scheduler of its learning rate; none by default.
        schedule_each: Moment at which the scheduler steps: ``"epoch"`` or ``"step"``.
        clip_norm: Norm to which the gradient of a batch is clipped; not clipped by default.
        augment: Function of a batch of inputs that returns changed inputs of the same points; what it draws
            has to come from PyTorch's generators.
        seed: Seed of initial weights, order of batches, augmentation and dropout.
    """

    loss: Any
    optimizer: Any
    epochs: int = 1
    steps: int | None = None
    batch_size: int | None = None
    is_shuffled: bool = True
    drops_last: bool = False
    schedule: Any = None
    schedule_each: str = "epoch"
    clip_norm: float | None = None
    augment: Any = None
    seed: int = 0

    def __post_init__(self) -> None:
        positive("epochs", self.epochs)
        one_of("schedule_each", self.schedule_each, ("epoch", "step"))
        for name in ("steps", "batch_size", "clip_norm"):
            if (value := getattr(self, name)) is not None:
                positive(name, value)
        for name in ("loss", "optimizer", "schedule", "augment"):
            value = getattr(self, name)
            if not callable(value) and not (value is None and name in {"schedule", "augment"}):
                raise bad_value(name, expected="a function", got=type(value).__name__, cure="See Recipe.")

    def step_count(self, count: int) -> int:
        """The number of steps for a number of points.

        Args:
            count: Number of training points.
        """
        size = count if self.batch_size is None else self.batch_size
        each = count // size if self.drops_last else -(-count // size)
        return each * self.epochs if self.steps is None else min(self.steps, each * self.epochs)


def clipped_gradients(gradients: Sequence[Tensor], clip_norm: float | None) -> list[Tensor]:
    """The gradients after clipping by their joint norm, as ``torch.nn.utils.clip_grad_norm_`` does it.

    Args:
        gradients: Gradient for each parameter.
        clip_norm: Largest norm of all gradients together; ``None`` clips nothing.
    """
    if clip_norm is None:
        return list(gradients)
    norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
    factor = torch.clamp(clip_norm / (torch.linalg.vector_norm(norms) + 1e-6), max=1.0)
    return [gradient * factor for gradient in gradients]
