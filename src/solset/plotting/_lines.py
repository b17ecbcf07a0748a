"""Errors against the size of a perturbation or the cost of a method."""

from collections.abc import Mapping

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
    Curve,
    colours_of,
    empty_axes,
    new_figure,
    note,
    number_text,
    same_length,
    styled,
    unshown,
)


@styled
def error_against_step(
    series: Mapping[str, Curve],
    *,
    xlabel: str = "step (% of the input norm)",
    ylabel: str = "relative error of the weight change",
    title: str = "",
) -> Figure:
    """Errors against the size of the perturbation, on logarithmic axes, every line named at its end.

    Args:
        series: Lines by name, as points ``(x, y)``; the names in ``ROLE_COLOURS`` have their colours.
        xlabel: Name of the horizontal axis, with its unit.
        ylabel: Name of the vertical axis, with its unit.
        title: Text above the axes; none by default.
    """
    figure, drawn = _log_lines(series, xlabel, ylabel, title)
    if drawn:
        _tick_at(figure.axes[0], np.unique(np.concatenate([points[0] for points in drawn.values()])))
    return figure


@styled
def error_against_cost(
    curves: Mapping[str, Curve],
    *,
    xlabel: str = "cost (gradients of the risk)",
    ylabel: str = "relative error of the weight change",
    title: str = "",
) -> Figure:
    """What accuracy costs, on logarithmic axes; a method that has one cost is one point.

    Args:
        curves: Curves by name, as points ``(cost, error)``.
        xlabel: Name of the horizontal axis, with its unit.
        ylabel: Name of the vertical axis, with its unit.
        title: Text above the axes; none by default.
    """
    return _log_lines(curves, xlabel, ylabel, title)[0]


def _log_lines(
    series: Mapping[str, Curve], xlabel: str, ylabel: str, title: str
) -> tuple[Figure, dict[str, Float[np.ndarray, "2 k"]]]:
    """The figure, and of every line the points that logarithmic axes can show."""
    figure, axes = new_figure(7.2, 4.2)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    points = {label: np.stack(same_length(label, x, y)) for label, (x, y) in series.items()}
    shown = {
        label: np.asarray((np.isfinite(both) & (both > 0)).all(axis=0)) for label, both in points.items()
    }
    note(figure, unshown({label: (both, shown[label]) for label, both in points.items()}))
    drawn = {label: both[:, shown[label]] for label, both in points.items() if shown[label].any()}
    if not drawn:
        return empty_axes(figure, axes), drawn
    axes.set(xscale="log", yscale="log")
    colour = colours_of(list(series))
    for order, label in enumerate(series):
        if label in drawn:
            axes.plot(
                *drawn[label],
                color=colour[label],
                linestyle=DASHES[order % len(DASHES)],
                marker=MARKERS[order % len(MARKERS)],
                markersize=5 if drawn[label].shape[1] > 1 else 8,
                markeredgecolor="white",
                markeredgewidth=0.7,
            )
    _read_narrow_axis(axes)
    _name_lines(figure, axes, drawn, colour)
    return figure, drawn


def _name_lines(
    figure: Figure, axes: Axes, lines: Mapping[str, Float[np.ndarray, "2 k"]], colour: Mapping[str, str]
) -> None:
    """Every line's name beside its last point, where it covers least."""
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    figure.draw_without_rendering()
    to_points = 72 / figure.dpi
    drawn = {label: axes.transData.transform(both.T) * to_points for label, both in lines.items()}
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for label, place in label_places(drawn).items():
        axes.annotate(
            label,
            lines[label][:, -1].tolist(),
            xytext=place.offset,
            textcoords="offset points",
            ha=place.alignment,
            va="center",
            color=colour[label],
            path_effects=halo,
            annotation_clip=False,
        )


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
