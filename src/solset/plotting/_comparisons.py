"""Before beside after: losses, and predictions with what happened."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from solset.plotting._style import (
    DASHES,
    MUTED,
    ROLE_COLOURS,
    Values,
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
def bars_before_after(
    labels: Sequence[str],
    groups: Mapping[str, Values],
    *,
    ylabel: str = "loss",
    title: str = "",
) -> Figure:
    """Losses side by side on a logarithmic axis, each with its number.

    Args:
        labels: One name per cluster of bars, such as ``("moved points", "all points")``.
        groups: Groups by name, with one value per label, such as ``"clean"`` and ``"estimate"``.
        ylabel: Name of the vertical axis, with its unit.
        title: Text above the axes; none by default.
    """
    figure, axes = new_figure(7.2, 4.0)
    place = np.arange(len(labels))
    heights = {group: same_length(group, values, 0.0 * place)[0] for group, values in groups.items()}
    axes.set(xticks=place, ylabel=ylabel)
    axes.set_xticklabels(list(labels))
    axes.grid(visible=False, axis="x")
    axes.set_title(title, pad=28)  # above the legend
    values = np.concatenate([np.empty(0), *heights.values()])
    drawn = values[np.isfinite(values) & (values > 0)]
    if not len(drawn):
        return empty_axes(figure, axes)
    floor = 10.0 ** math.floor(math.log10(drawn.min()) - 0.3)
    axes.set(yscale="log", ylim=(floor, 10.0 ** (math.log10(drawn.max()) + 0.45)))
    colour, width = colours_of(list(groups)), 0.8 / len(groups)
    for order, (group, height) in enumerate(heights.items()):
        shifted = place + (order - (len(groups) - 1) / 2) * width
        tops = np.where(np.isfinite(height) & (height > 0), height, floor)
        axes.bar(shifted, tops, 0.92 * width, color=colour[group], label=group)
        _write_values(axes, shifted, tops, height)
    spacing = {"columnspacing": 1.4, "handlelength": 1.0}
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(groups), **spacing)
    return figure


def _write_values(axes: Axes, x: np.ndarray, tops: np.ndarray, values: np.ndarray) -> None:
    """Each value above its bar; where there is no bar, above the axis."""
    for left, top, value in zip(x, tops, values, strict=True):
        text = number_text(float(value), ".2g")
        axes.annotate(text, (left, top), (0, 3), textcoords="offset points", ha="center", fontsize=8)


@styled
def scatter_agreement(
    predicted: Values,
    actual: Values,
    *,
    correlation: float | None = None,
    xlabel: str = "predicted",
    ylabel: str = "by retraining",
    title: str = "",
) -> Figure:
    """Predictions against what happened, with the line on which they agree.

    Args:
        predicted: Values that were predicted, ``(k,)``.
        actual: Values that came about, ``(k,)``, in the same unit.
        correlation: Correlation to write into the figure, with the number of points; none by default.
        xlabel: Name of the horizontal axis, with its unit.
        ylabel: Name of the vertical axis, with its unit.
        title: Text above the axes; none by default.
    """
    figure, axes = new_figure(5.6, 5.0)
    points = np.stack(same_length("actual", predicted, actual))
    shown = np.asarray(np.isfinite(points).all(axis=0))
    note(figure, unshown({"the points": (points, shown)}))
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if not shown.any():
        return empty_axes(figure, axes)
    low, high = points[:, shown].min(), points[:, shown].max()
    pad = 0.06 * (high - low) or 1.0
    ends = [low - pad, high + pad]
    axes.plot(ends, ends, color=ROLE_COLOURS["clean"], linewidth=1, linestyle=DASHES[1])
    axes.scatter(
        *points[:, shown],
        s=24,
        color=ROLE_COLOURS["estimate"],
        alpha=0.75,
        linewidths=0.5,
        edgecolors="white",
    )
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    count = int(shown.sum())
    facts = f"{number_text(count)} points" if count > 1 else "1 point"
    facts += "" if correlation is None else f"\ncorrelation {number_text(correlation)}"
    axes.text(
        0.03,
        0.97,
        f"{facts}\ndashed: agreement",
        transform=axes.transAxes,
        va="top",
        linespacing=1.5,
        color=MUTED,
    )
    return figure
