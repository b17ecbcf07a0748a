"""The demo as a page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from solset.paper._digits import DigitsRun
from solset.plotting import bars_before_after, error_against_step, image_grid, scatter_agreement
from solset.reports._audit_report import audit_sections, draw_audit
from solset.reports._poison_report import poison_sections, write_figures
from solset.reports._report import write_report
from solset.reports._report_parts import Column, Finding, Picture, Report, Section, Table

Numbers = Mapping[str, Any]
TOP = 10  # digits shown of the audit


def digits_experiment(run: DigitsRun) -> Path:
    """Runs what is not done yet and writes figures, tables and the page; returns the page's path."""
    numbers = run.numbers()
    rows = size_rows(numbers["sizes"])
    run.folder.write_csv("sizes.csv", rows)
    _draw(run, numbers)
    if numbers["modulus"]:
        draw_audit(run.problem, run.audit, run.folder, top=TOP)
        run.folder.write_csv("ranking.csv", run.audit.rows())
    designed = _designed_sections(run, numbers)
    return write_report(run.folder, _report(run, numbers, rows, designed))


def size_rows(sizes: Sequence[Numbers]) -> list[dict[str, object]]:
    """One flat row per step size."""
    rows = []
    for row in sizes:
        flat: dict[str, object] = {
            "step_percent": 100 * row["size"],
            "perturbation": row["perturbation"],
            "distance": row["distance"],
            "sampled_distance": row["sampled_distance"],
        }
        for where in ("trained", "estimate", "flow", "retraining"):
            for part in ("moved", "all"):
                flat[f"loss_{part}_{where}"] = row["losses"][where][part]
        flat |= {f"flow_error_{k}": error for k, error in row["flow_error"].items()}
        flat["nearest_error"] = row["nearest"]["error"] if "nearest" in row else None
        flat["nearest_status"] = row["nearest"]["status"] if "nearest" in row else None
        flat["output_error_trained"] = row["output_error"]["trained"]
        flat["output_error_estimate"] = row["output_error"]["estimate"]
        flat["output_error_samples"] = row["output_error"]["samples"]
        flat["test_correlation"] = row["test"]["correlation"]
        rows.append(flat)
    return rows


