"""Figures of numbers on logarithmic axes: curves over steps and costs, agreement, and marks beside names.

A bar says its value by its length from zero, and a logarithmic axis has no zero: numbers are marks here.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from solset.plotting._labels import label_places
from solset.plotting._style import (
    DASHES,
    MARKERS,
    MUTED,
    ROLE_COLOURS,
    Curve,
    Values,
    colours_of,
    empty_axes,
    new_figure,
    note,
    number_text,
    same_length,
    styled,
    tick_by_numbers,
    unshown,
)

_WEIGHT_ERROR = "relative error of the weight change"


@styled
def error_against_step(series: Mapping[str, Curve], *, ylabel: str = _WEIGHT_ERROR) -> Figure:
    """Errors against the size of the perturbation, on logarithmic axes, every line named at its end.

    Args:
        series: Lines by name, as points ``(x, y)``; the names in ``ROLE_COLOURS`` have their colours.
        ylabel: Name of the vertical axis, with its unit.
    """
    figure, drawn = _named_lines(series, "step (% of the input norm)", ylabel)
    if drawn:
        _tick_at(figure.axes[0], np.unique(np.concatenate([points[0] for points in drawn.values()])))
    return figure


@styled
def error_against_cost(curves: Mapping[str, Curve]) -> Figure:
    """What accuracy costs, on logarithmic axes; a method that has one cost is one point.

    Args:
        curves: Curves by name, as points ``(cost, error)``.
    """
    return _named_lines(curves, "cost (gradients of the risk)", _WEIGHT_ERROR)[0]


@styled
def station_losses(
    stations: Sequence[Mapping[str, Any]], *, stop: float | None = None, title: str = ""
) -> Figure:
    """The losses and the distance travelled along a path, on a logarithmic axis.

    Args:
        stations: Rows of a course, one for each station.
        stop: Place where the path stopped early; ``None`` if it reached its end.
        title: Text above the axes; none by default.
    """
    names = {"xlabel": "share of the perturbation", "ylabel": "loss per example; distance in weight units"}
    figure, axes = new_figure(7.2, 4.2, title=title, **names)
    columns = {"moved points": "moved_loss", "all points": "all_loss", "distance travelled": "length"}
    places = [station["place"] for station in stations]
    curves = {text: (places, [station[name] for station in stations]) for text, name in columns.items()}
    if _draw(figure, axes, curves, markersize=4):
        if stop is not None:
            axes.axvline(stop, color=MUTED, linewidth=1, label=f"stopped at {stop:.4g}")
        axes.legend(loc="best")
    return figure


@styled
def sorted_values(columns: Mapping[str, Values], *, xlabel: str, ylabel: str) -> Figure:
    """Every column from its largest value to its smallest: how unequal the points are.

    Args:
        columns: Values by the name of their column.
        xlabel: Name of the horizontal axis, which counts.
        ylabel: Name of the vertical axis, with its unit.
    """
    figure, axes = new_figure(7.2, 3.8, xlabel=xlabel, ylabel=ylabel)
    curves: dict[str, Curve] = {
        name: (np.arange(1.0, 1 + len(values)), np.sort(np.asarray(values, float))[::-1])
        for name, values in columns.items()
    }
    if _draw(figure, axes, curves, markersize=3, max_markers=60):
        tick_by_numbers(axes.yaxis)
        axes.legend(loc="upper right")
    return figure


@styled
def scatter_agreement(
    predicted: Values,
    actual: Values,
    *,
    correlation: float | None = None,
    xlabel: str = "predicted",
    ylabel: str = "by retraining",
) -> Figure:
    """Predictions against what happened, with the line on which they agree.

    Args:
        predicted: Values that were predicted, ``(k,)``.
        actual: Values that came about, ``(k,)``, in the same unit.
        correlation: Correlation to write into the figure, with the number of points; none by default.
        xlabel: Name of the horizontal axis, with its unit.
        ylabel: Name of the vertical axis, with its unit.
    """
    figure, axes = new_figure(5.6, 5.0, xlabel=xlabel, ylabel=ylabel)
    points = np.stack(same_length("actual", predicted, actual))
    shown = np.asarray(np.isfinite(points).all(axis=0))
    note(figure, unshown({"the points": (points, shown)}))
    if not shown.any():
        return empty_axes(figure, axes)
    low, high = points[:, shown].min(), points[:, shown].max()
    pad = 0.06 * (high - low) or 1.0
    ends = [low - pad, high + pad]
    axes.plot(ends, ends, color=ROLE_COLOURS["clean"], linewidth=1, linestyle=DASHES[1])
    dots = {"color": ROLE_COLOURS["estimate"], "edgecolors": "white", "linewidths": 0.5}
    axes.scatter(*points[:, shown], s=24, alpha=0.75, **dots)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))  # more labels would touch each other
    count = int(shown.sum())
    facts = f"{number_text(count)} points" if count > 1 else "1 point"
    facts += "" if correlation is None else f"\ncorrelation {number_text(correlation)}"
    text = f"{facts}\ndashed: agreement"
    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", linespacing=1.5, color=MUTED)
    return figure


def _draw(
    figure: Figure,
    axes: Axes,
    curves: Mapping[str, Curve],
    *,
    is_log_x: bool = False,
    max_markers: int | None = None,
    **style: Any,
) -> dict[str, Float[np.ndarray, "2 k"]]:
    """The points that are drawn, by curve; those that the axes cannot show are noted below them.

    The vertical axis is logarithmic, and the horizontal one where ``is_log_x``. A curve of more than
    ``max_markers`` points has no markers.
    """
    points = {label: np.stack(same_length(label, x, y)) for label, (x, y) in curves.items()}
    logarithmic = slice(0 if is_log_x else 1, 2)
    shown = {
        label: np.asarray(np.isfinite(both).all(axis=0) & (both[logarithmic] > 0).all(axis=0))
        for label, both in points.items()
    }
    note(figure, unshown({label: (both, shown[label]) for label, both in points.items()}))
    drawn = {label: both[:, shown[label]] for label, both in points.items() if shown[label].any()}
    if not drawn:
        empty_axes(figure, axes)
        return drawn
    axes.set(yscale="log", xscale="log" if is_log_x else "linear")
    colours = colours_of(list(curves))
    for order, label in enumerate(curves):
        if label in drawn:
            has_markers = max_markers is None or points[label].shape[1] <= max_markers
            form = {
                "linestyle": DASHES[order % len(DASHES)],
                "marker": MARKERS[order % len(MARKERS)] if has_markers else None,
                "color": colours[label],
            }
            axes.plot(*drawn[label], label=label, **form, **style)
    return drawn


def _named_lines(
    series: Mapping[str, Curve], xlabel: str, ylabel: str
) -> tuple[Figure, dict[str, Float[np.ndarray, "2 k"]]]:
    """The figure of lines on logarithmic axes, each named beside its last point, and the points drawn."""
    figure, axes = new_figure(7.2, 4.2, xlabel=xlabel, ylabel=ylabel)
    drawn = _draw(figure, axes, series, is_log_x=True, markeredgecolor="white", markeredgewidth=0.7)
    if not drawn:
        return figure, drawn
    for line in axes.lines:
        line.set_markersize(5 if len(line.get_xdata()) > 1 else 8)  # type: ignore[arg-type]
    _read_narrow_axis(axes)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    figure.draw_without_rendering()
    corners = {label: axes.transData.transform(both.T) * (72 / figure.dpi) for label, both in drawn.items()}
    text = {"va": "center", "path_effects": [patheffects.withStroke(linewidth=3, foreground="white")]}
    colours = colours_of(list(series))
    for label, place in label_places(corners).items():
        axes.annotate(
            label,
            drawn[label][:, -1].tolist(),
            xytext=place.offset,
            textcoords="offset points",
            ha=place.alignment,
            color=colours[label],
            annotation_clip=False,
            **text,
        )
    return figure, drawn


def _read_narrow_axis(axes: Axes) -> None:
    """Round numbers on an error axis that does not span a decade, where powers of ten say nothing."""
    low, high = np.log10(axes.get_ylim())
    if high - low < 1:
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(float(value), ".4g")))


def _tick_at(axes: Axes, x: Float[np.ndarray, " k"]) -> None:
    """Ticks at the values themselves, if they are few and far enough apart to be read."""
    low, high = np.log10(axes.get_xlim())
    if 2 <= len(x) <= 9 and np.diff(np.log10(x)).min() > 0.07 * (high - low):
        axes.xaxis.set_major_locator(FixedLocator(x.tolist()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(float(value))))


_Marks = tuple[str, Float[np.ndarray, " k"], Float[np.ndarray, " k"], dict[str, Any]]


@styled
def marks_before_after(
    labels: Sequence[str], groups: Mapping[str, Values], *, ylabel: str = "loss"
) -> Figure:
    """Losses side by side on a logarithmic axis, each a mark with its number.

    A value that the axis cannot show is a hollow mark at its lower end.

    Args:
        labels: One name per cluster of marks, such as ``("moved points", "all points")``.
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
    axes.set(
        yscale="log", ylim=(floor, 10.0 ** (math.log10(drawn.max()) + 0.45)), xlim=(-0.6, len(labels) - 0.4)
    )
    for name, place, values, form in _placed(heights, 0.5):
        can_show = np.isfinite(values) & (values > 0)
        tops = np.where(can_show, values, floor)
        axes.plot(place[can_show], tops[can_show], label=name, **form)
        axes.plot(place[~can_show], tops[~can_show], clip_on=False, **{**form, "markerfacecolor": "white"})
        for left, top, value in zip(place, tops, values, strict=True):
            text = number_text(float(value), ".2g")
            axes.annotate(text, (left, top), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    spacing = {"columnspacing": 1.4, "handlelength": 1.0}
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(groups), **spacing)
    return figure


