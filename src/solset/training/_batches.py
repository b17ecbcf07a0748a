"""The batches of a recipe in turn, from the first or from where an interrupted run was left."""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

from solset.training._recipe import Recipe
from solset.training._state import randomness, set_randomness
from solset.training._told import told

_SCHEDULE = "Take one that depends on the number of steps alone, with room for all of them."


@dataclass(frozen=True, eq=False)
class Place:
    """Where a run was left, between two steps."""

    step: int  # Number of steps that were taken
    # States of the random generators before the batches of the last epoch were drawn
    epoch_start: tuple[Tensor, ...]
    now: tuple[Tensor, ...]  # States of the random generators after the last step


class Batches:
    """The batches of a recipe; after the caller took its step with each, the scheduler takes its own.

    Args:
        recipe: Recipe with epochs and size of a batch.
        count: Number of training points.
        device: Device of the model, whose random generator is put back at a place.
        schedule: Scheduler of the learning rate that takes its steps; ``None`` for a constant rate.
        progress: Whether to show a progress bar; by default only on a terminal.
        place: Place from which to go on; by default the first batch.

    Attributes:
        epoch_start: States of the random generators before the batches of the present epoch were drawn.
        is_inside: Whether the present batch is not the first of its epoch.
    """

    def __init__(
        self,
        recipe: Recipe,
        count: int,
        device: torch.device,
        schedule: LRScheduler | None,
        *,
        progress: bool | None = False,
        place: Place | None = None,
    ) -> None:
        self._recipe, self._count, self._device, self._schedule = recipe, count, device, schedule
        self._hidden = None if progress is None else not progress
        self._place = place
        self.epoch_start, self.is_inside = randomness(device), False

    def __iter__(self) -> Iterator[list[int]]:
        total = self._recipe.step_count(self._count)
        taken = 0 if self._place is None else self._place.step
        each = self._recipe.steps_of_epoch(self._count)
        epoch, skipped = divmod(taken, each) if each else (0, 0)
        self._schedule_again(epoch, each, skipped)
        with tqdm(desc="training", total=total, initial=taken, disable=self._hidden, leave=False) as bar:
            for _ in range(epoch, self._recipe.epochs):
                for batch in self._of_epoch(skipped):
                    if taken == total:
                        return
                    self.is_inside = taken % each > 0
                    taken += 1
                    yield batch
                    self._scheduled("step")
                    bar.update()
                self._scheduled("epoch")
                skipped, self._place = 0, None

    def schedule_to_end(self) -> None:
        """Takes all steps of the scheduler, and none of the optimizer, so that the last rates can be seen."""
        self._schedule_again(self._recipe.epochs, self._recipe.steps_of_epoch(self._count), 0)

    def _of_epoch(self, skipped: int) -> Iterator[list[int]]:
        """The batches of an epoch without those that were taken before, drawn as they were drawn then."""
        place = self._place
        if place is not None:
            set_randomness(place.epoch_start if skipped else place.now, self._device)
        self.epoch_start = randomness(self._device)
        batches = batches_of_epoch(self._recipe, self._count)
        if skipped:
            rest = itertools.islice(batches, skipped - 1, None)
            next(rest)  # what the epoch draws at its start is drawn
            assert place is not None  # noqa: S101 - only a place skips batches
            set_randomness(place.now, self._device)
            batches = rest
        yield from batches

    def _scheduled(self, each: str) -> None:
        if self._schedule is not None and self._recipe.schedule_each == each:
            with told("schedule", "a scheduler whose step() takes no argument", _SCHEDULE):
                self._schedule.step()

    def _schedule_again(self, epochs: int, each: int, skipped: int) -> None:
        """Brings the scheduler to the place, as if the optimizer had taken its steps."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step")
            for _ in range(epochs):
                self._scheduled("epoch")
            for _ in range(epochs * each + skipped):
                self._scheduled("step")


def batches_of_epoch(recipe: Recipe, count: int) -> Iterator[list[int]]:
    """The batches of one epoch, as ``DataLoader`` draws them from PyTorch's generator."""
    if recipe.batch_size is None:
        yield list(range(count))
        return
    yield from DataLoader(
        range(count),  # type: ignore[arg-type]
        batch_size=recipe.batch_size,
        shuffle=recipe.shuffle,
        drop_last=recipe.drop_last,
        collate_fn=list,
    )
