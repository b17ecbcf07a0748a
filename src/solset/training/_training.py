"""A training as a map: from its data to where it ends."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from solset.changes import Change, require_change
from solset.errors import bad_value
from solset.risk import as_points
from solset.training._data import Data
from solset.training._loop import Loop, MakeModel, fresh_model
from solset.training._recipe import Recipe
from solset.training._results import Retraining
from solset.training._run import Run
from solset.training._state import capture, own_randomness, randomness, settings_of, trained
from solset.training._step import Record
from solset.training._tape import Tape, stride_for


class Training:
    """A recipe of training with its data; where it ends is a function of the data (method of the run).

    With one seed, everything random is fixed: initial weights, order of batches, augmentation and dropout. So the recipe
    is a function ``T(θ) = w_T`` of the data ``θ``, and :meth:`run` gives its value and its derivative.

    Args:
        make_model: Function that makes the model, of no argument or of the seed; or a module with its initial
            weights, which is copied.
        loss: Function ``(outputs, targets) -> scalar``, a mean over the points of a batch.
        x: Inputs ``(n, ...)``, or a map-style dataset of pairs.
        y: Targets ``(n, ...)`` beside inputs that are a tensor.
        recipe: Fields of :class:`Recipe`: ``optimizer``, ``epochs``, ``batch_size``, ``schedule``,
            ``clip_norm``, ``augment``, ``seed`` and others.

    Raises:
        TypeError: If a part is of another type.
        ValueError: If two models from the same seed differ, or two runs of the first steps.

    Example:
        >>> from functools import partial
        >>> x, y = torch.linspace(-1, 1, 8)[:, None], torch.linspace(0, 1, 8)[:, None]
        >>> sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
        >>> training = Training(lambda: nn.Linear(1, 1), nn.MSELoss(), x, y, optimizer=sgd, epochs=20, batch_size=4)
        >>> run = training.run()
        >>> len(run.losses)
        40
    """

    def __init__(self, make_model: MakeModel, loss: Any, x: Any, y: Any = None, **recipe: Any) -> None:
        if not isinstance(make_model, nn.Module) and not callable(make_model):
            raise bad_value("make_model", expected="a module or a function that makes one", got=make_model,
                            cure="Pass a function of the seed.")  # fmt: skip
        self.recipe = Recipe(loss=loss, **recipe)
        self.make_model = make_model
        with own_randomness(torch.device("cpu")):
            model = fresh_model(make_model, self.recipe.seed)
        self.device = next(model.parameters()).device
        self.data = Data(as_points(x, y, self.device))
        self._refuse_unrepeatable()

    def run(
        self, *, memory_budget: int = 2**30, folder: Path | None = None, progress: bool | None = None
    ) -> Run:
        """Trains once and keeps what its derivative needs.

        Args:
            memory_budget: Bytes that kept states may take; with fewer, states are kept at every ``k``-th step,
                and those between are computed again when they are needed.
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

    def retrain(self, change: Change, *, scale: float = 1.0, progress: bool | None = None) -> Retraining:
        """The truth: the same recipe, with the same seed, really run on changed data.

        A removed point keeps its place in its batches with factor 0, and the batch's mean is over the others; the order of
        all points stays.

        Args:
            change: Change of the training data.
            scale: Part of the change that is made.
            progress: Whether to show a progress bar; by default only on a terminal.

        Cost: two trainings, one of them on the data before the change.
        """
        require_change(change)
        before = self._trained(self.data, progress)[0]
        return self.retrained_from(_flat(before), change, scale=scale, progress=progress)

    def retrained_from(
        self, weights: Tensor, change: Change, *, scale: float = 1.0, progress: bool | None = None
    ) -> Retraining:
        """Same as :meth:`retrain` where the weights on the data before are known.

        Args:
            weights: Weights at the end on the data before, ``(p,)``.
            change: Change of the training data.
            scale: Part of the change that is made.
            progress: Whether to show a progress bar; by default only on a terminal.

        Cost: one training.
        """
        changed = self.data.changed(change.of_points(self.data.points), scale)
        model, losses = self._trained(changed, progress)
        end = _flat(model)
        shapes = {name: value.shape for name, value in trained(model).items()}
        return Retraining(end, end - weights, model.eval(), tuple(losses), shapes)

    def _trained(self, data: Data, progress: bool | None = False) -> tuple[nn.Module, list[float]]:
        with own_randomness(self.device):
            loop = self._loop(data)
            losses = []
            for batch in self._shown(loop, self.recipe.step_count(len(data)), progress):
                losses.append(loop.step(batch))
                _require_finite(losses[-1], len(losses) - 1)
            return loop.model, losses

    def _loop(self, data: Data) -> Loop:
        return Loop(self.recipe, fresh_model(self.make_model, self.recipe.seed), data)

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
