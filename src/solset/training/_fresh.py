"""A model before its first step."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from solset.errors import SolsetWarning, bad_type, bad_value
from solset.results import copy_of
from solset.risk import refuse_module
from solset.training._state import trained
from solset.training._told import NAMED, told

MakeModel = nn.Module | Callable[..., nn.Module]


def fresh_model(make_model: MakeModel, seed: int) -> nn.Module:
    """The model before its first step; the random generators stand where making it left them.

    Args:
        make_model: Function that makes the model, of no argument or of the seed; or a module, which is
            copied.
        seed: Seed that is set before.

    Raises:
        TypeError: If this is no module.
        ValueError: If it has no parameters that require grad, a gradient hook, or one without a shape.
    """
    torch.manual_seed(seed)
    with told("make_model", "a function that makes the model", "Call it by itself first."):
        model = copy_of(make_model) if isinstance(make_model, nn.Module) else _call(make_model, seed)
    if not isinstance(model, nn.Module):
        raise bad_type(
            "make_model",
            expected="a module, or a function that returns one",
            got=type(model).__name__,
            cure="Return the model.",
        )
    refuse_module("make_model", model)
    if not trained(model):
        raise bad_value(
            "make_model",
            expected="a model with parameters that require grad",
            got="none",
            cure="Call requires_grad_() on the ones to train.",
        )
    return model


def require_same(before: Sequence[Tensor], now: Sequence[Tensor]) -> None:
    """Refuses a recipe whose first two steps are not those of before.

    Args:
        before: Weights before the first step, and those after the second.
        now: Weights of the same two moments, computed again.

    Raises:
        ValueError: If they differ.
    """
    unlike = {"make_model": "another model from the same seed", "recipe": "other weights after two steps"}
    for name, first, second in zip(unlike, before, now, strict=True):
        if first.shape != second.shape or not torch.equal(first.nan_to_num(), second.nan_to_num()):
            raise bad_value(
                name,
                expected="the same numbers whenever the seed is the same",
                got=unlike[name],
                cure="Draw only from PyTorch's generators, use deterministic kernels, and keep no count or "
                "other state in loss, augmentation or data set: it would go on from one run to the next.",
            )


def in_training(model: nn.Module) -> nn.Module:
    """The model in training mode, with a warning about layers that its maker had put in evaluation mode."""
    held = [
        (name, module)
        for name, module in model.named_modules()
        if model.training and not module.training and not any(module.children())
    ]
    model.train()
    if names := [name for name, module in held if module.training]:
        warnings.warn(
            f"make_model puts {', '.join(names[:NAMED])} in evaluation mode, and training runs all layers in "
            f"training mode; to keep a layer in its mode, let its train method do so",
            SolsetWarning,
            stacklevel=5,
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
