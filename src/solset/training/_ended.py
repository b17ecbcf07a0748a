"""What a training ended with: its weights, its losses, and what its model says."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from solset.checks import points_of
from solset.errors import bad_type
from solset.goals import Goals
from solset.results import TableResult, computed, copy_of
from solset.risk import as_tensors
from solset.training._divergence import explosion
from solset.training._goals import slopes_at_end
from solset.training._losses import losses_of
from solset.training._setting import Setting
from solset.training._state import State, at_weights_of
from solset.training._statistics import Statistics
from solset.training._tape import Tape


class Ended(TableResult):
    """A training that was run once.

    Attributes:
        model: Trained module, in evaluation mode.
    """

    def __init__(self, setting: Setting, tape: Tape, model: nn.Module, end: State) -> None:
        self._setting, self._tape, self._end = setting, tape, end
        self.model = model.eval()

    @property
    def weights(self) -> Tensor:
        """Weights at the end, flat ``(p,)``, in ``named_parameters`` order."""
        return torch.cat([value.reshape(-1) for value in self._end.parameters.values()])

    @property
    def losses(self) -> list[float]:
        """Loss of each step's batch."""
        return self._tape.losses

    @property
    def batches(self) -> list[list[int]]:
        """Indices of the points of each step's batch."""
        data = self._setting.data
        return [data.of_step(record.batch, record.step) for record in self._tape.records]

    @property
    def stride(self) -> int:
        """Number of steps from one kept state to the next; those between are computed again when needed."""
        return self._tape.stride

    @property
    def point_count(self) -> int:
        """``n``, the number of training points."""
        return len(self._setting.data)

    def value(self, goal: Goals, model: nn.Module | None = None) -> float | Tensor:
        """The value of a goal at the end of the run; errors as for :meth:`attribute`.

        Args:
            goal: Goal with one value, or several values as a block.
            model: Module of a rerun, such as ``run.retrain(change).model``; by default that of the run.

        Cost: one backward pass for each value.
        """
        model, end = self._evaluated(model), self._end if model is None else at_weights_of(model, self._end)
        names = Statistics(self._setting.pair()[0]).names
        measured = slopes_at_end(goal, self._setting, model, end, names)
        return measured.values if measured.is_block else float(measured.values)

    def point_losses(self, model: nn.Module | None = None, points: Sequence[int] | None = None) -> Tensor:
        """Loss of each training point at the end, in evaluation mode and without augmentation, ``(|K|,)``.

        Args:
            model: Module of a rerun, or ``estimate.apply_to(run.model)``; by default that of the run.
            points: Indices of the points; all of them by default.

        Cost: one forward pass over the points.
        """
        chosen, model = points_of(points, self.point_count), self._evaluated(model)
        order = sorted(chosen)
        with torch.no_grad():
            parts = [self._losses_at(model, order[i : i + 256]) for i in range(0, len(order), 256)]
        return torch.cat(parts)[_places(chosen)]

    def input_gradients(self, points: Sequence[int]) -> Tensor:
        """Gradient of each point's loss in its own features at the end, ``(|K|, *input)``.

        Args:
            points: Indices of the points.

        Cost: one backward pass over the points.
        """
        chosen = points_of(points, self.point_count)
        order = sorted(chosen)
        leaf = self._setting.data.features(order).detach().clone().requires_grad_()
        with torch.enable_grad():
            total = self._losses_at(self.model, order, leaf).sum()
            (slope,) = torch.autograd.grad(total, leaf, allow_unused=True, materialize_grads=True)
        return slope[_places(chosen)]

    def _evaluated(self, model: nn.Module | None) -> nn.Module:
        """The module of the run by default; a copy of one in training mode, whose statistics would move."""
        model = self.model if model is None else model
        return copy_of(model).eval() if any(part.training for part in model.modules()) else model

    def _losses_at(self, model: nn.Module, points: Sequence[int], features: Tensor | None = None) -> Tensor:
        losses, data = losses_of(self._setting.loss), self._setting.data
        batch = data.batch(points).at(data, features, None, None, None)
        return torch.cat(
            [losses(self._setting.call(model, part.inputs), part.targets) for part in batch.parts]
        )

    def outputs(self, model: nn.Module, inputs: Any = None) -> Tensor:
        """Outputs of a module of this run as its loss takes them, in evaluation mode, ``(k, ...)``.

        Args:
            model: Module with the parameter names of the run, such as ``run.model``.
            inputs: Inputs in a form that training takes; by default those of the training points.
        """
        data = self._setting.data
        parts = [part.inputs for part in data.batch(range(len(data))).parts]
        if inputs is not None:
            parts = [as_tensors("inputs", inputs, self.weights)]
        with torch.no_grad():
            evaluated = self._evaluated(model)
            outputs = [self._setting.call(evaluated, part) for part in parts]
        if not all(isinstance(each, Tensor) for each in outputs):
            cure = "Pass a function of a module and the inputs that returns one."
            raise bad_type("outputs", expected="a tensor", got=type(outputs[0]).__name__, cure=cure)
        return torch.cat(outputs)

    message = computed(lambda run: explosion(run.losses))

    @property
    def headline(self) -> str:
        """Number of steps, and the loss of the first and of the last batch."""
        losses = self.losses
        ends = " to ".join(dict.fromkeys([f"{losses[0]:.3g}", f"{losses[-1]:.3g}"]))
        return f"{len(losses)} steps, loss of a batch {ends}"

    def rows(self) -> list[dict[str, Any]]:
        """One row for each step: its loss, the number of its points, and the first learning rate."""
        return [
            {
                "step": i,
                "loss": one.loss,
                "points": len(points),
                "learning_rate": float(one.settings[0]["lr"]),
            }
            for i, (one, points) in enumerate(zip(self._tape.records, self.batches, strict=True))
        ]

    def _field_names(self) -> list[str]:
        return ["weights", "losses", "batches", "point_count"]


def _places(points: Sequence[int]) -> list[int]:
    """The place of each point among all of them in order."""
    places = {point: place for place, point in enumerate(sorted(points))}
    return [places[point] for point in points]
