"""What a step of a training needs, beside the model, its state and the batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from solset.errors import bad_type, bad_value
from solset.risk import check_loss, named_tensors
from solset.training._adjustment import Adjustment
from solset.training._call import Call
from solset.training._data import Batch, Data
from solset.training._losses import Loss, LossByPoints, by_points, refuse_factors
from solset.training._state import own_randomness, trained
from solset.training._told import described, told

_LOSS = "Give classes as torch.long from 0 on, and real targets in the shape and dtype of the outputs."


@dataclass(frozen=True, eq=False)
class Setting:
    """The parts of a training that are the same in every step."""

    loss: Loss  # Function ``(outputs, targets) -> scalar``, a mean or a sum over the points
    call: Call  # Call of the model on a batch
    data: Data  # Training points, with all that was changed in them
    clip_norm: float | None  # Norm to which the gradient of a batch is clipped; ``None`` clips nothing
    # Function of a batch of inputs that returns changed inputs; ``None`` changes nothing
    augment: Callable[[Any], Any] | None
    # Function that makes a copy of the model in training mode, and an optimizer of it
    pair: Callable[[], tuple[nn.Module, Optimizer]]
    # Change of the settings of the optimizer, none by default
    adjustment: Adjustment = field(default_factory=Adjustment)

    @cached_property
    def by_points(self) -> LossByPoints | None:
        """The loss of a batch from those of its points, tried on two; ``None`` where it is none of them."""
        model, _ = self.pair()
        first = self.data.batch(range(min(2, self.data.drawn))).parts[0]
        with own_randomness(next(model.parameters()).device), torch.no_grad():
            return by_points(self.loss, self.call(model.eval(), first.inputs), first.targets)

    def outputs(self, batch: Batch, call: Callable[[Any], Any], device: torch.device) -> list[Any]:
        """The outputs of each part of a batch.

        What the points that joined draw at random is drawn beside the rest. So the others
        see the same masks of dropout, and later batches are the same, as if none had joined.
        """
        first, *others = batch.parts
        outputs = [call(first.inputs)]
        if others:
            with own_randomness(device):
                outputs += [call(part.inputs) for part in others]
        return outputs


class Loop:
    """A model in training: one step is what a user writes by hand.

    Attributes:
        model: Module that is trained, in training mode.
        optimizer: Optimizer of its parameters.
        device: Device of the model.
    """

    def __init__(self, setting: Setting, model: nn.Module, optimizer: Optimizer) -> None:
        self.model, self.optimizer, self._setting = model, optimizer, setting
        self.device = next(model.parameters()).device

    @torch.enable_grad()
    def step(self, drawn: Sequence[int], step: int) -> float:
        """Takes one step and returns the loss of the batch.

        Raises:
            TypeError: If a part of the recipe does not take the batch; names the part and the points.
        """
        setting = self._setting
        points = setting.data.of_step(drawn, step)
        batch = setting.data.in_step.batch(points)
        self.optimizer.zero_grad()
        outputs = self._outputs(batch, points)
        targets = batch.parts[0].targets
        takes = f"a function of outputs {described(outputs[0])} and targets {described(targets)}"
        with told("loss", takes, _LOSS, points):
            loss = setting.loss(outputs[0], targets)
            if batch.factors is not None or batch.shares is not None:
                rule = setting.by_points
                if rule is None or not rule.is_loss(loss.detach(), outputs[0], targets):
                    raise refuse_factors(f"factors or labels, for a batch of loss {float(loss.detach()):.4g}")
                loss = rule.of_batch(batch, outputs)
        if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
            raise bad_type(
                "loss",
                expected="a function that returns a scalar which depends on the trained parameters",
                got=f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__,
                cure="Use a mean over the points of a batch.",
            )
        with told("loss", takes + " that has a gradient", _LOSS, points):
            loss.backward()
        if setting.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained(self.model).values(), setting.clip_norm)
        stepping = told("optimizer", "one that takes a step", "Look at its settings.")
        with stepping, setting.adjustment.on(self.optimizer):
            self.optimizer.step()
        return float(loss.detach())

    def _outputs(self, batch: Batch, points: Sequence[int]) -> list[Any]:
        return self._setting.outputs(batch, lambda inputs: self._output(inputs, points), self.device)

    def _output(self, inputs: Any, points: Sequence[int]) -> Any:
        if self._setting.augment is not None:
            takes = f"a function of inputs {described(inputs)} that returns inputs of the same points"
            with told("augment", takes, "Call it on a batch by itself.", points):
                inputs = self._setting.augment(inputs)
        takes = f"one that takes inputs {described(inputs)} in training"
        with told("model", takes, self._cure(inputs), points):
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

        Raises:
            ValueError: If it does so; the message says how to shape the targets.

        Cost: one forward pass of the batch.
        """
        first = self._setting.data.batch(batch)
        (outputs, *_), targets = self._outputs(first, batch), first.parts[0].targets
        if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
            with torch.no_grad(), told("loss", "a function of outputs and targets", _LOSS, batch):
                check_loss(self._setting.loss, outputs, targets)

    def finite_step(self, drawn: Sequence[int], step: int) -> float:
        """Takes one step and returns the loss of the batch, which has to be finite.

        Raises:
            ValueError: If the loss is not finite.
        """
        loss = self.step(drawn, step)
        if not math.isfinite(loss):
            raise bad_value(
                "loss",
                expected="finite at every step",
                got=f"{loss} at step {step}",
                cure="Lower the learning rate, or clip the gradient with clip_norm.",
            )
        return loss
