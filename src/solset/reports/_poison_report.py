"""A perturbation by design as a page: every claim beside the retraining that backs it."""

from math import isfinite
from pathlib import Path
from typing import Any

from solset.plotting import image_grid, marks_before_after
from solset.poisoning import DRIFT
from solset.reports._poison import PoisonRun
from solset.reports._poison_task import PoisonSettings
from solset.reports._report import write_report
from solset.reports._report_parts import (
    Column,
    Finding,
    Picture,
    Report,
    Section,
    Table,
    as_images,
    columns,
    leftover_gradient,
)

SHOWN_POINTS, SHOWN_GUARDED = 10, 20

_RETRAINING = (
    Column("name", "retraining"),
    *columns(".5g", clean="clean data", poisoned="moved data"),
    *columns(".3g", change="change", linear_change="linear estimate", predicted_change="followed"),
    *columns(".3g", random_mean="random: mean", random_best="random: best", times_chance="times chance"),
    Column("is_success", "as meant"),
    Column("gradient_norm", "gradient norm", ".1e"),
)
_POINTS = (
    Column("point", "point", "d"),
    *columns(norm="norm before", moved="moved by"),
    Column("percent", "of its norm", ".3g", "%"),
    Column("largest", "largest entry", ".3g"),
    Column("features", "features moved", "d"),
)
_GUARD = (
    *columns("d", rank="rank", point="point"),
    *columns(effect="effect of a unit move", may_move="in the budget"),
)
_ROUNDS = (
    Column("number", "round", "d"),
    Column("size", "size"),
    *columns(".5g", predicted="by the linearisation", value="by re-solving"),
    Column("stride", "stride", ".3g"),
    Column("is_kept", "kept"),
)


def poison_experiment(run: PoisonRun) -> Path:
    """Runs a designed perturbation into its folder and returns the path of the page."""
    result = run.numbers()
    run.folder.write_json("result.json", result)
    run.folder.write_csv("retraining.csv", result["gain"])
    run.folder.write_csv("guard.csv", result["guard"])
    design, first = result["design"], result["gain"][0]
    verb = "raise" if design["is_raised"] else "lower"
    report = Report(
        "Which change of the training data moves the model there?",
        f"Within a budget of {run.settings.radius:g} ({_budget_text(run.settings)}) on {len(run.settings.points)} training points, how far can their features {verb} the {design['goal']}, and does real retraining confirm it?",
        summary=[
            Finding(
                f"change after {first['name']}",
                first["change"],
                f"The goal after real retraining on the moved points, minus the goal after the same retraining on the clean ones; one linear estimate predicted {first['linear_change']:.4g}.",
            ),
            Finding(
                "random directions of the same size",
                first["random_mean"],
                "Mean change over random perturbations that use the whole budget, after the same retraining.",
            ),
            Finding(
                "times chance",
                first["times_chance"],
                "The designed change divided by the mean size of the changes of the random perturbations.",
                ".3g",
            ),
            Finding(
                "confirmed by every retraining",
                result["judgement"]["is_confirmed"],
                "Whether each way of retraining below moved the goal in the direction that was meant.",
            ),
        ],
        sections=poison_sections(run, result),
        warnings=(*_warnings(result), *leftover_gradient(run.task.problem)),
    )
    return write_report(run.folder, report)


def _budget_text(settings: PoisonSettings) -> str:
    norm = {"l2": "Euclidean norm", "linf": "largest entry"}[settings.norm]
    return f"{norm}, {'of each point' if settings.scope == 'per_point' else 'of all points together'}"


def poison_sections(run: PoisonRun, result: dict[str, Any]) -> tuple[Section, ...]:
    """The sections of the page, whose figures are written to the run folder."""
    return (
        _effect_section(run, result),
        _points_section(run, result),
        _guard_section(result),
        _course_section(result["design"]),
    )


