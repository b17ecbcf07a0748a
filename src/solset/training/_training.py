"""A training as a map: from its data to where it ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from solset.changes import Change, require_change
from solset.errors import bad_value
from solset.risk import Pick, source_of, style_of
from solset.training._call import Call
from solset.training._data import Data, Loss, moving_in
from solset.training._loop import Loop, MakeModel, fresh_model
from solset.training._optimizers import MakeOptimizer, OptimizerStep, made
from solset.training._recipe import MakeSchedule, Recipe
from solset.training._results import Retraining
from solset.training._run import Run
from solset.training._state import capture, own_randomness, randomness, settings_of, trained
from solset.training._step import Record
from solset.training._tape import Tape, stride_for


class Training:
    """A recipe of training with its data; where it ends is a function of the data (method of the run).

    With one seed, everything random is fixed: initial weights, order of batches, augmentation and dropout.
    So the recipe is a function ``T(θ) = w_T`` of the data ``θ``, and :meth:`run` gives its value and its
    derivative.

    Args:
        make_model: Function that makes the model, of no argument or of the seed; or a module with its initial
            weights, which is copied. All its parameters that require grad are trained.
        loss: Function ``(outputs, targets) -> scalar``, a mean over the points of a batch.
        x: Inputs ``(n, ...)``: a tensor, an array, or a tree of them (a dict is passed to the model by
            name, a tuple spread); or a map-style dataset of pairs or dicts.
        y: Targets ``(n, ...)`` beside inputs in memory; for a dataset the key of its dicts, or ``None``.
        optimizer: Function of the list of trained parameters that returns an optimizer of ``torch.optim``,
            such as ``partial(torch.optim.AdamW, lr=1e-3)``.
        epochs: Number of passes over the data.
        steps: Number of steps after which training ends; all of the epochs by default.
        batch_size: Number of points in a batch; ``None`` takes all points in each step.
        shuffle: Whether each epoch takes the points in a new order, as ``DataLoader`` draws it.
        drop_last: Whether a last batch that is not full is left out.
        schedule: Function of the optimizer that returns a scheduler of its learning rate; none by default.
        schedule_each: Moment at which the scheduler steps: ``"epoch"`` or ``"step"``.
        clip_norm: Norm to which the gradient of a batch is clipped; not clipped by default.
        augment: Function of a batch of inputs that returns changed inputs of the same points. It is
            differentiated like the model, and what it draws has to come from PyTorch's generators.
        moves: Path of the tensor in the inputs that may move; by default the only one of real numbers.
        outputs: Attribute, key, index or function that picks the outputs for the loss, such as ``"logits"``.
        seed: Seed of initial weights, order of batches, augmentation and dropout.

    Raises:
        TypeError: If a part is of another type.
        ValueError: If two models from the same seed differ, or two runs of the first steps.

    Example:
        >>> from functools import partial
        >>> x, y = torch.linspace(-1, 1, 8)[:, None], torch.linspace(0, 1, 8)[:, None]
        >>> sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
        >>> recipe = {"optimizer": sgd, "epochs": 20, "batch_size": 4}
        >>> training = Training(lambda: nn.Linear(1, 1), nn.MSELoss(), x, y, **recipe)
        >>> run = training.run()
        >>> len(run.losses)
        40
    """

    def __init__(
        self,
        make_model: MakeModel,
        loss: Loss,
        x: Any,
        y: Any = None,
        *,
        optimizer: MakeOptimizer,
        epochs: int = 1,
        steps: int | None = None,
        batch_size: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        schedule: MakeSchedule | None = None,
        schedule_each: str = "epoch",
        clip_norm: float | None = None,
        augment: Callable[[Any], Any] | None = None,
        moves: str | None = None,
        outputs: Pick = None,
        seed: int = 0,
    ) -> None:
        self.recipe = Recipe(
            loss=loss,
            optimizer=optimizer,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            schedule=schedule,
            schedule_each=schedule_each,
            clip_norm=clip_norm,
            augment=augment,
            seed=seed,
        )
        self.make_model = make_model
        with own_randomness(torch.device("cpu")):
            model = fresh_model(make_model, seed)
        parameters = list(trained(model).values())
        OptimizerStep(made(optimizer(parameters)), parameters)  # refuses what has no derivative
        self.device = parameters[0].device
        source = source_of(x, y, parameters[0].detach())
        first, _ = source.read([0])
        self.data = Data(source, moving_in(first, moves))
        self.call = Call(style_of(model, first), outputs)
        self._refuse_unrepeatable()

    def run(
        self, *, memory_budget: int = 2**30, folder: Path | None = None, progress: bool | None = None
    ) -> Run:
        """Trains once and keeps what its derivative needs.

        Args:
            memory_budget: Bytes that kept states may take; with fewer, states are kept at every ``k``-th
                step, and those between are computed again when they are needed.
            folder: Folder for kept states, which is made; by default they stay in memory.
            progress: Whether to show a progress bar; by default only on a terminal.

        Raises:
            ValueError: If the loss is not finite at a step, or the states do not fit the budget.

        Cost: one training; the states of all its steps if they fit.
        """
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with own_randomness(self.device):
            loop = self._loop(self.data)
            size = 4 * capture(loop.model, loop.optimizer).size  # with two slots and room for one more
            steps = self.recipe.step_count(len(self.data))
            stride, does_fit = stride_for(steps, size, memory_budget)
            if not does_fit and folder is None:
                needed = (-(-steps // stride) + stride) * size
                raise bad_value(
                    "memory_budget",
                    expected=f"about {needed:,} bytes for the states of {steps} steps",
                    got=f"{memory_budget:,}",
                    cure="Raise it, or name a folder for the states.",
                )
            tape = Tape(stride, folder)
            initial = {name: value.detach().clone() for name, value in trained(loop.model).items()}
            for batch in self._shown(loop, steps, progress):
                step = len(tape.records)
                tape.keep(step, lambda: capture(loop.model, loop.optimizer))
                before = randomness(self.device), settings_of(loop.optimizer)
                value = loop.step(batch)
                _require_finite(value, step)
                tape.records.append(Record(batch, before[1], before[0], value))
            return Run(self, loop.model, capture(loop.model, loop.optimizer), tape, initial)

    def retrain(
        self, change: Change, *, scale: float = 1.0, progress: bool | None = None, start: Tensor | None = None
    ) -> Retraining:
        """The truth: the same recipe, with the same seed, really run on changed data.

        A removed point keeps its place in its batches with factor 0, and the mean of the batch is over the
        others; the order of all points stays. Layers that see the whole batch, such as BatchNorm, still see
        it.

        Args:
            change: Change of the training data.
            scale: Part of the change that is made.
            progress: Whether to show a progress bar; by default only on a terminal.
            start: Weights at the end on the data before the change, ``(p,)``; found by another training if
                they are not given. :meth:`Run.retrain` knows them.

        Cost: one training, or two.
        """
        require_change(change)
        changed = self.data.changed(change.of_points(len(self.data), lambda: self.data.space), scale)
        before = _flat(self._trained(self.data, progress)[0]) if start is None else start
        model, losses = self._trained(changed, progress)
        shapes = {name: value.shape for name, value in trained(model).items()}
        return Retraining(_flat(model), _flat(model) - before, model.eval(), tuple(losses), shapes)

    def _trained(self, data: Data, progress: bool | None = False) -> tuple[nn.Module, list[float]]:
        with own_randomness(self.device):
            loop = self._loop(data)
            losses = []
            for batch in self._shown(loop, self.recipe.step_count(len(data)), progress):
                losses.append(loop.step(batch))
                _require_finite(losses[-1], len(losses) - 1)
            return loop.model, losses

    def _loop(self, data: Data) -> Loop:
        return Loop(self.recipe, self.call, fresh_model(self.make_model, self.recipe.seed), data)

    def _shown(self, loop: Loop, steps: int, progress: bool | None) -> Any:
        hidden = None if progress is None else not progress
        return tqdm(loop.batches(), desc="training", total=steps, disable=hidden, leave=False)

    def _refuse_unrepeatable(self) -> None:
        """Takes the first two steps twice, from two models made from the same seed."""
        ends = []
        for _ in range(2):
            with own_randomness(self.device):
                loop = self._loop(self.data)
                start = _flat(loop.model)
                for step, batch in enumerate(loop.batches()):
                    loop.step(batch)
                    if step == 1:
                        break
                ends.append((start, _flat(loop.model)))
        for name, place in (("make_model", 0), ("recipe", 1)):
            first, second = ends[0][place], ends[1][place]
            if first.shape != second.shape or not torch.equal(first.nan_to_num(), second.nan_to_num()):
                raise bad_value(
                    name,
                    expected="the same numbers whenever the seed is the same",
                    got="another model from the same seed" if place == 0 else "other weights after two steps",
                    cure="Draw only from PyTorch's generators, and use deterministic kernels.",
                )


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().reshape(-1) for value in trained(model).values()])


def _require_finite(loss: float, step: int) -> None:
    if loss != loss or abs(loss) == float("inf"):
        raise bad_value(
            "loss",
            expected="finite at every step",
            got=f"{loss} at step {step}",
            cure="Lower the learning rate, or clip the gradient with clip_norm.",
        )
