"""What every result has: one line that a person understands, and the same numbers for programs.

A result is a frozen dataclass that derives from :class:`Result` and says its own line in ``headline``.
One that holds new weights derives from :class:`WeightsResult`; one that has rows (points, steps, routes)
derives from :class:`TableResult`.
"""

import copy
import dataclasses
import html
import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from solset.errors import Status, bad_type, bad_value, needed

_WORDS = {math.inf: "Infinity", -math.inf: "-Infinity"}


class _Computed:
    """An attribute that is computed, unless the instance has a dataclass field of the same name.

    A ``property`` would be taken for the default of that field, and would refuse to be set.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, result: object, owner: type | None = None) -> Any:
        if result is None:
            raise AttributeError("a class has no such attribute, its instances do")
        return self._function(result)


def computed(function: Callable[[Any], Any]) -> Any:
    """Decorates the method by which a result computes its ``status`` or ``message``.

    A result that stores one of the two declares it as a dataclass field instead.

    Args:
        function: Method that takes the result and returns the value.
    """
    return _Computed(function)


def _message(status: Status) -> str:
    return "" if status is Status.CONVERGED else f"the computation ended with status '{status}'"


class Result(ABC):
    """A result of an analysis: prints as one line, and converts to plain data.

    Subclasses are dataclasses with ``frozen=True, eq=False, repr=False``, but for a run, whose state is long.
    """

    @property
    @abstractmethod
    def headline(self) -> str:
        """One line: what the result is, how it ended, and the number that matters."""

    status: Status = computed(lambda _: Status.CONVERGED)
    """How the computation ended; results that cannot fail have converged."""

    message: str = computed(lambda result: _message(result.status))
    """One sentence on how far the numbers can be trusted; empty where there is nothing to say."""

    def to_dict(self) -> dict[str, Any]:
        """Every field in the types of JSON: tensors become nested lists, other results become dicts."""
        named = {name: _plain_or_text(getattr(self, name)) for name in self._field_names()}
        return {**named, "status": str(self.status), "message": self.message}

    def plot(self, **options: Any) -> Any:
        """A Matplotlib figure of the result, where one is defined.

        Args:
            options: Keyword arguments of the figure's own function in :mod:`solset.plotting`.

        Raises:
            ImportError: If Matplotlib is missing; names the extra that brings it.
            TypeError: If no figure is defined for this kind of result.
        """
        return importlib.import_module("solset.plotting").plot(self, **options)

    def _field_names(self) -> list[str]:
        """The names of what is shown and written; a result that is no dataclass names its own."""
        return [field.name for field in dataclasses.fields(self) if field.repr]  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.headline})"

    def _repr_html_(self) -> str:
        shown = dict.fromkeys(["status", "message", *self._field_names()])
        rows = [(name, _cell(getattr(self, name))) for name in shown]
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name.replace('_', ' '))}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in rows
            if value
        )
        return self._table(cells)

    def _table(self, lines: str) -> str:
        title = html.escape(f"{type(self).__name__}: {self.headline}")
        return f"<table><caption style='text-align:left'>{title}</caption>{lines}</table>"


class WeightsResult(Result):
    """A result that holds new weights of a model."""

    @abstractmethod
    def _named_weights(self) -> tuple[Tensor, Mapping[str, torch.Size] | None]:
        """The new weights, flat, with names and shapes (``None`` for a change of weights)."""

    weights: Tensor = computed(lambda result: result._named_weights()[0])
    """The new weights, flat ``(p,)``, in ``named_parameters`` order."""

    def as_parameters(self) -> dict[str, Tensor]:
        """The new weights by name, each in its own shape.

        Raises:
            ValueError: If this is a change of weights and not weights: ask ``problem.estimate``.
        """
        weights, shapes = self._named_weights()
        if shapes is None or weights.ndim != 1:
            raise bad_value(
                "solution",
                expected="one vector of weights",
                got="a change of weights or a block of several elements",
                cure="Take it from `problem.estimate(change)`, whose elements are weights.",
            )
        parts = torch.split(weights, [math.prod(shape) for shape in shapes.values()])
        return {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}

    def apply_to(self, model: nn.Module) -> nn.Module:
        """A deep copy of ``model`` with the new weights; the model itself is not touched.

        Weights of a loss, whose names begin with ``"loss."``, are left out for the network. Pass the loss
        itself for a copy of it with its new weights.

        Args:
            model: The module whose parameter names the result carries.

        Raises:
            ValueError: If a parameter is missing in the model or has another shape.
        """
        changed = copy_of(model)
        present = dict(changed.named_parameters())
        for name, value in _belonging(self.as_parameters(), present).items():
            if name not in present or present[name].shape != value.shape:
                raise bad_value(
                    "model",
                    expected=f"a module with parameter '{name}' of shape {tuple(value.shape)}",
                    got=f"{tuple(present[name].shape)}" if name in present else "no such parameter",
                    cure="Pass the module that the problem was built with.",
                )
            with torch.no_grad():
                present[name].copy_(value)
        return changed


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy of a module; weights that its last call computed are copied without their graph.

    Args:
        model: Module, which is not changed.
    """
    (copied,) = copies_of(model)
    return copied


