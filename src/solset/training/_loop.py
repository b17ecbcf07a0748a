"""The ordinary training loop, step by step."""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from solset.errors import bad_type, bad_value
from solset.training._call import Call
from solset.training._data import Data, losses_of, weighted_loss
from solset.training._optimizers import made
from solset.training._recipe import Recipe
from solset.training._state import trained

MakeModel = nn.Module | Callable[..., nn.Module]


class Loop:
    """A model in training: what a user writes by hand, with the recipe's parts in their usual places.

    Attributes:
        model: Module that is trained, in training mode.
        optimizer: Optimizer of its parameters.
    """

    def __init__(self, recipe: Recipe, call: Call, model: nn.Module, data: Data) -> None:
        self.model, self._recipe, self._call, self._data = model.train(), recipe, call, data
        self.optimizer = made(recipe.optimizer(list(trained(model).values())))
        self._scheduler = None if recipe.schedule is None else recipe.schedule(self.optimizer)
        self._losses = None if data.factors is None else losses_of(recipe.loss)

    def batches(self) -> Iterator[list[int]]:
        """The batches of all epochs, as ``DataLoader`` draws them; a schedule by epochs steps between."""
        recipe, count = self._recipe, len(self._data)
        remaining = recipe.step_count(count)
        for _ in range(recipe.epochs):
            for batch in self._epoch(count):
                if remaining == 0:
                    return
                remaining -= 1
                yield batch
            if self._scheduler is not None and recipe.schedule_each == "epoch":
                self._scheduler.step()

    def _epoch(self, count: int) -> Iterator[list[int]]:
        if self._recipe.batch_size is None:
            yield list(range(count))
            return
        yield from DataLoader(
            range(count),  # type: ignore[arg-type]
            batch_size=self._recipe.batch_size,
            shuffle=self._recipe.shuffle,
            drop_last=self._recipe.drop_last,
            collate_fn=list,
        )

    @torch.enable_grad()
    def step(self, batch: Sequence[int], *, scheduled: bool = True) -> float:
        """Takes one step and returns the loss of the batch.

        Args:
            batch: Indices of the points.
            scheduled: Whether the scheduler takes its step too.
        """
        inputs, targets, factors = self._data.batch(batch)
        if self._recipe.augment is not None:
            inputs = self._recipe.augment(inputs)
        self.optimizer.zero_grad()
        outputs = self._call(self.model, inputs)
        if factors is None or self._losses is None:
            loss = self._recipe.loss(outputs, targets)
        else:
            loss = weighted_loss(self._losses(outputs, targets), factors)
        if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
            raise bad_type(
                "loss",
                expected="a function that returns a scalar which depends on the trained parameters",
                got=f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__,
                cure="Use a mean over the points of a batch.",
            )
        loss.backward()
        if self._recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained(self.model).values(), self._recipe.clip_norm)
        self.optimizer.step()
        if scheduled and self._scheduler is not None and self._recipe.schedule_each == "step":
            self._scheduler.step()
        return float(loss.detach())


def fresh_model(make_model: MakeModel, seed: int) -> nn.Module:
    """The model before its first step; the random generators stand where making it left them.

    Args:
        make_model: Function that makes the model, of no argument or of the seed; or a module, which is
            copied.
        seed: Seed that is set before.

    Raises:
        TypeError: If this is no module.
        ValueError: If it has no parameters that require grad.
    """
    torch.manual_seed(seed)
    model = copy.deepcopy(make_model) if isinstance(make_model, nn.Module) else _call(make_model, seed)
    if not isinstance(model, nn.Module):
        raise bad_type(
            "make_model",
            expected="a module, or a function that returns one",
            got=type(model).__name__,
            cure="Return the model.",
        )
    if not trained(model):
        raise bad_value(
            "make_model",
            expected="a model with parameters that require grad",
            got="none",
            cure="Call requires_grad_() on the ones to train.",
        )
    return model


def _call(make_model: Callable[..., Any], seed: int) -> Any:
    try:
        needed = [
            each
            for each in inspect.signature(make_model).parameters.values()
            if each.default is each.empty and each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}
        ]
    except (TypeError, ValueError):
        needed = []
    return make_model(seed) if needed else make_model()
