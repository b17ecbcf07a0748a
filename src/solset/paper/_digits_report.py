"""The demo as a page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from solset.paper._digits import DigitsRun
from solset.plotting import error_against_step, image_grid, marks_before_after, scatter_agreement
from solset.reports import (
    STEP,
    Column,
    Finding,
    Picture,
    Report,
    Section,
    Table,
    audit_sections,
    columns,
    draw_audit,
    flat_rows,
    poison_sections,
    write_report,
)

Numbers = Mapping[str, Any]
Rows = Sequence[Mapping[str, object]]
TOP = 10  # digits shown of the audit


def digits_experiment(run: DigitsRun) -> Path:
    """Runs what is not done yet and writes figures, tables and the page; returns the page's path."""
    numbers = run.numbers()
    rows, shown = flat_rows(numbers["sizes"]), _shown(numbers)
    run.folder.write_csv("sizes.csv", rows)
    _draw(run, numbers, shown)
    sections = [
        _setting_section(run, numbers["setup"]),
        _prediction_section(run, rows),
        _loss_section(rows, 100 * shown["size"]),
        _warm_section(numbers["warm_retraining"]),
        _test_section(shown),
    ]
    if numbers["large"]:
        sections.append(_large_section(numbers["large"]))
    if numbers["modulus"]:
        draw_audit(run.problem, run.audit, run.folder, top=TOP)
        run.folder.write_csv("ranking.csv", run.audit.rows())
        sections += [_modulus_section(numbers), *audit_sections(run.audit, run.folder, top=TOP)]
    if "poisoning" in numbers:
        sections += poison_sections(run.poisoning, numbers["poisoning"])
    return write_report(run.folder, _report(run, numbers, shown, sections))


