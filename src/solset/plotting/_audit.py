"""Which training points move a model most, and by which of their features."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Num
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from solset.errors import bad_value
from solset.plotting._style import (
    DASHES,
    MARKERS,
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
def ranking_bars(
    labels: Sequence[str], columns: Mapping[str, Values], *, xlabel: str, title: str = ""
) -> Figure:
    """One row of bars for each point, from the top down, on a logarithmic axis.

    Args:
        labels: One name for each point, most sensitive first.
        columns: Columns by name, with one value for each point.
        xlabel: Name of the horizontal axis, with its unit.
        title: Text above the axes; none by default.
    """
    figure, axes = new_figure(7.2, 0.9 + 0.32 * max(3, len(labels)))
    place = np.arange(len(labels), dtype=float)
    lengths = {name: same_length(name, values, place)[0] for name, values in columns.items()}
    values = np.concatenate([np.empty(0), *lengths.values()])
    drawn = values[np.isfinite(values) & (values > 0)]
    axes.set_title(title, pad=26)
    if not len(drawn):
        return empty_axes(figure, axes)
    floor, ceiling = 0.6 * drawn.min(), 1.9 * drawn.max()
    colours, height = colours_of(list(columns)), 0.8 / max(1, len(columns))
    for order, (name, widths) in enumerate(lengths.items()):
        here = place + (order - (len(lengths) - 1) / 2) * height
        ends = np.where(np.isfinite(widths) & (widths > 0), widths, np.where(widths > 0, ceiling, floor))
        axes.barh(here, ends - floor, 0.9 * height, left=floor, color=colours[name], label=name)
        for y, end, value in zip(here, ends, widths, strict=True):
            text = number_text(float(value), ".3g")
            axes.annotate(text, (end, y), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set(xscale="log", xlim=(floor, ceiling * 1.5), xlabel=xlabel, yticks=place)
    _tick_by_numbers(axes.xaxis)
    axes.set_yticklabels(list(labels))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(columns), handlelength=1.0)
    return figure


@styled
def sorted_values(columns: Mapping[str, Values], *, xlabel: str, ylabel: str, title: str = "") -> Figure:
    """Every column from its largest value to its smallest: how unequal the points are.

    Args:
        columns: Values by the name of their column.
        xlabel: Name of what is counted.
        ylabel: Name of the vertical axis, with its unit.
        title: Text above the axes; none by default.
    """
    figure, axes = new_figure(7.2, 3.8)
    colours, left_out = colours_of(list(columns)), {}
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale="log")
    is_empty = True
    for order, (name, values) in enumerate(columns.items()):
        ordered = np.sort(np.asarray(values, float))[::-1]
        shown = np.isfinite(ordered) & (ordered > 0)
        left_out[name] = (ordered, shown)
        is_empty = is_empty and not shown.any()
        rank = np.arange(1, len(ordered) + 1)
        marker = MARKERS[order % len(MARKERS)] if len(ordered) <= 60 else None
        style = {"linestyle": DASHES[order % len(DASHES)], "marker": marker, "markersize": 3}
        axes.plot(rank[shown], ordered[shown], color=colours[name], label=name, **style)
    note(figure, unshown(left_out))
    if is_empty:
        axes.set_yscale("linear")
        return empty_axes(figure, axes)
    _tick_by_numbers(axes.yaxis)
    axes.legend(loc="upper right")
    return figure


@styled
def sensitivity_maps(
    images: Num[np.ndarray, "..."], maps: Num[np.ndarray, "..."], captions: Sequence[str], *, title: str = ""
) -> Figure:
    """Images above the maps of their pixels: how far the weights go per unit change of each pixel.

    Args:
        images: Images ``(k, height, width)`` in grey, or ``(k, height, width, 3)``, of any range.
        maps: Maps ``(k, height, width)`` without negative entries; each is drawn on its own scale, from 0.
        captions: One text per image, in order.
        title: Text above the images; none by default.

    Raises:
        ValueError: If shapes or the number of captions differ, or there is no image.
    """
    if (
        images.ndim not in {3, 4}
        or images.shape[:3] != maps.shape
        or len(captions) != len(images)
        or not len(maps)
    ):
        raise bad_value(
            "images",
            expected="(k, height, width) or (k, height, width, 3) with k > 0, a map and a caption for each",
            got=f"{images.shape}, {maps.shape} and {len(captions)} captions",
            cure="Sum the maps over colours.",
        )
    count = len(images)
    figure = Figure(figsize=(max(1.2 * count + 0.9, 3.2), 3.1), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
    grid = figure.subplots(2, count, squeeze=False)
    for column, (image, pixels, caption) in enumerate(zip(images, maps, captions, strict=True)):
        low, high = float(image.min()), float(image.max())
        scaled = (image - low) / ((high - low) or 1.0)
        shown = np.where(np.isfinite(pixels), pixels, np.nan)
        top = float(np.nanmax(shown)) if np.isfinite(shown).any() else 1.0
        grid[0][column].imshow(scaled, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        grid[1][column].imshow(shown, cmap="magma", vmin=0.0, vmax=top or 1.0, interpolation="nearest")
        grid[0][column].set_title(caption, loc="center", fontsize=8.5, pad=4)
        grid[1][column].set_xlabel(f"0 … {number_text(top, '.2g')}", fontsize=7.5)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
    grid[0][0].set_ylabel("image")
    grid[1][0].set_ylabel("map")
    return figure


def _tick_by_numbers(axis: Axis) -> None:
    """Writes out the ticks of a logarithmic axis, at 1, 2 and 5 where powers of ten would be few."""
    low, high = sorted(axis.get_view_interval())
    subs = (1.0, 2.0, 5.0) if math.log10(high / low) < 2.5 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_text(float(value))))
    axis.set_minor_formatter(NullFormatter())