def _effect_section(run: PoisonRun, result: dict[str, Any]) -> Section:
    design, gain = result["design"], result["gain"]
    sign = 1.0 if design["is_raised"] else -1.0
    groups = {
        "estimate": [sign * row["linear_change"] for row in gain],
        "retraining": [sign * row["change"] for row in gain],
    }
    if result["random"]:
        groups["random, mean size"] = [row["random_typical"] for row in gain]
    labels = [row["name"].replace(", ", ",\n").replace(" steps of ", " steps of\n") for row in gain]
    ylabel = f"{'rise' if sign > 0 else 'fall'} of the {design['goal']}"
    run.folder.write_figure("effect", marks_before_after(labels, groups, ylabel=ylabel))
    picture = Picture(
        "effect",
        "Changes of the goal in the direction meant: by one linear estimate, made for the first way of retraining, by each real retraining, and the mean size of those of random perturbations. A change the other way is a hollow mark with its number.",
        "Marks of the change of the goal: predicted, by retraining, by chance.",
    )
    return Section(
        "Predicted against actual effect",
        f"The {design['goal']} after each way of retraining, on the clean and on the moved data. The prediction is for the first way alone; the others show whether the effect carries over.",
        [
            picture,
            Table("Retraining", _RETRAINING, gain),
            f"At the trained weights the goal is {design['trained']:.5g}, and {design['clean']:.5g} where the ascent's own re-solving ends on clean data, from which its changes are counted; to first order it would become {design['first_order']:.5g}, by one linear estimate {design['linear']:.5g}, and followed from round to round {design['predicted']:.5g}.",
            "Followed: where the ascent's own re-solving ended. If gradient descent is counted on, that is the first way of retraining itself and agrees with it by construction; the linear estimate is the prediction made without any training.",
            "Times chance: the change over the mean size of the changes that random perturbations of the whole budget made by the same retraining.",
            "The gradient norm is that of the risk on the moved data where retraining ended.",
        ],
    )


def _points_section(run: PoisonRun, result: dict[str, Any]) -> Section:
    inputs, dx = run.inputs().flatten(1), run.dx.flatten(1)
    rows = [
        {
            "point": point,
            "norm": float(before.norm()),
            "moved": float(change.norm()),
            "largest": float(change.abs().max()),
            "features": int((change != 0).sum()),
            "percent": 100 * float(change.norm() / before.norm()) if bool(before.any()) else None,
        }
        for point, before, change in zip(run.settings.points, inputs, dx, strict=True)
    ]
    picture = Picture(
        "points",
        "The points that moved most: before, after, and the difference on its own scale.",
        "Images before and after, and their difference.",
    )
    inside = "is" if result["design"]["is_feasible"] else "IS NOT"
    return Section(
        "The moved points",
        "The distance that each point moved, in input units after preprocessing.",
        [
            *([picture] if _draw_points(run) else []),
            Table("Points", _POINTS, rows),
            f"The perturbation {inside} within the budget and the valid features, checked without a tolerance.",
        ],
    )


def _draw_points(run: PoisonRun) -> bool:
    """Writes the figure of the points that moved most; false where points are no images."""
    order = run.dx.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:SHOWN_POINTS]
    before, after = (as_images(x[order], run.settings.image) for x in (run.inputs(), run.inputs() + run.dx))
    if before is None or after is None:
        return False
    captions = [f"point {run.settings.points[i]}" for i in order.tolist()]
    run.folder.write_figure("points", image_grid(before.numpy(), after.numpy(), captions))
    return True


def _guard_section(result: dict[str, Any]) -> Section:
    guard = result["guard"]
    shown = guard[:SHOWN_GUARDED]
    return Section(
        "Which points to guard",
        "All training points, ranked by the change of the goal, to first order, when one point alone moves by one unit along its own worst direction. A poisoner moves the first points of this list, and a defender checks them first.",
        [
            Table(f"The first {len(shown)} of {len(guard)} points", _GUARD, shown),
            f"{100 * result['design']['unbounded']:.3g} % of the goal's gradient lies outside the range of the constraint: along that part the goal is unbounded to first order on the solution set, and which solution training takes decides, not the data.",
        ],
    )


def _course_section(design: dict[str, Any]) -> Section:
    return Section(
        "The course of the ascent",
        "Each round linearises the problem at the moved data, takes a step, and solves the problem again. A round is taken back if the goal does not rise after this.",
        [
            Table("Rounds", _ROUNDS, design["course"]),
            f"It stopped because: {design['reason']}.",
            f"Optimality map: {design['optimality']}.",
        ],
    )


def _warnings(result: dict[str, Any]) -> tuple[str, ...]:
    gain, design = result["gain"], result["design"]
    diverged = ", ".join(row["name"] for row in gain if not isfinite(row["change"]))
    lost = ", ".join(row["name"] for row in gain if not isfinite(row["random_mean"] or 0.0))
    failed = ", ".join(row["name"] for row in gain if not row["is_success"])
    warnings = (
        (
            diverged,
            f"Training diverged by {diverged}: the goal is no number there, on clean or on moved data; take a smaller learning rate.",
        ),
        (lost, f"On random perturbations training diverged by {lost}."),
        (
            design["drift"] > DRIFT,
            f"Training had not stopped: on data that did not move the goal goes from {design['trained']:.5g} to {design['clean']:.5g} by itself, where the perturbation adds {design['predicted'] - design['clean']:.3g}. Changes are counted from there; the linear estimate and the ranking of points cannot be trusted.",
        ),
        (failed, f"Not confirmed by {failed}: no success is claimed there."),
    )
    texts = (text for applies, text in warnings if applies)
    return tuple(texts)