@styled
def ranking_marks(labels: Sequence[str], columns: Mapping[str, Values], *, xlabel: str) -> Figure:
    """One row of marks for each point, from the top down, on a logarithmic axis.

    A value that the axis cannot show is a hollow mark at its end.

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
    for name, place, values, form in _placed(lengths, 0.8):
        can_show = np.isfinite(values) & (values > 0)
        ends = np.where(can_show, values, np.where(values > 0, ceiling, floor))
        axes.plot(ends[can_show], place[can_show], label=name, **form)
        axes.plot(ends[~can_show], place[~can_show], clip_on=False, **{**form, "markerfacecolor": "white"})
        for y, end, value in zip(place, ends, values, strict=True):
            text = number_text(float(value), ".3g")
            axes.annotate(text, (end, y), (7, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set(xscale="log", xlim=(floor, ceiling * 1.5))
    tick_by_numbers(axes.xaxis)
    axes.set_yticks(np.arange(len(labels)), list(labels))
    axes.set_ylim(len(labels) - 0.4, -0.6)  # the first on top
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(columns), handlelength=1.0)
    return figure


def _lengths(
    groups: Mapping[str, Values], count: int
) -> tuple[dict[str, Float[np.ndarray, " k"]], Float[np.ndarray, " d"]]:
    """The values by group, and those of all groups that a logarithmic axis can show."""
    lengths = {name: same_length(name, values, np.zeros(count))[0] for name, values in groups.items()}
    values = np.concatenate([np.empty(0), *lengths.values()])
    return lengths, values[np.isfinite(values) & (values > 0)]


def _placed(lengths: Mapping[str, Float[np.ndarray, " k"]], share: float) -> Iterator[_Marks]:
    """Name, places, values and form of each group; the marks of one label share a part of its space."""
    colours, width = colours_of(list(lengths)), share / len(lengths)
    for order, (name, values) in enumerate(lengths.items()):
        form = {
            "color": colours[name],
            "marker": MARKERS[order % len(MARKERS)],
            "markersize": 7,
            "linestyle": "",
        }
        yield name, np.arange(len(values)) + (order - (len(lengths) - 1) / 2) * width, values, form
