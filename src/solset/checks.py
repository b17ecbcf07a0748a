"""One-line checks of arguments: types, numbers, choices, shapes and indices of points.

Each check takes the name of the ``argument`` as the caller wrote it, the ``value`` that came, and a ``cure``:
one sentence that says what to do.
"""

import collections
import collections.abc
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from torch import Tensor

from solset.errors import bad_type, bad_value

Public = TypeVar("Public", bound=Callable[..., Any])
_CHECKED_ELSEWHERE = {"self", "points", "return"}  # see points_of
_LARGEST = 2**63 - 1
_OF_ANY_NUMBER = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
_NAMES = {int: "an integer", float: "a number", bool: "True or False", str: "a text", Tensor: "a tensor"}


def checked(public: Public) -> Public:
    """A function or class that refuses arguments of other types than its signature says.

    Shapes, and arguments of type ``Any``, are not checked.

    Args:
        public: Function to check, or a class, whose ``__init__`` is checked.

    Example:
        >>> @checked
        ... def half(size: float, *, name: str = "") -> float:
        ...     return size / 2
        >>> half("x")
        Traceback (most recent call last):
        TypeError: `size` must be a number; got 'x'. See the signature of half.
    """
    if inspect.isclass(public):
        setattr(public, "__init__", _checked_call(public.__init__, public.__name__))  # noqa: B010
        return cast("Public", public)
    return cast("Public", _checked_call(public, public.__name__))


