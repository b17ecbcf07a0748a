"""Which change of a recipe makes its training smooth, measured by real reruns."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, isnan
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from solset.changes import Change, Move, Remove
from solset.results import TableResult, computed
from solset.training._fresh import MakeModel, fresh_model
from solset.training._optimizers import MakeOptimizer, made

if TYPE_CHECKING:
    from solset.training._training import Training

RATE = 1 / 3  # factor of the learning rate that is tried
EPS = 1e-4  # ε of Adam and its kin that is tried
SHARE = 0.01  # part of its length by which each point of the default change moves
POINTS = 10  # points of the default change
ROUGH = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.ELU, nn.Hardtanh, nn.Hardswish)


@dataclass(frozen=True)
class Trial:
    """A recipe that was tried.

    Attributes:
        name: Name of what is other in it.
        error: Relative error ``‖real - predicted‖ / ‖real‖`` of the derivative at the whole change.
        holds_to: Largest part of the change from which on downwards the derivative holds; 0 if none.
        loss: Loss of the last batch.
    """

    name: str
    error: float
    holds_to: float
    loss: float


@dataclass(frozen=True, eq=False, repr=False)
class Advice(TableResult):
    """Recipes beside the one that was run, each with how well its derivative predicts real reruns.

    Attributes:
        trials: Trials, the recipe as it is first.
        steps: Number of steps of each trial.
    """

    trials: tuple[Trial, ...]
    steps: int

    @property
    def best(self) -> Trial:
        """The trial of the smallest error."""
        return min(self.trials, key=lambda trial: inf if isnan(trial.error) else trial.error)

    @property
    def headline(self) -> str:
        """The recipe that is smoothest, beside the one that was run."""
        now, best = self.trials[0], self.best
        text = f"smoothest with {best.name}: error {best.error:.2g}, where it is {now.error:.2g} as it is"
        if best is now:
            text = f"no change that was tried makes training smoother; error {now.error:.2g} as it is"
        return text if self.holds else f"{text}; the derivative holds for none of them"

    @property
    def holds(self) -> bool:
        """Whether the derivative predicts the reruns of any trial, at the whole change or a part of it."""
        return any(trial.holds_to > 0 for trial in self.trials)

    @computed
    def message(self) -> str:
        """What to do where no trial is predicted, and what was not tried; empty elsewhere."""
        if self.holds:
            return ""
        return (
            "the derivative predicts no rerun of any trial: judge by run.retrain; activations that "
            "the model calls as functions, such as F.relu and max pooling, were not exchanged"
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row for each trial: its name, its error, how far the derivative holds, and the last loss."""
        return [vars(trial).copy() for trial in self.trials]


def advised(training: "Training", change: Change | None, steps: int | None, progress: bool | None) -> Advice:
    """The trials of a recipe; arguments and cost as for :meth:`Run.advise`."""
    change = _small_move(training) if change is None else change
    trials, count = [], 0
    for name, variant in _variants(training, steps):
        run = variant.run(progress=progress)
        smooth = run.smoothness(change, scales=(1.0, 0.1), progress=progress)
        trials.append(Trial(name, smooth.errors[0], smooth.holds_to, run.losses[-1]))
        count = len(run.losses)
    return Advice(tuple(trials), count)


def _variants(training: "Training", steps: int | None) -> Iterator[tuple[str, "Training"]]:
    recipe = training.recipe if steps is None else replace(training.recipe, steps=steps)
    optimizer = training.make_pair()[1]
    yield "the recipe as it is", training.varied(recipe)
    slow = replace(recipe, optimizer=Varied(recipe.optimizer, rate=RATE))
    yield "a third of the learning rate", training.varied(slow)
    if any(group.get("eps", EPS) < EPS for group in optimizer.param_groups):
        yield f"ε = {EPS:g}", training.varied(replace(recipe, optimizer=Varied(recipe.optimizer, eps=EPS)))
    if any(isinstance(module, ROUGH) for module in training.make_pair()[0].modules()):
        yield "SiLU for activations with kinks", training.varied(recipe, Smoothed(training.make_model))


def _small_move(training: "Training") -> Change:
    """A random move of the first points by 1 % of their length; a removal where nothing can move."""
    points = list(range(min(POINTS, training.point_count)))
    try:
        features = training.features(points)
    except ValueError:
        return Remove(points[: max(1, min(len(points), training.point_count - 1))])
    draw = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
    lengths = features.flatten(1).norm(dim=1) / draw.flatten(1).norm(dim=1).clamp_min(1e-30)
    return Move(points, SHARE * lengths.reshape(-1, *(1 for _ in features.shape[1:])) * draw)


@dataclass(frozen=True, eq=False)
class Varied:
    """A factory of the same optimizers with other numbers in their groups."""

    make: MakeOptimizer  # Factory of the recipe as it is
    rate: float = 1.0  # Factor of every learning rate
    eps: float | None = None  # Smallest ``ε`` that a group may have; ``None`` leaves it

    def __call__(self, parameters: list[Any]) -> Optimizer:
        """The optimizer of these parameters."""
        optimizer = made(self.make, parameters)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * self.rate
            if self.eps is not None and "eps" in group:
                group["eps"] = max(group["eps"], self.eps)
        return optimizer


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A factory of the same models with a smooth activation in the place of those with kinks."""

    make: MakeModel  # Factory of the model as it is, or the model

    def __call__(self, seed: int) -> nn.Module:
        """The model from this seed."""
        model = fresh_model(self.make, seed)
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, ROUGH):
                    setattr(module, name, nn.SiLU())
        return model
