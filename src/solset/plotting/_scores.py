"""The figure of predictors that were judged: scores with their intervals, beside what chance leaves."""

from collections.abc import Sequence
from math import isfinite
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from solset.plotting._style import (
    MUTED,
    ROLE_COLOURS,
    Values,
    empty_axes,
    new_figure,
    note,
    number_text,
    styled,
)

LINE = 24  # letters in a line of a name


@styled
def scores_with_intervals(
    labels: Sequence[str], scores: Values, low: Values, high: Values, *, ceiling: float = float("nan")
) -> Figure:
    """One row for each predictor, from the top down: its score with an interval, and a line for the ceiling.

    A predictor without a score is named below the axis.

    Args:
        labels: One name for each predictor, the best first.
        scores: Score of each predictor, from -1 to 1.
        low: Lower end of the interval of each score.
        high: Upper end of the interval of each score.
        ceiling: Score of half of the seeds as a prediction of the others; no line where it is not a number.
    """
    values, ends = np.asarray(scores, dtype=float), np.asarray([low, high], dtype=float)
    has_score = np.isfinite(values)
    shown = [label for label, has in zip(labels, has_score, strict=True) if has]
    xlabel = "rank correlation with real retraining"
    size = 7.2, 1.2 + 0.4 * max(3, len(shown))
    figure, axes = new_figure(*size, xlabel=xlabel, ylabel="predictor")
    if not shown:
        return empty_axes(figure, axes)
    rows = np.arange(len(shown))
    axes.axvline(0, color=MUTED, linewidth=0.8)
    if isfinite(ceiling):
        axes.axvline(ceiling, color=MUTED, linestyle="--", linewidth=1.2)
        top = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "bottom", "fontsize": 8}
        axes.annotate("half of the seeds against the others", (ceiling, 1.02), color=MUTED, **top)
    axes.hlines(rows, *ends[:, has_score], color=ROLE_COLOURS["estimate"], linewidth=2)
    axes.plot(values[has_score], rows, "o", color=ROLE_COLOURS["estimate"], markersize=7)
    for row, value, end in zip(rows, values[has_score], ends[1][has_score], strict=True):
        place = {"textcoords": "offset points", "va": "center", "fontsize": 7.5}
        axes.annotate(number_text(float(value), ".2f"), (max(value, end), row), (7, 0), **place)
    axes.set_yticks(rows, [fill(label, LINE) for label in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)  # the best on top
    axes.set_xlim(min(-0.1, *(ends[0][has_score] - 0.05)), 1.1)
    if missing := [label for label, has in zip(labels, has_score, strict=True) if not has]:
        note(figure, f"without a score: {', '.join(missing)}")
    return figure