def _checked_call(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        hints = _hints(function)
        for argument, value in _bound(signature, name, given, named).items():
            if argument in hints:
                cure = cure_for(name, value, f"See the signature of {name}.")
                require(argument, value, hints[argument], cure=cure)
        return function(*given, **named)

    return call


def cure_for(name: str, value: object, otherwise: str) -> str:
    """What the class of a value says to call instead, in ``asked_by``, where ``"*"`` is for all.

    Args:
        name: Name of the function that does not take the value.
        value: Value that came in its place.
        otherwise: Sentence for values whose class says nothing.
    """
    calls = getattr(type(value), "asked_by", {})
    return calls.get(name) or calls.get("*") or otherwise


def _bound(
    signature: inspect.Signature, name: str, given: tuple[Any, ...], named: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name; one that is missing or unknown is named as every other error."""
    try:
        return signature.bind(*given, **named).arguments
    except TypeError as error:
        takes = [each for each in signature.parameters if each != "self"]
        cure = f"{name} takes {', '.join(takes)}."
        for argument in named:
            if argument not in takes:
                cause = bad_type(argument, expected=f"an argument of {name}", got=f"{argument}=", cure=cure)
                raise cause from error
        there = signature.bind_partial(*given, **named).arguments if len(given) <= len(takes) + 1 else {}
        for argument, each in signature.parameters.items():
            if argument not in there and each.default is each.empty and each.kind not in _OF_ANY_NUMBER:
                raise bad_type(argument, expected="given", got="nothing", cure=cure) from error
        raise


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(function)
    return {name: hint for name, hint in hints.items() if name not in _CHECKED_ELSEWHERE}


def require(argument: str, value: Any, hint: Any, *, cure: str) -> None:
    """Refuses a value of another type than the hint, the number NaN, and an integer of more than 64 bits."""
    if not _is_of(value, hint):
        expected, got = _described(hint), _shown(value)
        raise bad_type(argument, expected=expected, got=got, cure=cure)
    if isinstance(value, float) and math.isnan(value):
        raise bad_value(argument, expected="a number", got="nan", cure=cure)
    if isinstance(value, int) and abs(value) > _LARGEST:
        got = _shown(value)
        raise bad_value(argument, expected=f"at most {_LARGEST}", got=got, cure="Use a smaller one.")


def _is_of(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in {typing.Union, types.UnionType}:
        return any(_is_of(value, part) for part in typing.get_args(hint))
    if origin is Literal:
        return isinstance(value, str)  # the function itself says better which texts it takes
    if hint is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if hint is None:
        return value is None
    kind = origin or hint
    if kind is collections.abc.Sequence and isinstance(value, str | bytes):
        return False
    if kind is collections.abc.Sequence and isinstance(value, list | tuple):
        return all(_is_of(one, part) for part in typing.get_args(hint) for one in value)
    if kind is collections.abc.Mapping and isinstance(value, dict):
        return all(_is_of(one, part) for part in typing.get_args(hint)[1:] for one in value.values())
    return not inspect.isclass(kind) or _is_instance(value, kind)


def _is_instance(value: Any, kind: type) -> bool:
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol that cannot be asked
        return True


def _described(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(dict.fromkeys(_described(part) for part in parts))
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if hint in {None, type(None)}:
        return "None"
    kind = origin or hint
    if kind in {collections.abc.Sequence, collections.abc.Mapping} and parts:
        of = _described(parts[-1]).removeprefix("a ").removeprefix("an ")
        return f"a {kind.__name__} of {of}"
    return _NAMES.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 10**60:  # Python does not write thousands of digits
        return "a number of more than 60 digits"
    if isinstance(value, str | int | float | None):
        text = repr(value)
        return text if len(text) <= 60 else text[:60] + "…"
    return type(value).__name__


def positive(argument: str, value: float | int, *, cure: str = "Use a number above zero.") -> None:
    """Refuses a number that is not positive and finite.

    Example:
        >>> positive("tol", 0.0)
        Traceback (most recent call last):
        ValueError: `tol` must be positive and finite; got 0.0. Use a number above zero.
    """
    require(argument, value, float, cure=cure)
    if not 0 < value < math.inf:
        raise bad_value(argument, expected="positive and finite", got=value, cure=cure)


def within(
    argument: str,
    value: float | int,
    low: float | int,
    high: float | int = math.inf,
    *,
    cure: str = "Choose another value.",
) -> None:
    """Refuses a number outside ``low ≤ value ≤ high``, or not finite where ``high`` is infinite.

    Example:
        >>> within("samples", -1, 0)
        Traceback (most recent call last):
        ValueError: `samples` must be at least 0; got -1. Choose another value.
    """
    require(argument, value, float, cure=cure)
    if not (low <= value <= high and value < math.inf):
        expected = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise bad_value(argument, expected=expected, got=value, cure=cure)


def one_of(argument: str, value: object, choices: collections.abc.Iterable[object]) -> None:
    """Refuses a value that is not among the choices.

    Example:
        >>> one_of("norm", "l1", ("l2", "linf"))
        Traceback (most recent call last):
        ValueError: `norm` must be one of 'l2', 'linf'; got 'l1'. Choose one of them.
    """
    accepted = list(choices)
    if value not in accepted:
        expected = f"one of {', '.join(map(repr, accepted))}"
        raise bad_value(argument, expected=expected, got=repr(value), cure="Choose one of them.")


def points_of(
    points: collections.abc.Iterable[Any] | Tensor | None, count: int, *, argument: str = "points"
) -> list[int]:
    """The indices of points as a list, refused unless they are distinct and in range.

    Args:
        points: Distinct indices as a sequence, array or tensor; ``None`` stands for all points.
        count: Number of points there are.
        argument: Name of the argument as the caller wrote it.

    Raises:
        TypeError: If the indices are not integers.
        ValueError: If there are none, or one is repeated or out of range.

    Example:
        >>> import torch
        >>> points_of(torch.tensor([2, 0]), 3)
        [2, 0]
        >>> points_of([3], 3)
        Traceback (most recent call last):
        ValueError: `points` must be in 0..2; got [3]. Count points from 0.
    """
    if points is None:
        return list(range(count))
    values = points.tolist() if isinstance(points, Tensor) else points
    if isinstance(values, str | int) or not isinstance(values, collections.abc.Iterable):
        raise bad_type(argument, expected="a sequence of indices", got=repr(values), cure="Write [3].")
    values = list(values)
    if any(isinstance(i, bool) or not hasattr(i, "__index__") for i in values):
        raise bad_type(argument, expected="integers", got=values[:5], cure="Name points by index.")
    indices = [int(i) for i in values]
    if not indices:
        raise bad_value(argument, expected="at least one index", got="none", cure="Leave it out for all.")
    if len(set(indices)) < len(indices):
        twice = [i for i, times in collections.Counter(indices).items() if times > 1]
        raise bad_value(argument, expected="distinct", got=f"{twice[:5]} repeated", cure="Name each once.")
    outside = [i for i in indices if not 0 <= i < count]
    if outside:
        raise bad_value(argument, expected=f"in 0..{count - 1}", got=outside[:5], cure="Count points from 0.")
    return indices


def shaped(
    argument: str, value: Tensor, shape: collections.abc.Sequence[int], *, cure: str = "Reshape it."
) -> None:
    """Refuses a tensor of another shape, in which -1 accepts any size in its place.

    Example:
        >>> import torch
        >>> shaped("dx", torch.zeros(2), (3,))
        Traceback (most recent call last):
        ValueError: `dx` must be of shape (3,); got shape (2,). Reshape it.
    """
    require(argument, value, Tensor, cure=cure)
    sizes = tuple(value.shape)
    is_right = len(sizes) == len(shape) and all(
        want in {-1, got} for want, got in zip(shape, sizes, strict=True)
    )
    if not is_right:
        raise bad_value(argument, expected=f"of shape {tuple(shape)}", got=f"shape {sizes}", cure=cure)


def existing_folder(argument: str, folder: Path | str | None) -> Path | None:
    """The folder as a path, or ``None`` for none; refused unless it is there."""
    require(argument, folder, Path | str | None, cure="Leave it out.")
    if folder is None or Path(folder).is_dir():
        return None if folder is None else Path(folder)
    raise bad_value(
        argument, expected="an existing folder", got=f"'{folder}'", cure="Make it, or leave it out."
    )
