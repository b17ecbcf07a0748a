"""What a step of a training needs, beside the model, its state and the batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from solset.errors import bad_type, bad_value
from solset.risk import check_loss, named_tensors
from solset.training._call import Call
from solset.training._data import Data, Loss, losses_of, require_mean, weighted_loss
from solset.training._state import trained
from solset.training._told import described, told

_LOSS = "Give classes as torch.long from 0 on, and real targets in the shape and dtype of the outputs."


@dataclass(frozen=True, eq=False)
class Setting:
    """The parts of a training that are the same in every step.

    Attributes:
        loss: Function ``(outputs, targets) -> scalar``, a mean over the points of a batch.
        call: Call of the model on a batch.
        data: Training points before any change.
        clip_norm: Norm to which the gradient of a batch is clipped; ``None`` clips nothing.
        augment: Function of a batch of inputs that returns changed inputs; ``None`` changes nothing.
        pair: Function that makes a copy of the model in training mode, and an optimizer of it.
    """

    loss: Loss
    call: Call
    data: Data
    clip_norm: float | None
    augment: Callable[[Any], Any] | None
    pair: Callable[[], tuple[nn.Module, Optimizer]]


class Loop:
    """A model in training: one step is what a user writes by hand.

    Attributes:
        model: Module that is trained, in training mode.
        optimizer: Optimizer of its parameters.
        device: Device of the model.
    """

    def __init__(self, setting: Setting, model: nn.Module, optimizer: Optimizer, data: Data) -> None:
        self.model, self.optimizer = model, optimizer
        self.device = next(model.parameters()).device
        self._setting, self._data = setting, data
        self._losses = None if data.factors is None else losses_of(setting.loss)

    @torch.enable_grad()
    def step(self, batch: Sequence[int]) -> float:
        """Takes one step and returns the loss of the batch.

        Args:
            batch: Indices of the points.

        Raises:
            TypeError: If a part of the recipe does not take the batch; names the part and the points.
        """
        inputs, targets, factors = self._data.batch(batch)
        self.optimizer.zero_grad()
        outputs = self._outputs(inputs, batch)
        takes = f"a function of outputs {described(outputs)} and targets {described(targets)}"
        with told("loss", takes, _LOSS, batch):
            loss = self._setting.loss(outputs, targets)
            if factors is not None and self._losses is not None:
                losses = self._losses(outputs, targets)
                require_mean(loss, losses)
                loss = weighted_loss(losses, factors)
        if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
            raise bad_type(
                "loss",
                expected="a function that returns a scalar which depends on the trained parameters",
                got=f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__,
                cure="Use a mean over the points of a batch.",
            )
        with told("loss", takes + " that has a gradient", _LOSS, batch):
            loss.backward()
        if self._setting.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained(self.model).values(), self._setting.clip_norm)
        with told("optimizer", "one that takes a step", "Look at its settings."):
            self.optimizer.step()
        return float(loss.detach())

    def _outputs(self, inputs: Any, batch: Sequence[int]) -> Any:
        if self._setting.augment is not None:
            takes = f"a function of inputs {described(inputs)} that returns inputs of the same points"
            with told("augment", takes, "Call it on a batch by itself.", batch):
                inputs = self._setting.augment(inputs)
        takes = f"one that takes inputs {described(inputs)} in training"
        with told("model", takes, self._cure(inputs), batch):
            return self._setting.call(self.model, inputs)

    def _cure(self, inputs: Any) -> str:
        """What to do about a model that does not take a batch."""
        dtypes = {value.dtype for value in self.model.parameters()}
        given = {value.dtype for _, value in named_tensors(inputs) if value.is_floating_point()}
        if given - dtypes:
            return f"Give real inputs in {', '.join(map(str, dtypes))}, the dtype of the model."
        count = next((len(value) for _, value in named_tensors(inputs) if value.ndim), 0)
        if count == 1:
            return "Layers such as BatchNorm need two points: choose batch_size or drop_last accordingly."
        return "Build the model for inputs of this shape and kind, or reshape them."

    def refuse_pairs(self, batch: Sequence[int]) -> None:
        """Refuses a loss that broadcasts outputs ``(b, 1)`` against targets ``(b,)`` to every pair of points.

        Args:
            batch: Indices of the points that are looked at.

        Raises:
            ValueError: If it does so; the message says how to shape the targets.

        Cost: one forward pass of the batch.
        """
        inputs, targets, _ = self._data.batch(batch)
        outputs = self._outputs(inputs, batch)
        if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
            with torch.no_grad(), told("loss", "a function of outputs and targets", _LOSS, batch):
                check_loss(self._setting.loss, outputs, targets)

    def finite_step(self, batch: Sequence[int], step: int) -> float:
        """Takes one step and returns the loss of the batch, which has to be finite.

        Args:
            batch: Indices of the points.
            step: Number of the step, from 0, for the message.

        Raises:
            ValueError: If the loss is not finite.
        """
        loss = self.step(batch)
        if not math.isfinite(loss):
            raise bad_value(
                "loss",
                expected="finite at every step",
                got=f"{loss} at step {step}",
                cure="Lower the learning rate, or clip the gradient with clip_norm.",
            )
        return loss
