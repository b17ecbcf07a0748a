"""Texts of the command line as values."""

import math
from typing import Any

from solset.errors import bad_type, bad_value

MOST_SEED = 2**32 - 1  # NumPy's limit, below torch's


def check_seed(seed: object, name: str = "seed") -> None:
    """Refuses a seed that random generators do not take.

    Args:
        seed: Of the settings.
        name: Of the setting.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is negative or too large.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise bad_type(name, expected="an integer", got=repr(seed), cure="Use 0.")
    if not 0 <= seed <= MOST_SEED:
        raise bad_value(name, expected=f"in 0..{MOST_SEED}", got=seed, cure="Use 0.")


def _numbers(name: str, text: str, *, expected: str, cure: str) -> tuple[int, ...]:
    """``"1,10"`` as numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise bad_value(f"--{name}", expected=expected, got=repr(text), cure=cure) from error


def indices(text: str) -> tuple[int, ...]:
    """``"0,3,7"`` as numbers."""
    return _numbers("points", text, expected="indices such as 0,3,7", cure="Count points from 0.")


def counts(text: str) -> tuple[int, ...]:
    """``"1,10"`` as numbers."""
    return _numbers("moved", text, expected="numbers such as 1,10", cure="Say how many move.")


def seeds(text: str) -> tuple[int, ...]:
    """``"1,2"`` as numbers; nothing as none."""
    expected, cure = "seeds such as 1,2", "Leave it out for none."
    return _numbers("from-scratch", text, expected=expected, cure=cure) if text else ()


def shape(text: str) -> tuple[int, int] | None:
    """``"8x8"`` as height and width; nothing as none."""
    if not text:
        return None
    expected, cure = "height and width such as 8x8", "Leave it out for none."
    sides = _numbers("image", text.replace("x", ","), expected=expected, cure=cure)
    if len(sides) != 2 or min(sides) < 1:
        raise bad_value("--image", expected=expected, got=repr(text), cure=cure)
    return sides[0], sides[1]


def one_of(name: str, value: str, choices: tuple[str, ...]) -> Any:
    """The value, if it is among the choices."""
    if value not in choices:
        raise bad_value(
            f"--{name}",
            expected=f"one of {', '.join(choices)}",
            got=repr(value),
            cure="Leave it out for the default.",
        )
    return value


def fraction(text: str) -> float:
    """``"1%"`` as 0.01; a bare number is a fraction."""
    stripped = text.strip()
    try:
        value = float(stripped.removesuffix("%"))
    except ValueError:
        value = math.nan
    fraction = value / 100 if stripped.endswith("%") else value
    if not 0 < fraction < math.inf:
        raise bad_value(
            "--size", expected="positive steps such as 0.5%,1%", got=repr(text), cure="0.01 means 1%."
        )
    return fraction
