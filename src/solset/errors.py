"""How solset says that something is wrong.

Bad arguments raise :class:`ValueError` or :class:`TypeError` built by :func:`bad_value` and
:func:`bad_type`, so that every message names the argument, what was expected, what came and the cure.
Numerical outcomes are a :class:`Status`; mathematics that disappoints is a :class:`SolsetWarning`.
"""

import importlib
from enum import StrEnum
from types import ModuleType


class Status(StrEnum):
    """How a solve ended."""

    CONVERGED = "converged"
    MAX_STEPS = "max_steps"
    INCONSISTENT = "inconsistent"
    NONFINITE = "nonfinite"
    INDEFINITE = "indefinite"
    DIVERGED = "diverged"
    DOUBTFUL = "doubtful"  # it ended well, and what it rests on does not hold: the message says what


class SolsetWarning(UserWarning):
    """A result is defined, but an assumption behind it does not hold."""


class ProcessError(RuntimeError):
    """Another process of the group ended, raised or stalled, so this one cannot go on; names it and why."""


def _message(argument: str, expected: str, got: object, cure: str) -> str:
    one_line = " ".join(f"{got}".split("\n"))  # the value may have a text of several lines
    return f"`{argument}` must be {expected}; got {one_line}. {cure}"


def bad_value(argument: str, *, expected: str, got: object, cure: str) -> ValueError:
    """The error for an argument of the right type with an impossible value.

    Args:
        argument: Name of the argument as the caller wrote it.
        expected: Description of the values that are accepted.
        got: The value that came, or a description of it.
        cure: One sentence that says what to do.

    Example:
        >>> print(bad_value("points", expected="at least one index", got="none", cure="Name a point."))
        `points` must be at least one index; got none. Name a point.
    """
    return ValueError(_message(argument, expected, got, cure))


def bad_type(argument: str, *, expected: str, got: object, cure: str) -> TypeError:
    """The error for an argument of the wrong type; arguments as in :func:`bad_value`."""
    return TypeError(_message(argument, expected, got, cure))


def needed(module: str, *, by: str, extra: str) -> ModuleType:
    """An optional module, or the error that names the extra which installs it.

    Args:
        module: Name of the module to import, such as ``"matplotlib"``.
        by: Part of solset that cannot work without the module, as the subject of a sentence.
        extra: Name of the extra of solset that brings the module.

    Raises:
        ImportError: If the module is not installed; says how to install it.

    Example:
        >>> needed("no_such_module", by="a figure", extra="report")
        Traceback (most recent call last):
        ImportError: a figure needs no_such_module: pip install 'solset[report]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{by} needs {module}: pip install 'solset[{extra}]'", name=module) from error
