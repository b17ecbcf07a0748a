"""The two pictures of the toy problem, in the plane of its two weights."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib import colors, patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from solset.errors import bad_value
from solset.plotting import ROLE_COLOURS, number_text
from solset.plotting._style import DASHES, MUTED, Values, new_figure, note, styled, unshown


@dataclass(frozen=True, eq=False)
class ToyPlane:
    """What the two pictures of the toy problem show, as points ``(w₁, w₂)``.

    Attributes:
        trained: The trained point ``w̄``.
        before: Points along ``S(x̄)`` in their order.
        after: Points along ``S(x̄ + Δx)`` in their order.
        estimate: Points along the estimated set; its two ends are enough.
        samples: Elements of the estimated set.
        pseudo_inverse: Its element nearest to ``w̄``.
        radius: ``κ‖Δx‖``, in weight units.
    """

    trained: Float[np.ndarray, "2"]
    before: Float[np.ndarray, "b 2"]
    after: Float[np.ndarray, "a 2"]
    estimate: Float[np.ndarray, "e 2"]
    samples: Float[np.ndarray, "s 2"]
    pseudo_inverse: Float[np.ndarray, "2"]
    radius: float

    def window(self) -> Float[np.ndarray, "2 2"]:
        """Lower left and upper right corner of a square around the points and the ball at ``w̄``."""
        shown = np.concatenate([self.samples, self.trained[None], self.pseudo_inverse[None]])
        centre = (shown.min(axis=0) + shown.max(axis=0)) / 2
        half = max(1.15 * float(np.ptp(shown, axis=0).max()) / 2 + 0.6 * self.radius, 2.0 * self.radius)
        return np.stack([centre - half, centre + half])


@styled
def toy_solution_sets(plane: ToyPlane) -> Figure:
    """The solution sets before and after the perturbation, and the set the Aubin property allows."""
    figure, axes = new_figure(7.2, 4.6)
    band = _band(plane.before, plane.radius)
    expanded = "$S(\\bar x)$ expanded by $\\kappa\\Vert\\Delta x\\Vert$"
    axes.fill(*band.T, color=ROLE_COLOURS["clean"], alpha=0.20, linewidth=0, label=expanded)
    angle = np.linspace(0.0, 2.0 * np.pi, 181)
    ball = plane.trained + plane.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    radius = f"$\\kappa\\Vert\\Delta x\\Vert$ = {number_text(plane.radius, '.4g')} around $\\bar w$"
    axes.plot(*ball.T, color=MUTED, linewidth=1.0, linestyle=DASHES[2], label=radius)
    _draw_plane(axes, plane)
    _frame_plane(axes, plane)
    return figure


@styled
def toy_loss_contours(
    plane: ToyPlane, *, w1: Values, w2: Values, loss: Float[np.ndarray, "rows columns"]
) -> Figure:
    """The loss on the moved data over the weights, with the points and sets of :func:`toy_solution_sets`."""
    figure, axes = new_figure(7.2, 5.4)
    (left, low), (right, high) = plane.window()
    across, up = np.asarray(w1, float), np.asarray(w2, float)
    if loss.shape != (len(up), len(across)):
        raise bad_value(
            "loss",
            expected=f"of shape (len(w2), len(w1)) = {(len(up), len(across))}",
            got=f"{loss.shape}",
            cure="Rows run along w2 and columns along w1; transpose it.",
        )
    inside = np.outer((up >= low) & (up <= high), (across >= left) & (across <= right))
    levels = _levels(loss[inside & np.isfinite(loss) & (loss > 0)])
    if len(levels):
        # Zeros are drawn as the lowest level; what is not finite stays empty.
        values = np.ma.masked_invalid(np.maximum(loss, levels[0] / 10))
        norm = colors.LogNorm(levels[0], levels[-1] * 300)
        filled = axes.contourf(across, up, values, levels, cmap="Blues", norm=norm, extend="both")
        bar = figure.colorbar(filled, ax=axes, location="bottom", shrink=0.7, aspect=38, pad=0.03)
        bar.set_label("risk on the moved data")
        bar.set_ticks(levels[::2].tolist(), labels=[number_text(float(level)) for level in levels[::2]])
    note(figure, unshown({"the loss": (loss.ravel(), (np.isfinite(loss) & (loss >= 0)).ravel())}))
    _draw_plane(axes, plane)
    _frame_plane(axes, plane)
    return figure


def _levels(loss: Float[np.ndarray, " k"]) -> Float[np.ndarray, " l"]:
    """Two levels a decade from the smallest to the largest, over five decades at most."""
    if not len(loss):
        return np.empty(0)
    top = math.ceil(math.log10(loss.max()))
    low = min(max(math.floor(math.log10(loss.min())), top - 5), top - 1)
    return np.logspace(low, top, 2 * (top - low) + 1)


def _draw_plane(axes: Axes, plane: ToyPlane) -> None:
    blue, ink = ROLE_COLOURS["estimate"], ROLE_COLOURS["retraining"]
    halo = [patheffects.withStroke(linewidth=3.2, foreground="white")]
    axes.plot(*plane.before.T, color=ROLE_COLOURS["clean"], label="$S(\\bar x)$", path_effects=halo)
    axes.plot(*plane.after.T, color=ink, label="$S(\\bar x + \\Delta x)$", path_effects=halo)
    axes.plot(*plane.estimate.T, color=blue, linestyle=DASHES[1], label="estimated set", path_effects=halo)
    points = {"edgecolors": "white", "linewidths": 0.9, "zorder": 5}
    axes.scatter(*plane.samples.T, s=42, color=blue, marker="o", label="sampled solutions", **points)
    axes.scatter(*plane.pseudo_inverse, s=58, color="#00806A", marker="D", label="pseudo-inverse", **points)
    axes.scatter(*plane.trained, s=62, color=ink, marker="s", label="trained $\\bar w$", **points)


def _frame_plane(axes: Axes, plane: ToyPlane) -> None:
    """The window, with the same scale on both axes so that balls are round."""
    (left, low), (right, high) = plane.window()
    axes.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    axes.set(xlabel="$w_1$", ylabel="$w_2$")
    axes.legend(loc="center left", bbox_to_anchor=(1.03, 0.5), labelspacing=0.9)


def _band(curve: Float[np.ndarray, "b 2"], radius: float) -> Float[np.ndarray, "c 2"]:
    """The outline of ``curve + radius 𝔹``, without its round ends, by offsets along the normals."""
    tangent = np.gradient(curve, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) / np.linalg.norm(
        tangent, axis=1, keepdims=True
    )
    return np.concatenate([curve + radius * normal, (curve - radius * normal)[::-1]])