def _shown(numbers: Numbers) -> Numbers:
    """The size that the pictures show: 0.5 % if it was run, else the middle one."""
    sizes = numbers["sizes"]
    return next((row for row in sizes if row["size"] == 0.005), sizes[len(sizes) // 2])


def _draw(run: DigitsRun, numbers: Numbers) -> None:
    folder, sizes, shown = run.folder, numbers["sizes"], _shown(numbers)
    percent = [100 * row["size"] for row in sizes]
    curves = {
        f"gradient flow, {k} steps": (percent, [row["flow_error"][str(k)] for row in sizes])
        for k in run.settings.steps
    }
    near = [row for row in sizes if "nearest" in row]
    if near:
        curves["minimum norm, nearest solution"] = (
            [100 * row["size"] for row in near],
            [row["nearest"]["error"] for row in near],
        )
    folder.write_figure("error_against_step", error_against_step(curves))
    losses = shown["losses"]
    folder.write_figure(
        "losses",
        bars_before_after(
            ("moved points", "all points"),
            {
                "trained": [losses["trained"]["moved"], losses["trained"]["all"]],
                "estimate": [losses["estimate"]["moved"], losses["estimate"]["all"]],
                "retraining": [losses["retraining"]["moved"], losses["retraining"]["all"]],
            },
            ylabel="mean squared error on the moved data",
        ),
    )
    test = shown["test"]
    folder.write_figure(
        "test_losses",
        scatter_agreement(
            np.array(test["predicted"]),
            np.array(test["actual"]),
            correlation=test["correlation"],
            xlabel="predicted change of a test digit's loss",
            ylabel="change after real retraining",
        ),
    )
    images = run.train.inputs[run.moved[:5]]
    moved = images + run.dx(shown["size"])[:5]
    captions = [f"training digit {i}" for i in run.moved[:5]]
    grid = image_grid(images.reshape(-1, 8, 8).numpy(), moved.reshape(-1, 8, 8).numpy(), captions)
    folder.write_figure("moved_digits", grid)


def _designed_sections(run: DigitsRun, numbers: Numbers) -> tuple[Section, ...]:
    """The designed perturbation: its effect, the digits before and after, and the digits to guard."""
    if "poisoning" not in numbers:
        return ()
    result = dict(numbers["poisoning"])
    return poison_sections(run.poisoning, result, write_figures(run.poisoning, result))


def _report(
    run: DigitsRun, numbers: Numbers, rows: list[dict[str, object]], designed: tuple[Section, ...]
) -> Report:
    settings, setup, shown = run.settings, numbers["setup"], _shown(numbers)
    step, losses = 100 * shown["size"], shown["losses"]
    last = str(max(settings.steps))
    return Report(
        title="Ten training digits move: where does the network go?",
        question=(
            f"If {settings.moved} of {settings.points} training digits had been slightly different, where would "
            f"the trained network have ended up, and is the answer the one that retraining gives?"
        ),
        summary=(
            Finding(
                "training stability",
                shown["distance"],
                f"Distance in weight space from the trained network to the estimated solution set at a step of "
                f"{step:g} %.",
            ),
            Finding(
                "loss on the moved points",
                losses["trained"]["moved"],
                f"Of the trained network; {losses['estimate']['moved']:.2g} at the estimated minimum-norm solution, "
                f"without retraining.",
                ".2g",
            ),
            Finding(
                "error of the predicted weight change",
                shown["flow_error"][last],
                f"Relative, against {last} real gradient-descent steps on the moved data.",
                ".3f",
            ),
            Finding(
                "correlation on unseen digits",
                shown["test"]["correlation"],
                "Between predicted and actual change of 500 test losses.",
                ".3f",
            ),
        ),
        sections=(
            _setting_section(run, setup),
            _prediction_section(run, rows),
            _loss_section(rows, step),
            _warm_section(numbers["warm_retraining"]),
            _test_section(shown),
            *_large_sections(numbers),
            *_modulus_sections(run, numbers),
            *designed,
        ),
        warnings=_warnings(numbers),
        settings=run.folder.settings,
        versions=run.folder.versions,
    )


def _warnings(numbers: Numbers) -> tuple[str, ...]:
    warnings = []
    if numbers["setup"]["largest_fit_error"] > 1e-10:
        warnings.append(f"The network was fitted only to {numbers['setup']['largest_fit_error']:.1e}.")
    unsettled = [row for row in numbers["sizes"] if row.get("nearest", {}).get("status") == "max_steps"]
    warnings += [
        f"At {100 * row['size']:g} % the search for the nearest solution did not settle within its steps (activation kinks, or curvature); it ended at an output error ‖f − f̄‖ of {row['nearest']['output_error']:.1e}. The error against it is that of a solution near the nearest one."
        for row in unsettled
    ]
    return tuple(warnings)


def _setting_section(run: DigitsRun, setup: Numbers) -> Section:
    kinds = {
        "cross_entropy": "along the gradient of the cross-entropy of the outputs (the gradient of the fitted squared "
        "loss is rounding noise)",
        "random": "along random directions",
    }
    return Section(
        "What was moved",
        f"A {'ReLU' if run.settings.activation == 'relu' else 'tanh'} network with {setup['weights']:,} weights is fitted to {setup['points']} "
        f"digits up to an output error of {setup['largest_fit_error']:.0e}; {len(setup['moved'])} of them move "
        f"{kinds[run.settings.direction]}, each by the stated percentage of its own norm.",
        figures=(
            Picture(
                "moved_digits",
                "The first five moved digits: before, after, and what changed.",
                "Rows of small digit images.",
            ),
        ),
        notes=(
            f"Optimality map: {setup['reason']}.",
            _dimension_note(setup),
            f"Accuracy on 500 unseen digits: {setup['test_accuracy']:.3f}.",
        ),
    )


def _dimension_note(setup: Numbers) -> str:
    if setup["rank"] is None:
        return f"The dimension of the solution set is not known: {setup['qualification']}."
    return (
        f"The solution set is a manifold of dimension {setup['dimension']:,}: {setup['weights']:,} weights, "
        f"{setup['rank']:,} independent constraints."
    )


def _prediction_section(run: DigitsRun, rows: list[dict[str, object]]) -> Section:
    columns = [
        Column("step_percent", "step", ".3g", "%"),
        Column("distance", "distance to the set", ".3g"),
        Column("sampled_distance", "nearest of the samples", ".3g"),
    ]
    columns += [Column(f"flow_error_{k}", f"error, flow of {k} steps", ".2g") for k in run.settings.steps]
    columns.append(Column("nearest_error", "error, minimum norm", ".2g"))
    return Section(
        "The predicted weight change against the real one",
        "Gradient descent of a finite duration stops short of the solution set; the gradient-flow element predicts "
        "where. The minimum-norm element predicts the solution nearest to the trained weights. Errors are relative "
        "to the length of the real change.",
        figures=(
            Picture(
                "error_against_step",
                "Error of the predicted weight change. Where no activation switches the error is proportional to the step, as it must be for a first-order method; where ReLU units switch between the trained point and the moved one, it is larger and no longer proportional.",
                "Curves of relative error against step size.",
            ),
        ),
        table=Table("Predicted and actual weight change", tuple(columns), rows),
    )


def _loss_section(rows: list[dict[str, object]], step: float) -> Section:
    names = {
        "trained": "trained",
        "estimate": "estimate",
        "retraining": "after retraining",
    }
    columns = [Column("step_percent", "step", ".3g", "%")]
    for part in ("moved", "all"):
        columns += [Column(f"loss_{part}_{key}", f"{part}: {name}", ".1e") for key, name in names.items()]
    columns += [
        Column("output_error_trained", "‖f − f̄‖ trained", ".1e"),
        Column("output_error_estimate", "‖f − f̄‖ estimate", ".1e"),
        Column("output_error_samples", "‖f − f̄‖ worst sample", ".1e"),
    ]
    return Section(
        "Losses on the moved data",
        "Mean squared error per example on the moved points and on all points. The estimate is the minimum-norm "
        "solution applied to the model; retraining is real gradient descent for the longest duration.",
        figures=(
            Picture(
                "losses",
                f"At a step of {step:g} %: the trained network, the estimate, and real retraining.",
                "Bars of losses on a log axis.",
            ),
        ),
        table=Table("Losses before and after", tuple(columns), rows),
        notes=(
            "One linear step can overshoot to a loss below that of retraining; therefore the output error ‖f − f̄‖ "
            "over all training points stands beside it.",
        ),
    )


def _warm_section(race: Numbers) -> Section:
    rows = []
    for title, part in (
        ("one direction", "one_direction"),
        ("ten random directions, mean", "ten_directions"),
    ):
        outcome = race[part]
        each = outcome.get("gradients_each")
        names = ("trained", "estimate", "warm, same", "warm, 10 times", "warm, 50 times")
        for name in names:
            if name not in outcome:
                continue
            value = outcome[name]
            cost = value.get("gradients")
            if name == "estimate":
                cost = each if each is not None else outcome["gradients"]
            rows.append(
                {
                    "job": title,
                    "method": name,
                    "cost": cost,
                    "moved": value["moved"],
                    "all": value["all"],
                }
            )
    return Section(
        "What the same work buys by warm retraining",
        f"L-BFGS from the trained weights on the moved data, for as many gradients as the estimate costs and for 10 "
        f"and 50 times as many, at a step of {100 * race['size']:g} %. The estimate is counted as one gradient per "
        f"network output for the rows of its Gram matrix, which serve every direction, and two per direction.",
        table=Table(
            "Estimate and warm retraining",
            (
                Column("job", "job", ""),
                Column("method", "method", ""),
                Column("cost", "gradients", ".3g"),
                Column("moved", "loss, moved points", ".1e"),
                Column("all", "loss, all points", ".1e"),
            ),
            rows,
        ),
        notes=("Given enough gradients, warm retraining reaches a lower loss than one linear step can.",),
    )


def _test_section(shown: Numbers) -> Section:
    return Section(
        "Unseen digits",
        "The change of each test digit's loss, predicted without retraining (gradient-flow element) and after real "
        "retraining of the same duration.",
        figures=(
            Picture(
                "test_losses",
                f"500 test digits at a step of {100 * shown['size']:g} %.",
                "Scatter of predicted against actual loss changes along the diagonal.",
            ),
        ),
    )


def _large_sections(numbers: Numbers) -> tuple[Section, ...]:
    large = numbers["large"]
    if not large:
        return ()
    rows = [{"name": name, **row} for name, row in large["rows"].items()]
    section = Section(
        "A large perturbation",
        f"At a step of {100 * large['size']:g} % one linearisation is no longer enough. Retraining for {large['steps']} steps is followed by linearising again on the way (exponential Euler in time), and compared with the real thing.",
        table=Table(
            "Predicted and real retraining",
            (
                Column("name", "method", ""),
                Column("error", "error of the weight change", ".2g"),
                Column("moved", "loss, moved points", ".2e"),
                Column("all", "loss, all points", ".2e"),
            ),
            rows,
        ),
        notes=(f"The course {large['message']}.",),
    )
    return (section,)


def _modulus_sections(run: DigitsRun, numbers: Numbers) -> tuple[Section, ...]:
    if not numbers["modulus"]:
        return ()
    return _modulus_section(numbers), *audit_sections(run.audit, run.folder, top=TOP)


def _modulus_section(numbers: Numbers) -> Section:
    names = {"moved": "the moved digits", "all": "all training digits"}
    rows = [{"name": text, **numbers["modulus"][key]} for key, text in names.items()]
    distance = [row["distance"] / row["perturbation"] for row in numbers["sizes"]]
    return Section(
        "How far at most: the Lipschitz modulus",
        "The largest distance that the solution set moves per unit of perturbation, over all directions in which these digits can move together, and what is known of the number.",
        table=Table(
            "Lipschitz modulus of the solution map",
            (
                Column("name", "points that move", ""),
                Column("value", "modulus", ".4g"),
                Column("certainty", "certificate", ""),
                Column("reason", "because", ""),
            ),
            rows,
        ),
        notes=(
            f"Along the directions of this page the set moves by {distance[0]:.3g} per unit, which is {distance[0] / rows[0]['value']:.2g} of the largest.",
            f"The nearest activation kink is about {rows[0]['margin']:.2g} away, in the joint norm of an input and the weights (first-order estimate, over the 200 relatively smallest pre-activations)."
            if math.isfinite(float(rows[0]["margin"]))
            else "The network has no activation kinks.",
        ),
    )
