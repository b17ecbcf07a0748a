"""The options of a command, each written once: as a field of the command's settings dataclass.

From these fields come the command line and its help, the page of the documentation, the settings of a run
folder and the file ``settings.toml`` that repeats a run.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

from solset.checks import one_of, require, within
from solset.errors import bad_value
from solset.problem import AUTO, MAPS

MOST_IN_A_RANGE = 10_000_000  # points: a typing error is refused before it fills the memory
_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")
LARGEST_SEED = 2**32 - 1  # NumPy's limit, below torch's


@dataclass(frozen=True)
class Option:
    """How a field of a settings dataclass appears on the command line."""

    help: str  # Sentence that says what the option is; its default is added to it
    # Name on the command line, such as ``"--points"``; ``""`` for a field that is no option there
    flag: str = ""
    # Function from the flag and the text to the value; ``None`` for texts and single numbers
    parse: Callable[[str, str], Any] | None = None
    # Function from the default value to its text on the command line
    show: Callable[[Any], str] | None = None
    default_help: str = ""  # Text of a default that is found only when the command runs
    choices: tuple[str, ...] = ()  # Texts that the option accepts; empty where the type of the field says it
    is_argument: bool = False  # Whether the option stands by its place, without a flag
    is_recorded: bool = True  # Whether the run folder compares the value when a run is resumed
    # Function from the field's name and value that refuses an impossible value
    check: Callable[[str, Any], None] | None = None


def option(default: Any = MISSING, **appearance: Any) -> Any:
    """A field of a settings dataclass with the attributes of :class:`Option`; required without a default."""
    return dataclasses.field(default=default, metadata={"option": Option(**appearance)})


@dataclass(frozen=True)
class Settings:
    """Base of all settings: every field is checked by its own option."""

    def __post_init__(self) -> None:
        for field, said in options_of(type(self)):
            value = getattr(self, field.name)
            if said.check is not None and value is not None:
                said.check(field.name, value)

    def recorded(self) -> dict[str, Any]:
        """The settings that a resumed run must share, by name."""
        fields = options_of(type(self))
        return {field.name: getattr(self, field.name) for field, said in fields if said.is_recorded}


def settings_from_texts(kind: type[Settings], values: Mapping[str, Any]) -> Any:
    """The settings that a command line asks for; ``None`` stands for an option that was not given.

    Raises:
        ValueError: If a required option is missing, or a text cannot be read.
    """
    given = {
        field.name: said.parse(said.flag, values[field.name]) if said.parse else values[field.name]
        for field, said in options_of(kind)
        if values.get(field.name) is not None
    }
    return settings_from(kind, given)


def settings_from(kind: type[Settings], values: Mapping[str, Any]) -> Any:
    """The settings of values of the right types; a field that is missing has its default.

    Raises:
        ValueError: If a required setting is missing, or a value is impossible.
    """
    for field, said in options_of(kind):
        if field.name not in values and field.default is MISSING:
            raise bad_value(said.flag, expected="given", got="nothing", cure=said.help)
        choices = _choices(kind, field)
        if field.name in values and choices:
            one_of(field.name, values[field.name], choices)
    return kind(**values)


def options_of(settings: type[Settings]) -> list[tuple[dataclasses.Field[Any], Option]]:
    """Every field of a settings class with its option, in order."""
    return [(field, field.metadata["option"]) for field in dataclasses.fields(settings)]


def hint_of(settings: type[Settings], name: str) -> Any:
    """The type of a field, without ``None``."""
    hint = typing.get_type_hints(settings)[name]
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return hint


def help_of(settings: type[Settings], field: dataclasses.Field[Any]) -> str:
    """The help text of an option, with its choices and its default."""
    said: Option = field.metadata["option"]
    choices, parts = _choices(settings, field), [said.help]
    if choices:
        parts.append(f"One of {', '.join(choices)}.")
    if field.default is not MISSING:
        default = said.default_help or (said.show or _shown)(field.default)
        parts += [f"Default: {default}."] if default else []
    elif not said.is_argument:
        parts.append("Required.")
    return " ".join(parts)


def _choices(settings: type[Settings], field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """The texts that an option accepts; empty where it accepts others too."""
    hint = hint_of(settings, field.name)
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else field.metadata["option"].choices


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def integers(flag: str, text: str, *, expected: str, cure: str) -> tuple[int, ...]:
    """``"1,10"`` as integers; refused, as ``expected`` and ``cure`` say, if a part is none."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise bad_value(flag, expected=expected, got=repr(text), cure=cure) from error


