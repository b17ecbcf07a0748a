"""Bars on a logarithmic axis, each with its number: losses before and after, and points by their modulus."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from solset.plotting._style import (
    Values,
    colours_of,
    empty_axes,
    new_figure,
    number_text,
    same_length,
    styled,
    tick_by_numbers,
)

_Bars = tuple[str, str, Float[np.ndarray, " k"], Float[np.ndarray, " k"]]


@styled
def bars_before_after(labels: Sequence[str], groups: Mapping[str, Values], *, ylabel: str = "loss") -> Figure:
    """Losses side by side on a logarithmic axis, each with its number.

    Args:
        labels: One name per cluster of bars, such as ``("moved points", "all points")``.
        groups: Groups by name, with one value per label, such as ``"clean"`` and ``"estimate"``.
        ylabel: Name of the vertical axis, with its unit.
    """
    figure, axes = new_figure(7.2, 4.0, ylabel=ylabel)
    heights, drawn = _lengths(groups, len(labels))
    axes.set_xticks(np.arange(len(labels)), list(labels))
    axes.grid(visible=False, axis="x")
    if not len(drawn):
        return empty_axes(figure, axes)
    floor = 10.0 ** math.floor(math.log10(drawn.min()) - 0.3)
    axes.set(yscale="log", ylim=(floor, 10.0 ** (math.log10(drawn.max()) + 0.45)))
    for name, colour, place, values in _placed(heights):
        tops = np.where(np.isfinite(values) & (values > 0), values, floor)
        axes.bar(place, tops, 0.92 * 0.8 / len(groups), color=colour, label=name)
        for left, top, value in zip(place, tops, values, strict=True):
            text = number_text(float(value), ".2g")
            axes.annotate(text, (left, top), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    spacing = {"columnspacing": 1.4, "handlelength": 1.0}
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(groups), **spacing)
    return figure


@styled
def ranking_bars(labels: Sequence[str], columns: Mapping[str, Values], *, xlabel: str) -> Figure:
    """One row of bars for each point, from the top down, on a logarithmic axis.

    Args:
        labels: One name for each point, most sensitive first.
        columns: Columns by name, with one value for each point.
        xlabel: Name of the horizontal axis, with its unit.
    """
    figure, axes = new_figure(7.2, 0.9 + 0.32 * max(3, len(labels)), xlabel=xlabel)
    lengths, drawn = _lengths(columns, len(labels))
    if not len(drawn):
        return empty_axes(figure, axes)
    floor, ceiling = 0.6 * drawn.min(), 1.9 * drawn.max()
    for name, colour, place, values in _placed(lengths):
        ends = np.where(np.isfinite(values) & (values > 0), values, np.where(values > 0, ceiling, floor))
        axes.barh(place, ends - floor, 0.9 * 0.8 / len(columns), left=floor, color=colour, label=name)
        for y, end, value in zip(place, ends, values, strict=True):
            text = number_text(float(value), ".3g")
            axes.annotate(text, (end, y), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set(xscale="log", xlim=(floor, ceiling * 1.5))
    tick_by_numbers(axes.xaxis)
    axes.set_yticks(np.arange(len(labels)), list(labels))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(columns), handlelength=1.0)
    return figure


def _lengths(
    groups: Mapping[str, Values], count: int
) -> tuple[dict[str, Float[np.ndarray, " k"]], Float[np.ndarray, " d"]]:
    """The values by group, and those of all groups that a logarithmic axis can show."""
    lengths = {name: same_length(name, values, np.zeros(count))[0] for name, values in groups.items()}
    values = np.concatenate([np.empty(0), *lengths.values()])
    return lengths, values[np.isfinite(values) & (values > 0)]


def _placed(lengths: Mapping[str, Float[np.ndarray, " k"]]) -> Iterator[_Bars]:
    """Name, colour, places and values of each group; the bars of one label stand side by side."""
    colours, width = colours_of(list(lengths)), 0.8 / len(lengths)
    for order, (name, values) in enumerate(lengths.items()):
        yield name, colours[name], np.arange(len(values)) + (order - (len(lengths) - 1) / 2) * width, values