def _shown(numbers: Numbers) -> Numbers:
    """The size that the pictures show: 0.5 % if it was run, else the middle one."""
    sizes = numbers["sizes"]
    return next((row for row in sizes if row["size"] == 0.005), sizes[len(sizes) // 2])


def _draw(run: DigitsRun, numbers: Numbers, shown: Numbers) -> None:
    folder, sizes = run.folder, numbers["sizes"]
    percent = [100 * row["size"] for row in sizes]
    curves = {
        f"gradient flow, {k} steps": (percent, [row["flow_error"][str(k)] for row in sizes])
        for k in run.settings.steps
    }
    near = [(100 * row["size"], row["nearest"]["error"]) for row in sizes if "nearest" in row]
    if near:
        curves["minimum norm, nearest solution"] = ([x for x, _ in near], [y for _, y in near])
    folder.write_figure("error_against_step", error_against_step(curves))
    losses = {
        name: [shown["losses"][name][part] for part in ("moved", "all")]
        for name in ("trained", "estimate", "retraining")
    }
    labels = ("moved points", "all points")
    marks = marks_before_after(labels, losses, ylabel="mean squared error on the moved data")
    folder.write_figure("losses", marks)
    test = shown["test"]
    agreement = scatter_agreement(
        np.array(test["predicted"]),
        np.array(test["actual"]),
        correlation=test["correlation"],
        xlabel="predicted change of a test digit's loss",
        ylabel="change after real retraining",
    )
    folder.write_figure("test_losses", agreement)
    images = run.train.inputs[run.moved[:5]]
    moved = images + run.dx(shown["size"])[:5]
    captions = [f"training digit {i}" for i in run.moved[:5]]
    grid = image_grid(images.reshape(-1, 8, 8).numpy(), moved.reshape(-1, 8, 8).numpy(), captions)
    folder.write_figure("moved_digits", grid)


def _report(run: DigitsRun, numbers: Numbers, shown: Numbers, sections: Sequence[Section]) -> Report:
    losses, last = shown["losses"], str(max(run.settings.steps))
    return Report(
        "Ten training digits move: where does the network go?",
        f"If {run.settings.moved} of {run.settings.points} training digits had been slightly different, where would the trained network have ended up, and is the answer the one that retraining gives?",
        summary=[
            Finding(
                "training stability",
                shown["distance"],
                f"Distance in weight space from the trained network to the estimated solution set at a step of {100 * shown['size']:g} %.",
            ),
            Finding(
                "loss on the moved points",
                losses["trained"]["moved"],
                f"The loss of the trained network; at the estimated minimum-norm solution it is {losses['estimate']['moved']:.2g}, without retraining.",
                ".2g",
            ),
            Finding(
                "error of the predicted weight change",
                shown["flow_error"][last],
                f"Relative error against the weight change after {last} real gradient-descent steps on the moved data.",
                ".3f",
            ),
            Finding(
                "correlation on unseen digits",
                shown["test"]["correlation"],
                "Correlation between the predicted and the actual changes of 500 test losses.",
                ".3f",
            ),
        ],
        sections=sections,
        warnings=_warnings(numbers),
    )


def _warnings(numbers: Numbers) -> list[str]:
    warnings = []
    if numbers["setup"]["largest_fit_error"] > 1e-10:
        warnings.append(f"The network was fitted only to {numbers['setup']['largest_fit_error']:.1e}.")
    unsettled = [row for row in numbers["sizes"] if row.get("nearest", {}).get("status") == "max_steps"]
    warnings += [
        f"At {100 * row['size']:g} % the search for the nearest solution did not settle within its steps (activation kinks, or curvature); it ended at an output error ‖f − f̄‖ of {row['nearest']['output_error']:.1e}. The stated error is measured against a solution that is near the nearest one."
        for row in unsettled
    ]
    return warnings


def _setting_section(run: DigitsRun, setup: Numbers) -> Section:
    directions = {
        "cross_entropy": "along the gradient of the cross-entropy of the outputs (the gradient of the fitted squared loss is rounding noise)",
        "random": "along random directions",
    }
    dimension = f"The dimension of the solution set is not known: {setup['qualification']}."
    if setup["rank"] is not None:
        dimension = f"The solution set is a manifold of dimension {setup['dimension']:,}: {setup['weights']:,} weights, {setup['rank']:,} independent constraints."
    network = "ReLU" if run.settings.activation == "relu" else "tanh"
    return Section(
        "What was moved",
        f"A {network} network with {setup['weights']:,} weights is fitted to {setup['points']} digits up to an output error of {setup['largest_fit_error']:.0e}; {len(setup['moved'])} of them move {directions[run.settings.direction]}, each by the stated percentage of its own norm.",
        [
            Picture(
                "moved_digits",
                "The first five moved digits: before, after, and what changed.",
                "Rows of small digit images.",
            ),
            f"Optimality map: {setup['reason']}.",
            dimension,
            f"Accuracy on 500 unseen digits: {setup['test_accuracy']:.3f}.",
        ],
    )


def _prediction_section(run: DigitsRun, rows: Rows) -> Section:
    shown = (
        STEP,
        *columns(".3g", distance="distance to the set", sampled_distance="nearest of the samples"),
        *(Column(f"flow_error_{k}", f"error, flow of {k} steps", ".2g") for k in run.settings.steps),
        Column("nearest_error", "error, minimum norm", ".2g"),
    )
    return Section(
        "The predicted weight change against the real one",
        "Gradient descent of a finite duration stops short of the solution set; the gradient-flow element predicts where. The minimum-norm element predicts the solution nearest to the trained weights. Errors are relative to the length of the real change.",
        [
            Picture(
                "error_against_step",
                "Error of the predicted weight change. Where no activation switches the error is proportional to the step, as it must be for a first-order method; where ReLU units switch between the trained point and the moved one, it is larger and no longer proportional.",
                "Curves of relative error against step size.",
            ),
            Table("Predicted and actual weight change", shown, rows),
        ],
    )


def _loss_section(rows: Rows, step: float) -> Section:
    names = {"trained": "trained", "estimate": "estimate", "retraining": "after retraining"}
    heads = {
        f"losses_{key}_{part}": f"{part}: {name}" for part in ("moved", "all") for key, name in names.items()
    }
    for key in ("trained", "estimate", "samples"):
        heads[f"output_error_{key}"] = f"‖f − f̄‖ {'worst sample' if key == 'samples' else key}"
    return Section(
        "Losses on the moved data",
        "Mean squared error per example on the moved points and on all points. The estimate is the minimum-norm solution applied to the model; retraining is real gradient descent for the longest duration.",
        [
            Picture(
                "losses",
                f"At a step of {step:g} %: the trained network, the estimate, and real retraining.",
                "Marks of losses on a log axis.",
            ),
            Table("Losses before and after", (STEP, *columns(".1e", **heads)), rows),
            "One linear step can overshoot to a loss below that of retraining; therefore the output error ‖f − f̄‖ over all training points stands beside it.",
        ],
    )


def _warm_section(race: Numbers) -> Section:
    jobs = {"one direction": race["one_direction"], "ten random directions, mean": race["ten_directions"]}
    names = ("trained", "estimate", "warm, same", "warm, 10 times", "warm, 50 times")
    rows = [
        {
            "job": job,
            "method": name,
            "cost": outcome.get("gradients_each", outcome["gradients"])
            if name == "estimate"
            else outcome[name].get("gradients"),
            "moved": outcome[name]["moved"],
            "all": outcome[name]["all"],
        }
        for job, outcome in jobs.items()
        for name in names
        if name in outcome
    ]
    shown = (
        *columns(job="job", method="method"),
        Column("cost", "gradients", ".3g"),
        *columns(".1e", moved="loss, moved points", all="loss, all points"),
    )
    return Section(
        "What the same work buys by warm retraining",
        f"L-BFGS from the trained weights on the moved data, for as many gradients as the estimate costs and for 10 and 50 times as many, at a step of {100 * race['size']:g} %. The estimate is counted as one gradient per network output for the rows of its Gram matrix, which serve every direction, and two per direction.",
        [
            Table("Estimate and warm retraining", shown, rows),
            "Given enough gradients, warm retraining reaches a lower loss than one linear step can.",
        ],
    )


def _test_section(shown: Numbers) -> Section:
    return Section(
        "Unseen digits",
        "The change of each test digit's loss, predicted without retraining (gradient-flow element) and after real retraining of the same duration.",
        [
            Picture(
                "test_losses",
                f"500 test digits at a step of {100 * shown['size']:g} %.",
                "Scatter of predicted against actual loss changes along the diagonal.",
            )
        ],
    )


def _large_section(large: Numbers) -> Section:
    return Section(
        "A large perturbation",
        f"At a step of {100 * large['size']:g} % one linearisation is no longer enough. Retraining for {large['steps']} steps is followed by linearising again on the way (exponential Euler in time), and compared with the real thing.",
        [
            Table(
                "Predicted and real retraining",
                (
                    Column("name", "method"),
                    Column("error", "error of the weight change", ".2g"),
                    *columns(".2e", moved="loss, moved points", all="loss, all points"),
                ),
                [{"name": name, **row} for name, row in large["rows"].items()],
            ),
            f"The course {large['message']}.",
        ],
    )


def _modulus_section(numbers: Numbers) -> Section:
    names = {"moved": "the moved digits", "all": "all training digits"}
    rows = [{"name": text, **numbers["modulus"][key]} for key, text in names.items()]
    largest, margin = rows[0]["value"], float(rows[0]["margin"])
    distance = numbers["sizes"][0]["distance"] / numbers["sizes"][0]["perturbation"]
    kink = "The network has no activation kinks."
    if math.isfinite(margin):
        kink = f"The nearest activation kink is about {margin:.2g} away, in the joint norm of an input and the weights (first-order estimate, over the 200 relatively smallest pre-activations)."
    return Section(
        "How far at most: the Lipschitz modulus",
        "The largest distance that the solution set moves per unit of perturbation, over all directions in which these digits can move together, and what is known of the number.",
        [
            Table(
                "Lipschitz modulus of the solution map",
                columns(name="points that move", value="modulus", certainty="certificate", reason="because"),
                rows,
            ),
            f"Along the directions of this page the set moves by {distance:.3g} per unit, which is {distance / largest:.2g} of the largest.",
            kink,
        ],
    )
