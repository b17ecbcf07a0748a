"""Slices of the loss: as a surface, as contours, as a line, with the solutions marked in them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d import Axes3D

from solset.landscapes import Landscape, Mark
from solset.plotting._landscape_parts import (
    PALE,
    Scale,
    ShownMark,
    grid_values,
    name_axes,
    quantity,
    remarks,
    scale_of,
    shown_marks,
    tick_text,
)
from solset.plotting._style import DASHES, MUTED, colours_of, empty_axes, new_figure, note, styled

_COLOURS = "YlGnBu"  # rises in darkness only, and is pale where the solutions lie


@styled
def landscape_contour(
    landscape: Landscape, marks: Sequence[Mark] | None = None, *, subset: str = "all", title: str = ""
) -> Figure:
    """The loss over the plane as filled contours, seen from above, with the marks at their projections.

    Args:
        landscape: Loss over a plane of weights.
        marks: Marks to draw; the landscape's own by default, ``()`` for none.
        subset: Name of the points whose loss is drawn.
        title: Text above the axes; by default the name of what is shown.

    Raises:
        ValueError: If the landscape is over a line, or has no such subset.
    """
    values = grid_values(landscape, subset, axes=2)
    x, y = (axis.numpy() for axis in landscape.coordinates)
    figure, axes = new_figure(7.4, 5.6)
    scale = scale_of(values)
    name_axes(axes, landscape, subset, title)
    shown = shown_marks(landscape, marks, subset)
    note(figure, remarks(landscape, subset, scale, shown))
    if scale is None:
        return empty_axes(figure, axes)
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axes.grid(visible=False)
    if not np.isfinite(values).all():
        axes.set_facecolor(PALE)
    levels, colours = scale.levels(), colormaps[_COLOURS]
    held = np.ma.masked_invalid(scale.held(values)).T
    filled = axes.contourf(x, y, held, levels, cmap=colours, norm=scale.norm())
    axes.contour(x, y, held, levels, colors="white", linewidths=0.5)
    bar = figure.colorbar(filled, ax=axes, location="bottom", shrink=0.8, aspect=42, pad=0.03)
    bar.set_label(quantity(landscape, subset, scale))
    ticks = scale.ticks().tolist()
    bar.set_ticks(ticks, labels=[tick_text(tick) for tick in ticks])
    bar.minorticks_off()
    for order, mark in enumerate(shown):  # the first lies on top
        axes.scatter(*mark.places.T, label=mark.label, **mark.style, linewidths=1.1, zorder=5 - 0.01 * order)
    _legend(axes, has_hole=not np.isfinite(values).all())
    return figure


@styled
def landscape_surface(
    landscape: Landscape,
    marks: Sequence[Mark] | None = None,
    *,
    subset: str = "all",
    title: str = "",
    view: tuple[int | float, int | float] = (34, -58),
) -> Figure:
    """The loss over the plane as a surface, with contours on the floor and the marks at their own loss.

    A mark stands on a stem from its projection on the floor and is drawn over the surface, so that none is
    hidden. A mark off the plane need not touch the surface: its loss is that of the weights themselves.

    The axis of the loss is logarithmic, and says so, if the loss spans two decades. Arguments are those of
    :func:`landscape_contour`, and one more.

    Args:
        landscape: Loss over a plane of weights.
        marks: Marks to draw, as for a contour.
        subset: Name of the points whose loss is drawn.
        title: Text above the axes, as for a contour.
        view: Elevation and azimuth of the eye, in degrees.
    """
    values = grid_values(landscape, subset, axes=2)
    scale, shown = scale_of(values), shown_marks(landscape, marks, subset)
    said = remarks(landscape, subset, scale, shown)
    if scale is None:
        figure, empty = new_figure(7.0, 5.3)
        note(figure, said)
        return empty_axes(figure, empty)
    figure, axes = _surface_page(said, shown)
    _draw_surface(axes, landscape, values, scale)
    name_axes(axes, landscape, subset, title)
    axes.set_xlabel(axes.get_xlabel().replace(" (", "\n("))
    axes.set_ylabel(axes.get_ylabel().replace(" (", "\n("))
    axes.set_zlabel(quantity(landscape, subset, scale).replace(", ", ",\n", 1), labelpad=16)
    for order, mark in enumerate(shown):  # the first lies on top
        _plant(axes, mark, scale.height(mark.heights), zorder=9 - 0.01 * order)
    axes.view_init(*view)
    if shown:
        place = (0.5, _note_height(said) / figure.get_figheight())
        figure.legend(loc="lower center", bbox_to_anchor=place, borderaxespad=0, ncols=2, columnspacing=2.5)
    return figure


@styled
def landscape_line(
    landscape: Landscape,
    marks: Sequence[Mark] | None = None,
    *,
    subsets: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """The loss along one direction, a line for each subset, with the marks on the first of them.

    Args:
        landscape: Loss over a line of weights.
        marks: Marks to draw; the landscape's own by default, ``()`` for none.
        subsets: Names of the points whose losses are drawn; all by default.
        title: Text above the axes; by default the name of what is shown.

    Raises:
        ValueError: If the landscape is over a plane, or has no such subset.
    """
    names = list(landscape.values) if subsets is None else list(subsets)
    lines = {name: grid_values(landscape, name, axes=1) for name in names}
    figure, axes = new_figure(7.0, 4.8)
    scale = scale_of(np.stack(list(lines.values())))
    name_axes(axes, landscape, names[0], title or f"Loss along {next(iter(landscape.plane.axes))}")
    shown = shown_marks(landscape, marks, names[0])
    note(
        figure, " ".join(remarks(landscape, name, scale, shown if name == names[0] else []) for name in names)
    )
    if scale is None:
        return empty_axes(figure, axes)
    x, colours = landscape.coordinates[0].numpy(), colours_of(names)
    for order, (name, values) in enumerate(lines.items()):
        held = np.ma.masked_invalid(scale.held(values))
        colour, dash = "#0B62B0" if order == 0 else colours[name], DASHES[order % len(DASHES)]
        axes.plot(x, held, color=colour, linestyle=dash, label=landscape.quantities[name])
    axes.set(xlim=(x[0], x[-1]), yscale="log" if scale.is_log else "linear")
    axes.set_ylabel("loss, logarithmic" if scale.is_log else "loss")
    for order, mark in enumerate(shown):
        points = np.column_stack([mark.places[:, 0], scale.held(mark.heights)])
        axes.scatter(*points.T, label=mark.label, **mark.style, linewidths=1.1, zorder=5 - 0.01 * order)
    figure.legend(loc="outside lower center", ncols=2, columnspacing=2.5)
    return figure


def _note_height(said: str) -> float:
    """Inches below the legend."""
    return 0.14 + 0.15 * len(said.splitlines())


def _surface_page(said: str, shown: Sequence[ShownMark]) -> tuple[Figure, Axes3D]:
    """A page with the remarks, and axes with room below for a legend of two columns.

    Placed by hand: automatic layout does not know how far the slanted labels of three axes reach.
    """
    half = (len(shown) + 1) // 2
    lines = [mark.label.count("\n") + 1 for mark in shown]
    legend = 0.16 * max(sum(lines[:half]), sum(lines[half:])) + 0.08 * half  # inches
    below = _note_height(said) + legend
    height = below + 5.45
    figure, flat = new_figure(7.0, height)
    flat.remove()
    figure.set_layout_engine("none")
    note(figure, said)
    axes = figure.add_subplot(projection="3d", computed_zorder=False)
    axes.set_position((0.01, (below + 0.55) / height, 0.88, 4.5 / height))
    return figure, axes


def _draw_surface(axes: Axes3D, landscape: Landscape, values: Float[np.ndarray, "r r"], scale: Scale) -> None:
    """The surface, its contours on the floor below it, and the axis of the loss."""
    across, up = np.meshgrid(*(axis.numpy() for axis in landscape.coordinates), indexing="ij")
    heights, norm = scale.height(values), scale.norm()
    low, high = float(np.nanmin(heights)), float(np.nanmax(heights))
    span = high - low or 1.0
    floor = low - 0.3 * span
    shades = colormaps[_COLOURS](norm(np.nan_to_num(scale.held(values), nan=scale.low)))
    options = {"rstride": 1, "cstride": 1, "shade": False, "antialiased": True}
    axes.plot_surface(
        across, up, heights, facecolors=shades, edgecolor=(0.2, 0.3, 0.4, 0.22), linewidth=0.25, **options
    )
    levels = np.log10(scale.levels()) if scale.is_log else scale.levels()
    axes.contour(
        across,
        up,
        np.ma.masked_invalid(heights),
        levels,
        offset=floor,
        colors=MUTED,
        linewidths=0.6,
        linestyles="solid",
        zorder=0,
    )
    axes.set(xlim=(across[0, 0], across[-1, 0]), ylim=(up[0, 0], up[0, -1]), zlim=(floor, high + 0.04 * span))
    ticks = scale.ticks()
    axes.zaxis.set_ticks(scale.height(ticks).tolist(), labels=[tick_text(tick) for tick in ticks])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
    axes.tick_params(pad=1)
    axes.zaxis.set_tick_params(pad=6)
    axes.xaxis.labelpad = axes.yaxis.labelpad = 12
    axes.set_box_aspect((1.25, 1.25, 0.85))


def _plant(axes: Axes3D, mark: ShownMark, heights: Float[np.ndarray, " k"], *, zorder: float) -> None:
    """The marks at their heights, each on a stem from its place on the floor, over the surface."""
    floor, top = axes.get_zlim()
    colour, (across, up), ends = mark.style["color"], mark.places.T, np.clip(heights, floor, top)
    for s, t, height in zip(across, up, ends, strict=True):
        axes.plot([s, s], [t, t], [floor, height], color=colour, linewidth=1, linestyle=":", zorder=7)
    dots = {"color": colour, "linestyle": "none", "markeredgecolor": "white"}
    axes.plot(across, up, np.full(len(ends), floor), marker="o", markersize=4, zorder=7, **dots)
    form = {"marker": mark.style["marker"], "markersize": mark.style["s"] ** 0.5 + 0.8}
    axes.plot(across, up, ends, label=mark.label, markeredgewidth=1.1, zorder=zorder, **form, **dots)


def _legend(axes: Axes, *, has_hole: bool) -> None:
    """Beside the picture, where it covers nothing."""
    handles, _ = axes.get_legend_handles_labels()
    if has_hole:
        handles.append(Patch(facecolor=PALE, label="loss not finite"))
    if handles:
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.03, 0.5), labelspacing=0.9)