def indices(flag: str, text: str) -> tuple[int, ...]:
    """``"0-2,9"`` as 0, 1, 2 and 9."""
    expected, cure = "indices such as 0,3,7 or 0-5,9", "Count points from 0."
    parts: list[int] = []
    for part in text.split(","):
        ends = _RANGE.fullmatch(part.strip())
        if ends is None:
            parts += integers(flag, part, expected=expected, cure=cure)
            continue
        first, last = int(ends[1]), int(ends[2])
        if not first <= last <= first + MOST_IN_A_RANGE:
            raise bad_value(flag, expected=expected, got=repr(text), cure="Write the smaller index first.")
        parts += range(first, last + 1)
    return tuple(parts)


def numbers(flag: str, text: str) -> tuple[float, ...]:
    """``"0,1.5"`` as 0.0 and 1.5."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        cure = "Separate them by commas."
        raise bad_value(flag, expected="numbers such as 0,1.5", got=repr(text), cure=cure) from error


def shape(flag: str, text: str) -> tuple[int, int]:
    """``"8x8"`` as height and width."""
    expected, cure = "height and width such as 8x8", "Leave it out for none."
    sides = integers(flag, text.replace("x", ","), expected=expected, cure=cure)
    if len(sides) != 2 or min(sides) < 1:
        raise bad_value(flag, expected=expected, got=repr(text), cure=cure)
    return sides[0], sides[1]


def fractions(flag: str, text: str) -> tuple[float, ...]:
    """``"0.5%,1%"`` as 0.005 and 0.01; a number without a percent sign is a fraction."""
    return tuple(_fraction(flag, part.strip()) for part in text.split(","))


def _fraction(flag: str, text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    fraction = value / 100 if text.endswith("%") else value
    if not 0 < fraction < math.inf:
        expected = "positive steps such as 0.5%,1%"
        raise bad_value(flag, expected=expected, got=repr(text), cure="0.01 means 1%.")
    return fraction


def path_of(_flag: str, text: str) -> Path:
    """The path that a text names."""
    return Path(text)


def percent(steps: tuple[float, ...]) -> str:
    """Steps as the command line takes them.

    Example:
        >>> percent((0.005, 0.01))
        '0.5%,1%'
    """
    return ",".join(f"{100 * step:g}%" for step in steps)


def check_seed(name: str, seed: object) -> None:
    """Refuses a seed that random generators do not take."""
    require(name, seed, int, cure="Use 0.")
    within(name, typing.cast("int", seed), 0, LARGEST_SEED, cure="Use 0.")


def check_steps(name: str, steps: tuple[float, ...]) -> None:
    """Refuses steps that are not positive, or that the files of a run could not tell from each other."""
    if not steps or min(steps) <= 0:
        raise bad_value(name, expected="positive steps", got=steps, cure="0.01 means 1%.")
    if len({f"{step:g}" for step in steps}) < len(steps):
        raise bad_value(name, expected="distinct to six digits", got=steps, cure="Name each step once.")


def source_option(returned: str) -> Any:
    """The field for the file and function that build the problem, or whatever is ``returned``."""
    text = f"File and function, FILE.py:FUNCTION; the function takes no arguments and returns {returned}."
    return option(is_argument=True, flag="SOURCE", help=text)


def points_option(which: str, **appearance: Any) -> Any:
    """The field for indices of training points; ``which`` says what they do."""
    text = f"Indices of the training points {which}, such as 0,3,7 or 0-5,9."
    return option(flag="--points", parse=indices, help=text, **appearance)


def map_option(used: str, *, only_exact: bool = False) -> Any:
    """The field for the optimality map whose solutions are used so; no approximate map if ``only_exact``."""
    names = [name for name, each in MAPS.items() if each.is_exact or not only_exact]
    text = f"Map whose solutions {used}; {AUTO} takes the first of the others that fits the problem."
    return option(AUTO, flag="--optimality", choices=(AUTO, *names), help=text)


def steps_option(default: tuple[float, ...], each: str) -> Any:
    """The field for the sizes of the steps; ``each`` says what happens for each of them."""
    text = f"Step sizes in percent of each moved point's norm, such as 0.5%,1%; {each}."
    return option(default, flag="--size", parse=fractions, show=percent, check=check_steps, help=text)


def seed_option(random: str) -> Any:
    """The field for the seed of what is ``random``."""
    return option(0, flag="--seed", check=check_seed, help=f"Seed of the random generator for {random}.")
