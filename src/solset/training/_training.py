"""A training as a map: from its data to where it ends."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from solset.changes import Change
from solset.checks import checked, points_of, require
from solset.errors import SolsetWarning, bad_value
from solset.results import copy_of
from solset.risk import Pick, digest, refuse_module, source_of, style_of
from solset.risk import settings_of as plain_settings
from solset.storage import Checkpoint, Identity, Probe
from solset.training._batches import Batches, Place
from solset.training._call import Call
from solset.training._changed import changed
from solset.training._continued import Continued
from solset.training._data import Data, moving_in, quiet
from solset.training._divergence import explosion, require_finite
from solset.training._ensemble import Ensemble, checked_seeds
from solset.training._fresh import MakeModel, fresh_model, in_training, require_same
from solset.training._instead import OF_TRAINING
from solset.training._losses import Loss
from solset.training._optimizers import MakeOptimizer, OptimizerStep, made
from solset.training._recipe import MakeSchedule, Recipe, scheduled
from solset.training._recording import take_steps
from solset.training._results import Rerun, retraining
from solset.training._run import Run
from solset.training._run_file import RunFile
from solset.training._setting import Loop, Setting
from solset.training._state import capture, own_randomness, settings_of, trained
from solset.training._tape import Tape, fitting_stride


@checked
class Training:
    """A recipe of training with its data; where it ends is a function of the data (method of the run).

    With one seed, everything random is fixed: initial weights, order of batches, augmentation and dropout.
    So the recipe is a function ``T(θ) = w_T`` of the data ``θ``, and :meth:`run` gives its value and its
    derivative.

    Args:
        make_model: Function that makes the model, of no argument or of the seed; or a module with its initial
            weights, which is copied. All its parameters that require grad are trained.
        loss: Function ``(outputs, targets) -> scalar``, a mean or a sum over the points of a batch, with
            class weights or without.
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
        optimizer_state: State from which the optimizer starts, as ``optimizer.state_dict()`` gave it. With
            the model of the same checkpoint as ``make_model``, this is further training. By default the
            optimizer starts anew. Learning rates stay those of ``optimizer``, and what the data did before
            counts as fixed.
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

    asked_by = OF_TRAINING

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
        optimizer_state: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if optimizer_state is not None:
            optimizer = Continued(optimizer, copy.deepcopy(dict(optimizer_state)))
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
        self._setting = self._opened(make_model, x, y, moves, outputs)
        self._look_twice()

    def _opened(self, make_model: MakeModel, x: Any, y: Any, moves: str | None, outputs: Pick) -> Setting:
        """What every step shares; refuses an optimizer without a derivative, and batches that do not fit."""
        recipe, self.make_model = self.recipe, make_model
        if isinstance(make_model, nn.Module):
            refuse_module("make_model", make_model)  # a copy has lost hooks
            self.make_model = copy_of(make_model)  # the user may train it on
        with own_randomness(torch.device("cpu")):
            model = in_training(fresh_model(self.make_model, recipe.seed))
        parameters = list(trained(model).values())
        OptimizerStep(made(recipe.optimizer, parameters), parameters)  # refuses what has no derivative
        self.device = parameters[0].device
        source = quiet(source_of(x, y, parameters[0].detach()))
        first, _ = source.read([0])
        data = Data(source, moving_in(first, moves), entry=recipe.entry(source.count))
        call, pair = Call(style_of(model, first), outputs), partial(_pair, model, recipe.optimizer)
        if not recipe.step_count(data.drawn):
            expected = f"at most the {len(data)} points where a last batch is left out"
            cure = "Lower it, or pass drop_last=False."
            raise bad_value("batch_size", expected=expected, got=recipe.batch_size, cure=cure)
        return Setting(recipe.loss, call, data, recipe.clip_norm, recipe.augment, pair)

    @checked
    def run(
        self,
        *,
        memory_budget: int = 2**30,
        folder: Path | str | None = None,
        checkpoint: Path | str | None = None,
        progress: bool | None = None,
    ) -> Run:
        """Trains once and keeps what its derivative needs.

        Args:
            memory_budget: Bytes that kept states may take; with fewer, states are kept at every ``k``-th
                step, and those between are computed again when they are needed.
            folder: Folder for kept states, which is made; by default they stay in memory.
            checkpoint: File in an existing folder to which the run is written from time to time and at its
                end. An interrupted run of the same recipe goes on from it to the same numbers.
            progress: Whether to show a progress bar; by default only on a terminal.

        Raises:
            ValueError: If the loss is not finite at a step, the states do not fit the budget, or the
                checkpoint is of another recipe.

        Cost: one training; the states of all its steps if they fit.
        """
        folder = None if folder is None else Path(folder)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        file = RunFile(self._checkpoint(checkpoint, memory_budget, folder))
        with own_randomness(self.device):
            loop, schedule = self._begin(self._setting)
            steps = self.recipe.step_count(self._setting.data.drawn)
            tape = Tape(fitting_stride(steps, loop.model, memory_budget, folder), folder)
            start = capture(loop.model, loop.optimizer)
            place = file.resume(tape, loop.model, loop.optimizer)
            take_steps(loop, self._batches(schedule, progress, place), tape, file)
            end = capture(loop.model, loop.optimizer)
        require_finite(end, start, steps - 1)
        if text := explosion(tape.losses):
            warnings.warn(text, SolsetWarning, stacklevel=3)
        return Run(self._setting, tape, loop.model, end, start.parameters, self._trained, training=self)

    @checked
    def retrain(self, change: Change, *, scale: float = 1.0, progress: bool | None = None) -> Rerun:
        """The truth: the same recipe, with the same seed, run on changed data, as by :meth:`Run.retrain`.

        Args:
            change: Change of the training data.
            scale: Part of the change that is made.
            progress: Whether to show a progress bar; by default only on a terminal.

        Cost: two trainings, one of them on the data before the change.
        """
        after = changed(self._setting, change, scale)
        before, _ = self._trained(self._setting, progress)
        return retraining(*self._trained(after, progress), _flat(before))

    @checked
    def ensemble(
        self, seeds: Sequence[int], *, memory_budget: int = 2**30, progress: bool | None = None
    ) -> Ensemble:
        """The same recipe run once from each of several seeds: what chance does, beside what the data do.

        Args:
            seeds: Different seeds, at least two; the seed of this training need not be among them.
            memory_budget: Bytes that the kept states of all runs together may take.
            progress: Whether to show a progress bar; by default only on a terminal.

        Raises:
            ValueError: If a seed stands twice, or there are fewer than two.

        Cost: one training and four steps for each seed.
        """
        numbers = checked_seeds(seeds)
        share = memory_budget // len(numbers)
        runs = [self.with_seed(seed).run(memory_budget=share, progress=progress) for seed in numbers]
        return Ensemble(tuple(runs), numbers)

    @checked
    def with_seed(self, seed: int) -> "Training":
        """The same training from another seed.

        Args:
            seed: Seed of initial weights, order of batches, augmentation and dropout.

        Cost: two steps, twice.
        """
        return self.varied(replace(self.recipe, seed=seed))

    def varied(self, recipe: Recipe, make_model: MakeModel | None = None) -> "Training":
        """The same training by another recipe, as :meth:`Run.advise` tries them. Cost: two steps, twice.

        Args:
            recipe: Recipe with other numbers, the same loss, clipping and augmentation.
            make_model: Function that makes another model; by default the same.
        """
        other = copy.copy(self)
        other.recipe, other.make_model = recipe, self.make_model if make_model is None else make_model
        with own_randomness(self.device):
            model = fresh_model(other.make_model, recipe.seed).train()
        data = replace(self._setting.data, entry=recipe.entry(self._setting.data.drawn))
        pair = partial(_pair, model, recipe.optimizer)
        other._setting = replace(self._setting, data=data, pair=pair)
        other._look_twice()
        return other

    def make_pair(self) -> tuple[nn.Module, Optimizer]:
        """A model before its first step, and its optimizer."""
        return self._setting.pair()

    @checked
    def on(self, change: Change) -> "Training":
        """The same training on changed data; a second change is made on top of the first.

        Args:
            change: Change of the training data.

        Cost: two steps, twice.
        """
        other = copy.copy(self)
        other._setting = changed(self._setting, change)
        other._look_twice()
        return other

    @checked
    def train(self, *, progress: bool | None = None) -> nn.Module:
        """The trained module, in evaluation mode, without the record that a derivative needs.

        Args:
            progress: Whether to show a progress bar; by default only on a terminal.

        Cost: one training.
        """
        return self._trained(self._setting, progress)[0].eval()

    def __repr__(self) -> str:
        data, recipe = self._setting.data, self.recipe
        model, optimizer = self.make_pair()
        size = "all points" if recipe.batch_size is None else f"batches of {recipe.batch_size}"
        return (
            f"Training({type(model).__name__}, n={len(data)}, {type(optimizer).__name__}, "
            f"{recipe.step_count(len(data))} steps of {size}, seed {recipe.seed})"
        )

    def fingerprint(self) -> str:
        """A digest of the data and of the weights before and after two steps. Cost: one read of the data."""
        return f"{self._setting.data.digest()} {digest(self._starts)}"

    @property
    def point_count(self) -> int:
        """``n``, the number of training points."""
        return len(self._setting.data)

    def features(self, points: Sequence[int]) -> Tensor:
        """The features of some training points, ``(|K|, *input)``; refused where nothing in them can move.

        Args:
            points: Indices of the points.
        """
        return self._setting.data.features(points_of(points, self.point_count))

    def targets(self, points: Sequence[int]) -> Tensor:
        """The targets of some training points, ``(|K|, ...)``; argument as for :meth:`features`."""
        targets = self._setting.data.read(points_of(points, self.point_count))[1]
        require("targets", targets, Tensor, cure="Targets that are a tree have no single tensor.")
        return targets

    def _trained(self, setting: Setting, progress: bool | None = False) -> tuple[nn.Module, list[float]]:
        require_same(self._starts, self._two_steps())  # what a loss counts would go on
        with own_randomness(self.device):
            loop, schedule = self._begin(setting)
            batches = enumerate(self._batches(schedule, progress))
            losses = [loop.finite_step(batch, step) for step, batch in batches]
        return loop.model, losses

    def _begin(self, setting: Setting) -> tuple[Loop, LRScheduler | None]:
        """A model before its first step, and the scheduler of its optimizer."""
        model = fresh_model(self.make_model, self.recipe.seed).train()
        optimizer = made(self.recipe.optimizer, list(trained(model).values()))
        schedule = None if self.recipe.schedule is None else scheduled(self.recipe.schedule, optimizer)
        return Loop(setting, model, optimizer), schedule

    def _batches(
        self, schedule: LRScheduler | None, progress: bool | None = False, place: Place | None = None
    ) -> Batches:
        count = self._setting.data.drawn
        return Batches(self.recipe, count, self.device, schedule, progress=progress, place=place)

    def _checkpoint(self, path: Path | str | None, memory_budget: int, folder: Path | None) -> Checkpoint:
        """The checkpoint of a run, which knows the recipe, the data and the weights after two steps."""

        def identify() -> Identity:
            with own_randomness(self.device):
                loop, schedule = self._begin(self._setting)
                self._batches(schedule).schedule_to_end()
            return Identity(
                {
                    "recipe": plain_settings(self.recipe),
                    "rates at the end": plain_settings(settings_of(loop.optimizer)),
                    "model": digest([self._starts[0]]),
                    "data": self._setting.data.digest(),
                    "changes of the optimizer": plain_settings(self._setting.adjustment),
                    "memory_budget": memory_budget,
                    "folder": None if folder is None else str(folder),
                }
            )

        probe = Probe("the weights after two steps", self._starts[1], rtol=1e-4)
        return Checkpoint.at(path, "training run", identify, probe)

    def _look_twice(self) -> None:
        """Keeps the weights before the first step and after the second, twice; refuses losses of pairs."""
        with own_randomness(self.device):
            loop, schedule = self._begin(self._setting)
            loop.refuse_pairs(next(iter(self._batches(schedule))))
        self._starts = self._two_steps()
        require_same(self._starts, self._two_steps())

    def _two_steps(self) -> tuple[Tensor, Tensor]:
        """The weights before the first step and after the second."""
        with own_randomness(self.device):
            loop, schedule = self._begin(self._setting)
            start = _flat(loop.model)
            for step, batch in enumerate(islice(self._batches(schedule), 2)):
                loop.step(batch, step)
            return start, _flat(loop.model)


def _pair(model: nn.Module, optimizer: MakeOptimizer) -> tuple[nn.Module, Optimizer]:
    """A copy of a model, and an optimizer of it."""
    twin = copy_of(model)
    return twin, optimizer(list(trained(twin).values()))


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().reshape(-1) for value in trained(model).values()])
