"""Small images beside their perturbed selves, and beside the maps of their pixels."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Num
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from solset.errors import bad_value
from solset.plotting._style import note, number_text, styled, unshown

Images = Num[np.ndarray, "..."]
_Row = tuple[Images, str, Sequence[float]]


@styled
def image_grid(original: Images, moved: Images, captions: Sequence[str]) -> Figure:
    """Images, the same images moved, and the difference on a scale of its own, one column per image.

    Args:
        original: Images ``(k, height, width)`` in grey, or ``(k, height, width, 3)``.
        moved: Moved images, in the same shape and unit.
        captions: One text per image, in order.

    Raises:
        ValueError: If shapes or the number of captions differ, or there is no image.
    """
    is_image = original.ndim == 3 or (original.ndim == 4 and original.shape[3] == 3)
    if not is_image or not original.size or original.shape != moved.shape or len(captions) != len(original):
        raise bad_value(
            "original",
            expected="(k, height, width) or (k, height, width, 3) with k > 0, like `moved`, and k captions",
            got=f"{original.shape}, {moved.shape} and {len(captions)} captions",
            cure="Move the colour axis last and caption every image.",
        )
    finite = np.isfinite(original) & np.isfinite(moved)
    difference = np.where(finite, moved, 0.0) - np.where(finite, original, 0.0)
    scale, ones = float(np.abs(difference).max(initial=0.0)), [1.0] * len(original)
    rows = {
        "original": (_unit_range(original, original, moved), "gray", ones),
        "moved": (_unit_range(moved, original, moved), "gray", ones),
        f"difference\n(±{number_text(scale, '.2g')})": (
            0.5 + difference / (2 * (scale or 1)),
            "RdBu_r",
            ones,
        ),
    }
    figure = _grid(rows, captions, width=1.25, height=4.3, font_size=9.0)
    note(figure, unshown({"the images": (np.where(finite, 0.0, np.nan).ravel(), finite.ravel())}))
    return figure


@styled
def sensitivity_maps(images: Images, maps: Images, captions: Sequence[str]) -> Figure:
    """Images above the maps of their pixels: how far the weights go per unit change of each pixel.

    Args:
        images: Images ``(k, height, width)`` in grey, or ``(k, height, width, 3)``, of any range.
        maps: Maps ``(k, height, width)`` without negative entries; each is drawn on its own scale, from 0.
        captions: One text per image, in order.

    Raises:
        ValueError: If shapes or the number of captions differ, or there is no image.
    """
    is_image = images.ndim in {3, 4} and images.shape[:3] == maps.shape
    if not is_image or len(captions) != len(images) or not len(maps):
        raise bad_value(
            "images",
            expected="(k, height, width) or (k, height, width, 3) with k > 0, a map and a caption for each",
            got=f"{images.shape}, {maps.shape} and {len(captions)} captions",
            cure="Sum the maps over colours.",
        )
    spans = [(float(image.min()), float(image.max())) for image in images]
    scaled = [(image - low) / ((high - low) or 1.0) for image, (low, high) in zip(images, spans, strict=True)]
    shown = np.where(np.isfinite(maps), maps, np.nan)
    tops = [float(np.nanmax(pixels)) if np.isfinite(pixels).any() else 1.0 for pixels in shown]
    rows = {
        "image": (np.stack(scaled), "gray", [1.0] * len(images)),
        "map": (shown, "magma", [top or 1.0 for top in tops]),
    }
    figure = _grid(rows, captions, width=1.2, height=3.1, font_size=8.5)
    for axes, top in zip(figure.axes[len(images) :], tops, strict=True):
        axes.set_xlabel(f"0 … {number_text(top, '.2g')}", fontsize=7.5)
    return figure


def _grid(
    rows: Mapping[str, _Row], captions: Sequence[str], *, width: float, height: float, font_size: float
) -> Figure:
    """Rows of images by name, each with its colours and the value that has the last colour, 0 the first."""
    figure = Figure(figsize=(max(width * len(captions) + 0.9, 3.2), height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(captions), squeeze=False)
    for line, (name, (images, colours, tops)) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axes, image, top in zip(line, images, tops, strict=True):
            axes.imshow(image, cmap=colours, vmin=0.0, vmax=top, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            axes.spines[:].set_visible(True)
    for axes, caption in zip(grid[0], captions, strict=True):
        axes.set_title(caption, loc="center", fontsize=font_size, pad=4)
    return figure


def _unit_range(image: Images, *all_images: Images) -> Float[np.ndarray, "..."]:
    """The image between 0 and 1: as it is, or shifted and scaled if any image leaves that range."""
    values = np.concatenate([each[np.isfinite(each)] for each in all_images])
    low, high = min(0.0, values.min(initial=0.0)), max(1.0, values.max(initial=1.0))
    return np.where(np.isfinite(image), (image - low) / (high - low), 0.5)
