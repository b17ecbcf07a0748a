"""What the pictures of a landscape share: the scale of the loss, the marks, and what is said below."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import MaxNLocator

from solset.errors import bad_value
from solset.landscapes import Landscape, Mark
from solset.plotting._style import ROLE_COLOURS, number_text, unshown

PALE = "#E6E9EC"
_DECADES = 5  # shown at most: how far a fitted loss falls below them is a matter of rounding
_MARKS = {
    "trained weights": (ROLE_COLOURS["retraining"], "s", 52),
    "minimum-norm solution": ("#00806A", "D", 84),
    "sampled solutions": (ROLE_COLOURS["estimate"], "o", 46),
    "retraining": (ROLE_COLOURS["retraining"], "*", 110),
    "warm retraining": (ROLE_COLOURS["warm retraining"], "P", 60),
}
_OTHER_MARKS = (("#8B4A9C", "^", 180), ("#A27400", "v", 180), ("#C4501B", "X", 130), ("#4FA3D1", "p", 150))
_UNITS = {"length": "relative filter change", "filter": "filter-normalised", "none": "multiples of it"}


@dataclass(frozen=True)
class Scale:
    """The axis of the loss."""

    low: float  # Smallest loss that the axis shows
    high: float  # Largest loss that the axis shows
    is_log: bool  # Whether the axis is logarithmic
    is_cut: bool  # Whether some values are below ``low``

    def held(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Values no lower than the axis; what is not finite becomes NaN."""
        return np.where(np.isfinite(values), np.maximum(values, self.low), np.nan)

    def height(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Heights in a picture whose own axis is linear."""
        return np.log10(self.held(values)) if self.is_log else self.held(values)

    def norm(self) -> Normalize:
        """Colours over the whole axis, without the darkest, which would swallow the marks."""
        if self.is_log:
            return LogNorm(self.low, self.high * (self.high / self.low) ** 0.25)
        return Normalize(self.low, self.high + 0.25 * (self.high - self.low))

    def levels(self) -> Float[np.ndarray, " l"]:
        """About a dozen round values, in increasing order."""
        if not self.is_log:
            return np.asarray(MaxNLocator(13).tick_values(self.low, self.high))
        decades = math.log10(self.high / self.low)
        per = next((k for k in (6, 4, 3, 2) if k * decades <= 16), 1)
        first, last = math.floor(per * math.log10(self.low)), math.ceil(per * math.log10(self.high))
        return 10.0 ** (np.arange(first, last + 1) / per)

    def ticks(self) -> Float[np.ndarray, " t"]:
        """Losses to name along the axis: a few round ones, powers of ten if it is logarithmic."""
        if not self.is_log:
            ticks = np.asarray(MaxNLocator(6).tick_values(self.low, self.high))
        else:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            parts = (1, 3) if last - first < 4 else (1,)
            ticks = np.array([part * 10.0**power for power in range(first, last + 1) for part in parts])
        slack = 1e-9 * (self.high - self.low)
        return ticks[(ticks >= self.low - slack) & (ticks <= self.high + slack)]


@dataclass(frozen=True, eq=False)
class ShownMark:
    """A mark as it is drawn."""

    label: str  # Name in the legend, with the distance from the plane
    places: Float[np.ndarray, "k axes"]  # Coordinates of the weights inside the picture, ``(k, axes)``
    heights: Float[np.ndarray, " k"]  # Losses at the weights themselves, ``(k,)``
    style: dict[str, Any]  # Colour, marker and size of the mark
    outside: int  # Number of weights outside of the picture


def tick_text(value: float) -> str:
    """A loss along an axis, with powers of ten written as such."""
    return number_text(float(value), ".4g").removeprefix("1×")


def scale_of(values: Float[np.ndarray, "*shape"]) -> Scale | None:
    """The axis for these values, logarithmic if they span two decades; ``None`` if none is finite."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    positive = finite[finite > 0]
    if low < 0 or not len(positive) or high < 100 * max(low, high * 1e-300):
        # A constant needs some width, or nothing could be drawn.
        return Scale(low, high if high > low else low + max(abs(low), 1.0) * 0.1, False, False)
    bottom = max(float(positive.min()), high * 10.0**-_DECADES)
    return Scale(bottom, high, True, bottom > low)


def shown_marks(landscape: Landscape, marks: Sequence[Mark] | None, subset: str) -> list[ShownMark]:
    """The marks (the landscape's own for ``None``) in the picture, at heights by the loss of a subset."""
    chosen = list(landscape.marks if marks is None else marks)
    others = [mark.name for mark in chosen if mark.name not in _MARKS]
    inside_marks = []
    for mark in chosen:
        places, heights = mark.coordinates.numpy(), mark.values[subset].numpy()
        inside = np.isfinite(heights)
        for axis, along in zip(landscape.coordinates, places.T, strict=True):
            low, high = float(axis[0]), float(axis[-1])
            slack = 1e-9 * (high - low)
            inside &= (along >= low - slack) & (along <= high + slack)
        if mark.name in _MARKS:
            colour, marker, size = _MARKS[mark.name]
        else:
            colour, marker, size = _OTHER_MARKS[others.index(mark.name) % len(_OTHER_MARKS)]
        style = {"color": colour, "marker": marker, "s": size, "edgecolors": "white"}
        label = _mark_label(mark)
        inside_marks.append(ShownMark(label, places[inside], heights[inside], style, int((~inside).sum())))
    return inside_marks


def grid_values(landscape: Landscape, subset: str, *, axes: int) -> Float[np.ndarray, "*shape"]:
    """The values of a subset over a line (``axes=1``) or a plane (2), or the error that says why not."""
    if subset not in landscape.values:
        raise bad_value(
            "subset",
            expected=f"one of {', '.join(landscape.values)}",
            got=repr(subset),
            cure="Name it in `subsets` when the landscape is computed.",
        )
    if len(landscape.coordinates) != axes:
        raise bad_value(
            "landscape",
            expected="over a line" if axes == 1 else "over a plane",
            got=f"{len(landscape.coordinates)} directions",
            cure="A line is drawn by landscape_line, a plane by landscape_contour or landscape_surface.",
        )
    return landscape.values[subset].numpy()


def name_axes(axes: Axes, landscape: Landscape, subset: str, title: str) -> None:
    """Names the axes by the directions, and the figure by its title, or by what it shows if that is empty."""
    names, unit = list(landscape.plane.axes), _UNITS[landscape.plane.normalise]
    axes.set_xlabel(f"{names[0]} ({unit})")
    if len(names) == 2:
        axes.set_ylabel(f"{names[1]} ({unit})")
    what = "Risk" if subset == "all" else f"Loss on {subset}"
    where = f"along {names[0]}" if len(names) == 1 else f"in the plane of {names[0]} and {names[1]}"
    axes.set_title(title or f"{what} {where}")


def quantity(landscape: Landscape, subset: str, scale: Scale) -> str:
    """What the values are, with their unit and the kind of axis."""
    return landscape.quantities[subset] + (" (logarithmic)" if scale.is_log else "")


def remarks(landscape: Landscape, subset: str, scale: Scale | None, shown: Sequence[ShownMark]) -> str:
    """What a reader must know to read the picture rightly, in lines that fit below it."""
    values = landscape.values[subset].numpy().ravel()
    said = [unshown({"the risk" if subset == "all" else f"loss on {subset}": (values, np.isfinite(values))})]
    if scale is not None and scale.is_cut:
        said.append(f"Losses below {number_text(scale.low, '.2g')} are drawn at that value.")
    said += [f"Outside of the picture: {mark.outside} of {mark.label}." for mark in shown if mark.outside]
    if abs(landscape.plane.cosine) > 0.05:
        said.append(f"The two directions have cosine {number_text(landscape.plane.cosine, '.2f')}.")
    return textwrap.fill(" ".join(part for part in said if part), 105)


def _mark_label(mark: Mark) -> str:
    """Its name, and how far off the plane it is if that is a part in a thousand or more."""
    farthest = float(mark.off_plane.max())
    if farthest < 1e-3:
        return mark.name
    up_to = "up to " if len(mark.off_plane) > 1 else ""
    percent = number_text(100 * farthest, ".0f" if farthest > 0.1 else ".2g")
    return f"{mark.name},\n{up_to}{percent} % off the plane"