def copies_of(model: nn.Module, *others: Any) -> tuple[Any, ...]:
    """Deep copies of a module and of what refers to its parameters, such as their optimizer.

    Args:
        model: Module, as for :func:`copy_of`.
        *others: Objects that refer to its parameters, and whose copies refer to those of the copy.
    """
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    try:
        return copy.deepcopy((model, *others), memo=computed)
    except (RuntimeError, TypeError) as error:
        raise bad_type(
            "model",
            expected="a module that copy.deepcopy can copy",
            got=f"{error}",
            cure="Keep locks, files and tensors with a graph outside of the module, or define __deepcopy__.",
        ) from error


def _belonging(weights: dict[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network, or of the loss that was trained beside it, whichever the module is."""
    of_loss = {name for name in weights if name.startswith("loss.") and name not in present}
    by_name = {name.removeprefix("loss."): weights[name] for name in of_loss}
    if by_name and by_name.keys() <= present.keys() and not weights.keys() & present.keys():
        return by_name
    return {name: part for name, part in weights.items() if name not in of_loss}


class TableResult(Result):
    """A result that has rows: points of an audit, stations of a path, routes of a plan."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """One dict per row, all with the same keys, in plain types."""

    def _repr_html_(self) -> str:
        rows = self.rows()
        names = [html.escape(name.replace("_", " ")) for name in (rows[0] if rows else {})]
        lines = [
            "".join(f"<td>{html.escape(_cell(value))}</td>" for value in row.values()) for row in rows[:10]
        ]
        head = "".join(f"<th>{name}</th>" for name in names)
        more = f"<p>{len(rows) - 10} more rows: <code>to_dataframe()</code> has all.</p>" if rows[10:] else ""
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return self._table(f"<tr>{head}</tr>{body}") + more

    def to_dataframe(self) -> Any:
        """The rows as a pandas ``DataFrame``.

        Raises:
            ImportError: If pandas is missing; says how to install it.
        """
        pandas = needed("pandas", by="to_dataframe", extra="report")
        return pandas.DataFrame(self.rows())


def _plain_or_text(value: Any) -> Any:
    """The value in the types of JSON; what JSON cannot hold, such as an object of the user, as its text."""
    try:
        return plain(value)
    except TypeError:
        return repr(value)


def plain(value: Any) -> Any:
    """The value in the types of JSON: dicts, lists, texts, finite numbers, booleans and ``None``.

    Args:
        value: A result, number, text, ``None``, path, dtype, device, array, tensor or dataclass, or mappings
            and sequences of them. Arrays become nested lists. A number that JSON lacks becomes the text
            ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``, which ``float`` reads back.

    Raises:
        TypeError: If something else is inside; convert it first.
        ValueError: If two keys of a mapping are the same as texts.

    Example:
        >>> plain({"modulus": float("inf"), "shape": (2, 3)})
        {'modulus': 'Infinity', 'shape': [2, 3]}
    """
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _WORDS.get(float(value), "NaN")
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, Path | torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | range | set | frozenset):
        return [plain(part) for part in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return _named(value)
    expected = "numbers, texts, arrays, tensors, dataclasses, and mappings or sequences of them"
    raise bad_type(
        "value", expected=expected, got=type(value).__name__, cure="Convert it before it is written."
    )


def _named(value: Mapping[Any, Any]) -> dict[str, Any]:
    named = {str(key): plain(part) for key, part in value.items()}
    if len(named) < len(value):
        expected, got = "a mapping whose keys differ as strings", f"the keys {list(value)}"
        raise bad_value("value", expected=expected, got=got, cure="JSON has string keys only: rename one.")
    return named


def _cell(value: Any) -> str:
    """A short text of a field; empty for what has no short one."""
    if isinstance(value, Tensor):
        return f"{value.item():.4g}" if value.numel() == 1 else f"tensor of shape {tuple(value.shape)}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Result):
        return repr(value)
    if isinstance(value, bool | int | Enum):
        return str(value)
    return str(value) if isinstance(value, str) and len(value) <= 200 else ""
