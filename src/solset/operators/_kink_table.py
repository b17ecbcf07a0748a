"""Which operations have kinks, by name: the thresholds of those that act on single entries."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

AT_ZERO = frozenset({"relu", "leaky_relu", "rrelu", "prelu", "abs", "prelu_kernel", "rrelu_with_noise"})
"""Operations with a kink at zero."""

BOUNDS: Mapping[str, tuple[str, ...]] = {
    "clamp": ("min", "max"),
    "clamp_min": ("min",),
    "clamp_max": ("max",),
    "threshold": ("threshold",),
    "maximum": ("other",),
    "minimum": ("other",),
    "fmax": ("other",),
    "fmin": ("other",),
}
"""Operations with kinks at the bounds in their arguments, and the names of these."""

FIXED: Mapping[str, tuple[float, ...]] = {
    "relu6": (0.0, 6.0),
    "hardswish": (-3.0, 3.0),
    "hardsigmoid": (-3.0, 3.0),
}
"""Operations with kinks at these values."""

JUMPS_AT_ZERO = frozenset(
    {"sign", "sgn", "heaviside", "signbit", "sqrt", "rsqrt", "elu", "celu", "xlogy", "special_entr"}
)
"""Operations that jump at zero, or whose first or second derivative does or is infinite there."""

COMPARISONS = frozenset({"gt", "ge", "lt", "le", "eq", "ne"})
"""Comparisons, by which a user's own code writes a kink."""

Values = list[int | float | Tensor]


def bare(name: str) -> str:
    """The name of an operation without the underscores of its in-place and private forms.

    Args:
        name: Name of a function of PyTorch, or of an operator without its name space.

    Example:
        >>> bare("relu_"), bare("__abs__"), bare("_prelu_kernel")
        ('relu', 'abs', 'prelu_kernel')
    """
    return name.strip("_")


def kinks_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Values:
    """The values of an operation's first argument at its kinks; none if the operation is smooth.

    Args:
        name: Bare name of the operation.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
    """
    if name in AT_ZERO:
        return [0.0]
    if name in FIXED:
        return list(FIXED[name])
    if name == "hardtanh":
        given = _given(("min_val", "max_val"), args, kwargs)
        return [given.get("min_val", -1.0), given.get("max_val", 1.0)]
    if name in {"softshrink", "hardshrink"}:
        size = _given(("lambd",), args, kwargs).get("lambd", 0.5)
        return [-size, size]
    if name in BOUNDS:
        given = _given(BOUNDS[name], args, kwargs)
        return [given[bound] for bound in BOUNDS[name] if given.get(bound) is not None]
    return []


def distances_to_kinks(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Signed distances of the entries of the first argument from all kinks and jumps of an operation.

    Beside those of :func:`kinks_of` these are comparisons, jumps, rounding, roots at zero and the ends of
    losses that are quadratic in the middle.

    Args:
        name: Bare name of the operation.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
    """
    first = args[0]
    kinks = kinks_of(name, args, kwargs)
    if name in JUMPS_AT_ZERO or (name == "pow" and _is_rough_power(args)):
        kinks = [0.0]
    elif name in COMPARISONS:
        kinks = [args[1]]
    elif name in {"asin", "acos", "arcsin", "arccos"}:
        kinks = [-1.0, 1.0]
    if kinks:
        return [first - kink for kink in kinks]
    if name in _SPECIAL:
        return [_SPECIAL[name](args, kwargs)]
    return []


def _given(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(names, args[1:], strict=False)) | dict(kwargs)


def _is_rough_power(args: Sequence[Any]) -> bool:
    return len(args) > 1 and isinstance(args[1], float) and args[1] != int(args[1])


def _to_integers(args: Sequence[Any], _: Mapping[str, Any]) -> Tensor:
    return args[0] - args[0].round()


def _to_halves(args: Sequence[Any], _: Mapping[str, Any]) -> Tensor:
    return args[0] - 0.5 - (args[0] - 0.5).round()


def _to_multiples(args: Sequence[Any], _: Mapping[str, Any]) -> Tensor:
    quotient = args[0] / args[1]
    return quotient - quotient.round()


def _to_bend(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    given = dict(zip(("reduction", "beta"), args[2:], strict=False)) | dict(kwargs)
    return (args[0] - args[1]).abs() - given.get("beta", given.get("delta", 1.0))


_SPECIAL: Mapping[str, Callable[[Sequence[Any], Mapping[str, Any]], Tensor]] = {
    **dict.fromkeys(("floor", "ceil", "trunc", "frac", "fix"), _to_integers),
    **dict.fromkeys(("remainder", "fmod", "floor_divide"), _to_multiples),
    **dict.fromkeys(("smooth_l1_loss", "huber_loss"), _to_bend),
    "round": _to_halves,
}

ELEMENTWISE = frozenset(
    {
        *AT_ZERO,
        *BOUNDS,
        *FIXED,
        *JUMPS_AT_ZERO,
        *COMPARISONS,
        *_SPECIAL,
        *("hardtanh", "softshrink", "hardshrink", "pow", "asin", "acos", "arcsin", "arccos"),
    }
)
"""All operations of which :func:`distances_to_kinks` knows kinks."""
