"""Weight decay in every form in which training states it, and other penalties on the weights."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import (
    ASGD,
    LBFGS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
)

from solset.checks import require, within
from solset.errors import SolsetWarning, bad_type, bad_value
from solset.risk._layout import Layout, matches

WeightDecay = float | Mapping[str, float] | Optimizer | Sequence[Mapping[str, Any]]
_CURE = "Use the weight decay of training."
_ADDED_TO_THE_GRADIENT = {ASGD, LBFGS, SGD, Adadelta, Adagrad, Adam, Adamax, NAdam, RAdam, RMSprop, Rprop}
Penalty = Callable[[Mapping[str, Tensor]], Tensor]
_STEP = 1e-5  # over the size of the weights; a smooth function's slopes differ by about as much over it


def decay_of(weight_decay: WeightDecay, layout: Layout, named: Mapping[str, Tensor]) -> float | Tensor:
    """The factor ``λ`` of every weight: one number where all have the same, else a vector ``(p,)``.

    Args:
        weight_decay: One number for all weights, numbers by name pattern of which the first that matches
            counts, an optimizer, or its ``param_groups``.
        layout: Names and shapes of the weights.
        named: All parameters that may be named, those that are held too.

    Raises:
        TypeError: If it is none of these.
        ValueError: If a number is negative or not finite, a weight has none, a pattern never counts, or the
            optimizer does not add its decay to the gradient.
    """
    if isinstance(weight_decay, Mapping):
        by_name = _by_pattern(weight_decay, layout, named)
    elif isinstance(weight_decay, Optimizer):
        _refuse_decoupled(weight_decay)
        by_name = _by_group(weight_decay.param_groups, layout, named)
    elif isinstance(weight_decay, list | tuple):
        by_name = _by_group(weight_decay, layout, named)
    else:
        expected = float | dict | Optimizer
        require("weight_decay", weight_decay, expected, cure=_CURE)
        within("weight_decay", weight_decay, 0, cure=_CURE)  # type: ignore[arg-type]
        return weight_decay  # type: ignore[return-value]
    like = next(iter(layout.shapes), None)
    parts = [torch.full(shape, by_name[name], dtype=torch.float64) for name, shape in layout.shapes.items()]
    return one_number(layout.join(parts).to(named[like] if like else torch.zeros(0)))


def one_number(decay: float | Tensor) -> float | Tensor:
    """The same decay as a number, where all entries of a vector are equal.

    Example:
        >>> one_number(torch.tensor([0.5, 0.5])), one_number(torch.tensor([0.5, 0.0]))
        (0.5, tensor([0.5000, 0.0000]))
    """
    if isinstance(decay, Tensor) and bool((decay == decay[0]).all()):
        return float(decay[0])
    return decay


def _by_pattern(decays: Mapping[str, float], layout: Layout, named: Mapping[str, Tensor]) -> dict[str, float]:
    for pattern, value in decays.items():
        require("weight_decay", pattern, str, cure='Write {"*.bias": 0.0, "*": 1e-2}.')
        within(f"weight_decay[{pattern!r}]", value, 0, cure=_CURE)
    first = {name: next((one for one in decays if matches(name, one)), None) for name in named}
    left_over = [name for name in layout.shapes if first[name] is None]
    if left_over:
        raise bad_value(
            "weight_decay",
            expected="a pattern for every weight",
            got=f"none that matches {', '.join(left_over)}",
            cure='End with "*" for all others.',
        )
    idle = [pattern for pattern in decays if pattern not in first.values()]
    if idle:
        raise bad_value(
            "weight_decay",
            expected="patterns each of which is the first that matches some parameter",
            got=f"{', '.join(map(repr, idle))}, which is the first for none",
            cure=f"The names, in order, are: {', '.join(named)}. Put special patterns before general ones.",
        )
    return {name: float(decays[str(first[name])]) for name in layout.shapes}


def _by_group(
    groups: Sequence[Mapping[str, Any]], layout: Layout, named: Mapping[str, Tensor]
) -> dict[str, float]:
    by_id: dict[int, float] = {}
    for group in groups:
        if not isinstance(group, Mapping) or "params" not in group:
            cure = "Pass `optimizer`, or `optimizer.param_groups`."
            got = type(group).__name__ if not isinstance(group, Mapping) else f"keys {list(group)}"
            raise bad_type("weight_decay", expected='groups with "params"', got=got, cure=cure)
        value = group.get("weight_decay", 0.0) or 0.0
        within("weight_decay", float(value), 0, cure=_CURE)
        if value and group.get("decoupled_weight_decay"):
            raise _decoupled("a group whose decay is decoupled from the gradient, as AdamW's", value)
        if group.get("maximize"):
            cure = "Turn its sign and train with maximize=False."
            raise bad_value("weight_decay", expected="of a loss that falls", got="maximize=True", cure=cure)
        params = group["params"]
        for one in [params] if isinstance(params, Tensor) else params:
            by_id[id(one[1] if isinstance(one, tuple) else one)] = float(value)
    strangers = [name for name in layout.shapes if id(named[name]) not in by_id]
    if strangers:
        raise bad_value(
            "weight_decay",
            expected="groups that hold every weight that may move",
            got=f"none that holds {', '.join(strangers[:5])}",
            cure="Pass the optimizer of this very model, or name the trained weights by `parameters=`.",
        )
    return {name: by_id[id(named[name])] for name in layout.shapes}


def _refuse_decoupled(optimizer: Optimizer) -> None:
    largest = max(float(group.get("weight_decay", 0.0) or 0.0) for group in optimizer.param_groups)
    if largest > 0 and type(optimizer) not in _ADDED_TO_THE_GRADIENT:
        raise _decoupled(f"{type(optimizer).__name__}, whose decay acts beside the gradient", largest)


def _decoupled(got: str, value: float) -> ValueError:
    """The error for AdamW and its kin: where they stop, ``g / (√v + ε) + λ w = 0``, not ``g + λ w = 0``."""
    return bad_value(
        "weight_decay",
        expected="an optimizer that adds λ w to the gradient, as SGD and Adam do",
        got=f"{got} (weight_decay {value:g})",
        cure="Its end is not stationary for the risk with this decay: leave it out, since filters.Recipe "
        "knows it, or pass a number. Groups of an optimizer that does add it pass as a list.",
    )


def check_penalty(penalty: Penalty, named: Mapping[str, Tensor], moving: list[str]) -> str:
    """The reason why the penalty has no derivative at the weights; empty where it has one.

    Raises:
        TypeError: If it cannot be called with the parameters, or returns no scalar tensor.
        ValueError: If its value is not finite, or it does not depend on the weights that may move.

    Warns:
        SolsetWarning: If its one-sided derivatives differ at the weights, as those of an L1 norm do at zero.

    Cost: six evaluations of the penalty.
    """
    if not callable(penalty):
        cure = "Pass a function, as in lambda named: named['0.weight'].abs().sum()."
        raise bad_type("penalty", expected="a callable", got=type(penalty).__name__, cure=cure)
    leaves = {name: value.detach().clone().requires_grad_(name in moving) for name, value in named.items()}
    try:
        with torch.enable_grad():
            value = penalty(leaves)
    except (TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise bad_type(
            "penalty",
            expected="a function of the parameters by name",
            got=f"{type(error).__name__}: {error}",
            cure=f"It is called with a dict; the names are {', '.join(named)}.",
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise bad_type("penalty", expected="one that returns a scalar tensor", got=got, cure="Sum it up.")
    slopes: tuple[Tensor | None, ...] = ()
    if value.requires_grad:
        wanted = [leaves[name] for name in moving]
        slopes = torch.autograd.grad(value, wanted, allow_unused=True)
    if all(slope is None for slope in slopes):
        raise bad_value(
            "penalty",
            expected="a differentiable function of the weights that may move",
            got="one that depends on none of them",
            cure="Use the dict that it is given, not the parameters of a module, and do not detach.",
        )
    sizes = [value.detach(), *(slope for slope in slopes if slope is not None)]
    if not all(bool(torch.isfinite(size).all()) for size in sizes):
        cure = "An unsquared norm has no derivative at zero: square it, or hold these weights."
        raise bad_value(
            "penalty", expected="finite, with a finite gradient", got=float(value.detach()), cure=cure
        )
    kink = _kink(penalty, named, moving)
    if kink:
        text = f"{kink}. Estimates take it for smooth: hold these weights with `parameters=`"
        warnings.warn(text, SolsetWarning, stacklevel=4)
    return kink


def _kink(penalty: Penalty, named: Mapping[str, Tensor], moving: list[str]) -> str:
    """Compares the one-sided derivatives along one direction at two steps: at a kink both differ alike."""
    generator = torch.Generator().manual_seed(0)
    precise = {name: value.detach().to(torch.float64) for name, value in named.items()}
    size = max(float(torch.cat([precise[name].reshape(-1) for name in moving]).abs().max()), 1e-3)
    direction = {
        name: torch.randn(precise[name].shape, generator=generator, dtype=torch.float64).to(precise[name])
        for name in moving
    }

    def at(step: float) -> float:
        with torch.no_grad():
            moved = {name: precise[name] + step * part for name, part in direction.items()}
            return float(penalty(precise | moved))

    try:
        here, steps = at(0.0), (_STEP * size, 0.1 * _STEP * size)
        jumps = [abs(at(step) - 2 * here + at(-step)) / step for step in steps]
    except RuntimeError:  # a penalty with constants of its own dtype
        return ""
    rounding = 1e-12 * abs(here) / (0.1 * _STEP * size)
    if not jumps[1] > max(0.5 * jumps[0], 10 * rounding):
        return ""
    return (
        f"the penalty has a kink at the weights: its one-sided derivatives differ by {jumps[1]:.3g} along a "
        f"random direction, as those of an L1 norm do at weights that are zero"
    )
