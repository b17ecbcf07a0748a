"""A penalty on the weights beside the losses of the points, checked when the problem is built."""

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from solset.errors import SolsetWarning, bad_type, bad_value

Penalty = Callable[[Mapping[str, Tensor]], Tensor]
_STEP = 1e-5  # over the size of the weights; a smooth function's slopes differ by about as much over it


def check_penalty(penalty: Penalty, named: Mapping[str, Tensor], moving: list[str]) -> str:
    """The reason why the penalty has no derivative at the weights; empty where it has one.

    Args:
        penalty: Function of the parameters by name that returns a scalar.
        named: All parameters of the network by name, at the trained weights.
        moving: Names of the parameters that may move.

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
