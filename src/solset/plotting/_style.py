"""One style for every figure: what the colours mean, how numbers read, what is said of values left out."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Num
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from solset.errors import bad_value

Values = Sequence[int | float] | Num[np.ndarray, " _"]
Curve = tuple[Values, Values]

# Told apart with any common colour blindness and in grey; the truth is the darkest.
ROLE_COLOURS = {
    "estimate": "#0B62B0",
    "retraining": "#1F2328",
    "warm retraining": "#C4501B",
    "clean": "#858D96",
}
_OTHER_COLOURS = ("#00806A", "#8B4A9C", "#A27400", "#4FA3D1")
MARKERS = "osD^vPX*"
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
MUTED = "#5B6470"
DPI = 150  # dots per inch of a file
_STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": "#30363D",
    "axes.edgecolor": "#8A929B",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E9EC",
    "grid.linewidth": 0.7,
    "xtick.color": "#8A929B",
    "ytick.color": "#8A929B",
    "xtick.labelcolor": "#30363D",
    "ytick.labelcolor": "#30363D",
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "legend.frameon": False,
    "svg.hashsalt": "solset",
}
# Over matplotlib's defaults, so that a user's own settings do not change what is drawn.
styled = style.context(["default", _STYLE])


@styled
def figure_bytes(figure: Figure, file_format: Literal["png", "svg"]) -> bytes:
    """The figure as a file, without date, program version or random identifiers: same figure, same bytes.

    Args:
        figure: Figure from a function of this room.
        file_format: Format of the file: ``"png"`` at 150 dots per inch, or ``"svg"``.
    """
    # The layout engine starts from where the last drawing left it: settle once, then keep the places. Letters
    # are rounded to dots, so that it settles at the size of the file.
    before = figure.dpi
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    figure.set_dpi(before)
    figure.set_layout_engine("none")
    unstated = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    stream = io.BytesIO()
    figure.savefig(stream, format=file_format, dpi=DPI, metadata=unstated[file_format])
    return stream.getvalue()


def number_text(value: int | float, format_spec: str = ".3g") -> str:
    """A number as a reader expects it in print.

    Example:
        >>> number_text(-6.66e-06), number_text(0.125), number_text(float("inf")), number_text(20000)
        ('−6.66×10⁻⁶', '0.125', '∞', '20\u202f000')
    """
    if isinstance(value, int) and format_spec.endswith("g"):
        return (f"{value:,}" if abs(value) >= 10_000 else str(value)).replace(",", "\u202f").replace("-", "−")
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    mantissa, _, exponent = format(value, format_spec).partition("e")
    if exponent:
        mantissa += "×10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return mantissa.replace("-", "−")


def new_figure(width: float, height: float, **names: str) -> tuple[Figure, Axes]:
    """A figure of this size in inches with one pair of axes, known to no global state.

    ``names`` are those of the axes, such as ``xlabel``, and the title.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(**names)
    return figure, axes


def empty_axes(figure: Figure, axes: Axes) -> Figure:
    """The figure, saying in its axes that there is nothing to see."""
    axes.set(xticks=[], yticks=[])
    axes.text(
        0.5, 0.5, "no value that this axis can show", transform=axes.transAxes, ha="center", color=MUTED
    )
    return figure


def tick_by_numbers(axis: Axis) -> None:
    """Writes out the ticks of a logarithmic axis, at 1, 2 and 5 where powers of ten would be few."""
    low, high = sorted(axis.get_view_interval())
    subs = (1.0, 2.0, 5.0) if math.log10(high / low) < 2.5 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_text(float(value))))
    axis.set_minor_formatter(NullFormatter())


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """A role's own colour, whatever stands beside it; the others in turn."""
    others = [label for label in labels if label not in ROLE_COLOURS]
    return {
        label: ROLE_COLOURS.get(label) or _OTHER_COLOURS[others.index(label) % len(_OTHER_COLOURS)]
        for label in labels
    }


def same_length(label: str, x: Values, y: Values) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Both as float vectors; an error that names ``label`` if their lengths differ."""
    first, second = np.asarray(x, float), np.asarray(y, float)
    if first.shape != second.shape or first.ndim != 1:
        raise bad_value(
            label,
            expected="two sequences of numbers of one length",
            got=f"shapes {first.shape} and {second.shape}",
            cure="Give one value for every point.",
        )
    return first, second


def unshown(values: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """The sentence that says which values are missing from the figure and why; empty if none is.

    Args:
        values: Values ``(k,)`` or points ``(2, k)`` by name, each with a mask ``(k,)`` of what is shown.
    """
    parts = []
    for label, (points, shown) in values.items():
        infinite = ~np.isfinite(points)
        if points.ndim > 1:
            infinite = infinite.any(axis=0)
        strange, low = int((infinite & ~shown).sum()), int((~shown & ~infinite).sum())
        reasons = [f"{strange} not finite"] * bool(strange) + [f"{low} zero or negative"] * bool(low)
        if reasons:
            parts.append(f"{label}: {' and '.join(reasons)}")
    return f"Not drawn: {'; '.join(parts)}." if parts else ""


def note(figure: Figure, text: str) -> None:
    """Writes a remark below the axes, if there is one."""
    if text:
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color=MUTED)
