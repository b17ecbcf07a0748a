"""What happens along a path."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from solset.plotting._style import (
    DASHES,
    MARKERS,
    MUTED,
    Curve,
    colours_of,
    empty_axes,
    new_figure,
    note,
    same_length,
    styled,
    unshown,
)


@styled
def course_losses(
    curves: Mapping[str, Curve],
    *,
    stop: float | None = None,
    xlabel: str = "share of the perturbation",
    ylabel: str = "loss per example; distance in weight units",
    title: str = "",
) -> Figure:
    """Quantities along a path, on a logarithmic axis.

    Args:
        curves: Curves by name, as points ``(place, value)``.
        stop: Place where the path stopped early; ``None`` if it reached its end.
        xlabel: Name of the horizontal axis, with its unit.
        ylabel: Name of the vertical axis, with its unit.
        title: Text above the axes; none by default.
    """
    figure, axes = new_figure(7.2, 4.2)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    points = {label: np.stack(same_length(label, x, y)) for label, (x, y) in curves.items()}
    shown = {
        label: np.asarray(np.isfinite(both).all(axis=0) & (both[1] > 0)) for label, both in points.items()
    }
    note(figure, unshown({label: (both[1], shown[label]) for label, both in points.items()}))
    if not any(mask.any() for mask in shown.values()):
        return empty_axes(figure, axes)
    axes.set(yscale="log")
    colour = colours_of(list(curves))
    for order, (label, both) in enumerate(points.items()):
        if shown[label].any():
            axes.plot(
                *both[:, shown[label]],
                label=label,
                color=colour[label],
                linestyle=DASHES[order % len(DASHES)],
                marker=MARKERS[order % len(MARKERS)],
                markersize=4,
            )
    if stop is not None:
        axes.axvline(stop, color=MUTED, linewidth=1, label=f"stopped at {stop:.4g}")
    axes.legend(loc="best")
    return figure
