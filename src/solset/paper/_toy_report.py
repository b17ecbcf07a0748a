"""The toy example as a page, with its two pictures in the plane of its two weights."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import colors, patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from solset.errors import bad_value
from solset.paper._toy import MOVED_PRODUCT, ToyResult, ToySettings, run_toy
from solset.plotting import (
    DASHES,
    MUTED,
    ROLE_COLOURS,
    Values,
    new_figure,
    note,
    number_text,
    styled,
    unshown,
)
from solset.reports import Column, Finding, Picture, Report, RunFolder, Section, Table, columns, write_report


@dataclass(frozen=True, eq=False)
class ToyPlane:
    """What the two pictures of the toy problem show, as points ``(w₁, w₂)``."""

    trained: Float[np.ndarray, "2"]  # The trained point ``w̄``
    before: Float[np.ndarray, "b 2"]  # Points along ``S(x̄)`` in their order
    after: Float[np.ndarray, "a 2"]  # Points along ``S(x̄ + Δx)`` in their order
    estimate: Float[np.ndarray, "e 2"]  # Points along the estimated set; its two ends are enough
    samples: Float[np.ndarray, "s 2"]  # Elements of the estimated set
    pseudo_inverse: Float[np.ndarray, "2"]  # Its element nearest to ``w̄``
    radius: float  # ``κ‖Δx‖``, in weight units

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


MODULUS_NOTE = (
    "The modulus is |w₁w₂| / (‖x‖‖w‖) = 2 / (√5·√5) = 0.4. The paper prints 0.2 beside the radius 0.178; but "
    "0.2 · ‖Δx‖ = 0.0894, and only 0.4 · 0.4472 gives 0.1789, so 0.2 cannot be the modulus."
)
_COLUMNS = (
    Column("element", "element"),
    *columns(".4f", w1="w₁", w2="w₂", product="w₁w₂", distance="distance from w̄"),
    Column("risk", "loss on moved data", ".5f"),
)


def toy_experiment(settings: ToySettings, folder: RunFolder) -> tuple[ToyResult, Path]:
    """Runs the toy example into a folder."""
    result = run_toy(settings)
    folder.write_json("result.json", dataclasses.asdict(result))
    rows = sample_rows(result)
    folder.write_csv("samples.csv", rows)
    folder.write_tensors("solutions.safetensors", {"change": result.change, "samples": result.samples})
    _draw(folder, result)
    return result, write_report(folder, _report(result, rows))


def toy_text(result: ToyResult) -> str:
    """The numbers of the toy example as ``solset toy`` prints them."""
    change = ", ".join(f"{part:.10f}" for part in result.change)
    return "\n".join(
        [
            f"modulus of the solution map           {result.modulus:.10f}",
            f"radius, modulus times |dx|            {result.radius:.10f}",
            f"risk at the trained point, moved data {result.risk_moved:.10f}",
            f"minimum-norm change                   ({change})",
            f"its norm                              {result.distance:.10f}",
            f"risk there                            {result.risk_estimated:.10f}",
            f"true distance to the moved set        {result.true_distance:.10f}",
            f"largest set residual of the samples   {result.set_residual:.1e}",
            MODULUS_NOTE,
        ]
    )


def sample_rows(result: ToyResult) -> list[dict[str, object]]:
    """One row per element of the estimated set: the pseudo-inverse one, then the samples."""
    elements = [("pseudo-inverse", 1.0 + float(result.change[0]), 2.0 + float(result.change[1]))]
    elements += [(f"sample {i}", float(w[0]), float(w[1])) for i, w in enumerate(result.samples, 1)]
    risks = [result.risk_estimated, *result.sample_risks]
    return [
        {
            "element": name,
            "w1": w1,
            "w2": w2,
            "product": w1 * w2,
            "distance": ((w1 - 1.0) ** 2 + (w2 - 2.0) ** 2) ** 0.5,
            "risk": risk,
        }
        for (name, w1, w2), risk in zip(elements, risks, strict=True)
    ]


def _draw(folder: RunFolder, result: ToyResult) -> None:
    trained = np.array([1.0, 2.0])
    first = trained + result.change.numpy()
    along = np.array([1.0, -2.0]) / np.sqrt(5.0)
    axis = np.linspace(0.4, 3.0, 400)
    plane = ToyPlane(
        trained=trained,
        before=np.stack([axis, 2.0 / axis], axis=1),
        after=np.stack([axis, MOVED_PRODUCT / axis], axis=1),
        estimate=np.stack([first - 2.0 * along, first + 2.0 * along]),
        samples=result.samples.numpy(),
        pseudo_inverse=first,
        radius=result.radius,
    )
    folder.write_figure("solution_sets", toy_solution_sets(plane))
    (left, low), (right, high) = plane.window()
    w1, w2 = np.linspace(left, right, 201), np.linspace(low, high, 201)
    product = w1[None, :] * w2[:, None]
    loss = 0.5 * ((2.0 - 0.8 * product) ** 2 + (4.0 - 1.6 * product) ** 2)
    folder.write_figure("loss_contours", toy_loss_contours(plane, w1=w1, w2=w2, loss=loss))


def _report(result: ToyResult, rows: list[dict[str, object]]) -> Report:
    return Report(
        "The toy example: one product of two weights",
        "Where does the solution set w₁w₂ = 2 go when the two training inputs shrink by a fifth?",
        summary=[
            Finding(
                "distance to the estimated set", result.distance, "Norm of the shortest change Δw.", ".8f"
            ),
            Finding("true distance", result.true_distance, "Exact distance from w̄ to w₁w₂ = 2.5.", ".7f"),
            Finding("Lipschitz modulus", result.modulus, MODULUS_NOTE, ".10g"),
            Finding("radius κ‖Δx‖", result.radius, "Largest move of the set by the modulus.", ".6f"),
            Finding("loss at w̄ on the moved data", result.risk_moved, "Loss before any correction.", ".6g"),
            Finding("loss at w̄ + Δw", result.risk_estimated, "Loss after the shortest correction.", ".7f"),
        ],
        sections=[_sets_section(result), _elements_section(result, rows)],
    )


def _sets_section(result: ToyResult) -> Section:
    return Section(
        "Solution sets",
        "The trained point lies on w₁w₂ = 2; the moved data are fitted where w₁w₂ = 2.5. The estimated set is a line: near the trained point it follows the new hyperbola to first order, and farther away it leaves it.",
        [
            Picture(
                "solution_sets",
                "Both solution sets, the old one expanded by κ‖Δx‖, and elements of the estimated set.",
                "Two hyperbola branches in the plane of the weights and a line near the outer one.",
            ),
            Picture(
                "loss_contours",
                "The same points on the loss of the moved data.",
                "Contours of the loss, with the sampled solutions along the valley.",
            ),
            f"Optimality map: {result.reason}.",
        ],
    )


def _elements_section(result: ToyResult, rows: list[dict[str, object]]) -> Section:
    return Section(
        "Elements of the estimated set",
        "Every element satisfies H v + B Δx = 0; its loss grows with the square of its distance along the set.",
        [
            Table("Sampled solutions", _COLUMNS, rows),
            f"Largest violation of the set equation over the samples: {result.set_residual:.1e}.",
        ],
    )
