"""The toy example as a page."""

import dataclasses
from pathlib import Path

import numpy as np

from solset.paper._toy import MOVED_PRODUCT, ToyResult, ToySettings, run_toy
from solset.paper._toy_figure import ToyPlane, toy_loss_contours, toy_solution_sets
from solset.reports import RunFolder
from solset.reports._report import write_report
from solset.reports._report_parts import Column, Finding, Picture, Report, Section, Table, columns

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
    sets = Section(
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
    elements = Section(
        "Elements of the estimated set",
        "Every element satisfies H v + B Δx = 0; its loss grows with the square of its distance along the set.",
        [
            Table("Sampled solutions", _COLUMNS, rows),
            f"Largest violation of the set equation over the samples: {result.set_residual:.1e}.",
        ],
    )
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
        sections=[sets, elements],
    )
