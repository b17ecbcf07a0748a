"""Small images beside their perturbed selves."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from solset.errors import bad_value
from solset.plotting._style import note, number_text, styled, unshown


@styled
def image_grid(
    original: Num[np.ndarray, "..."],
    moved: Num[np.ndarray, "..."],
    captions: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """Images, the same images moved, and the difference on a scale of its own, one column per image.

    Args:
        original: Images ``(k, height, width)`` in grey, or ``(k, height, width, 3)``.
        moved: Moved images, in the same shape and unit.
        captions: One text per image, in order.
        title: Text above the images; none by default.

    Raises:
        ValueError: If shapes or the number of captions differ, or there is no image.
    """
    _check(original, moved, captions)
    count = len(original)
    figure = Figure(figsize=(max(1.25 * count + 0.9, 3.2), 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
    finite = np.isfinite(original) & np.isfinite(moved)
    difference = np.where(finite, moved, 0.0) - np.where(finite, original, 0.0)
    scale = float(np.abs(difference).max(initial=0.0))
    rows = {
        "original": (_unit_range(original, original, moved), "gray"),
        "moved": (_unit_range(moved, original, moved), "gray"),
        f"difference\n(±{number_text(scale, '.2g')})": (0.5 + difference / (2 * (scale or 1.0)), "RdBu_r"),
    }
    grid = figure.subplots(3, count, squeeze=False)
    for line, (name, (images, colour_map)) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image, cmap=colour_map, vmin=0.0, vmax=1.0, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            axes.spines[:].set_visible(True)
    for axes, caption in zip(grid[0], captions, strict=True):
        axes.set_title(caption, loc="center", fontsize=9, pad=4)
    note(figure, unshown({"the images": (np.where(finite, 0.0, np.nan).ravel(), finite.ravel())}))
    return figure


def _check(original: np.ndarray, moved: np.ndarray, captions: Sequence[str]) -> None:
    images = original.ndim == 3 or (original.ndim == 4 and original.shape[3] == 3)
    if not images or not original.size or original.shape != moved.shape or len(captions) != len(original):
        raise bad_value(
            "original",
            expected="(k, height, width) or (k, height, width, 3) with k > 0, like `moved`, and k captions",
            got=f"{original.shape}, {moved.shape} and {len(captions)} captions",
            cure="Move the colour axis last and caption every image.",
        )


def _unit_range(image: np.ndarray, *all_images: np.ndarray) -> Float[np.ndarray, "..."]:
    """The image between 0 and 1: as it is, or shifted and scaled if any image leaves that range."""
    values = np.concatenate([each[np.isfinite(each)] for each in all_images])
    low, high = min(0.0, values.min(initial=0.0)), max(1.0, values.max(initial=1.0))
    return np.where(np.isfinite(image), (image - low) / (high - low), 0.5)
