"""The recipe of a training: everything but the model and the data."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from solset.checks import checked, one_of, positive
from solset.errors import bad_type
from solset.training._entry import Entry
from solset.training._losses import Loss
from solset.training._optimizers import MakeOptimizer, refuse_step_hooks
from solset.training._told import told

MakeSchedule = Callable[[Optimizer], LRScheduler]


@checked
@dataclass(frozen=True, eq=False)
class Recipe:
    """How a model is trained; the arguments of :class:`Training` by the same names."""

    loss: Loss
    optimizer: MakeOptimizer
    epochs: int
    steps: int | None
    batch_size: int | None
    shuffle: bool
    drop_last: bool
    schedule: MakeSchedule | None
    schedule_each: str
    clip_norm: float | None
    augment: Callable[[Any], Any] | None
    seed: int

    def __post_init__(self) -> None:
        one_of("schedule_each", self.schedule_each, ("epoch", "step"))
        for name in ("epochs", "steps", "batch_size"):
            if (value := getattr(self, name)) is not None:
                positive(name, value)
        require_norm(self.clip_norm)

    def step_count(self, count: int) -> int:
        """The number of steps for a number of points."""
        most = self.steps_of_epoch(count) * self.epochs
        return most if self.steps is None else min(self.steps, most)

    def steps_of_epoch(self, count: int) -> int:
        """The number of batches of a whole epoch."""
        size = count if self.batch_size is None else self.batch_size
        return count // size if self.drop_last else -(-count // size)

    def entry(self, count: int) -> Entry:
        """The rule by which points that join enter the batches."""
        return Entry(self.seed, max(self.steps_of_epoch(count), 1), self.shuffle)


def scheduled(make: MakeSchedule, optimizer: Optimizer) -> LRScheduler:
    """The scheduler that a factory makes, refused unless it is one.

    Raises:
        TypeError: If it raises an error, or returns something else.
    """
    expected = "a function of the optimizer that returns a scheduler of torch.optim"
    cure = "Write lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10)."
    with told("schedule", expected, cure):
        schedule = make(optimizer)
    if not isinstance(schedule, LRScheduler):
        raise bad_type("schedule", expected=expected, got=type(schedule).__name__, cure=cure)
    refuse_step_hooks(optimizer)  # the factory may have added one
    return schedule


def require_norm(clip_norm: float | None) -> None:
    """Refuses a norm to clip at that is not positive; at an infinite one nothing is clipped."""
    if clip_norm is not None and clip_norm != math.inf:
        positive("clip_norm", clip_norm)


def clipped_gradients(gradients: Sequence[Tensor], clip_norm: float | None) -> list[Tensor]:
    """The gradients after clipping by their joint norm, as ``torch.nn.utils.clip_grad_norm_`` does it.

    Args:
        gradients: Gradient for each parameter.
        clip_norm: Largest norm of all gradients together; ``None`` clips nothing.
    """
    if clip_norm is None or math.isinf(clip_norm):
        return list(gradients)
    norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
    factor = torch.clamp(clip_norm / (torch.linalg.vector_norm(norms) + 1e-6), max=1.0)
    return [gradient * factor for gradient in gradients]
