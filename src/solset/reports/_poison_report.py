"""A perturbation by design as a page: every claim beside the retraining that backs it."""

from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from solset.plotting import Figure, bars_before_after, image_grid
from solset.poisoning._poisoning import DRIFT
from solset.reports._poison import PoisonRun
from solset.reports._poison_task import PoisonSettings
from solset.reports._report import write_report
from solset.reports._report_parts import Column, Finding, Picture, Report, Section, Table

SHOWN_POINTS, SHOWN_GUARDED = 10, 20


def poison_experiment(run: PoisonRun) -> Path:
    """Runs a designed perturbation into its folder and returns the path of the page."""
    result = run.numbers()
    run.folder.write_json("result.json", result)
    run.folder.write_csv("retraining.csv", result["gain"])
    run.folder.write_csv("guard.csv", result["guard"])
    figures = write_figures(run, result)
    return write_report(run.folder, _report(run, result, figures))


def write_figures(run: PoisonRun, result: dict[str, Any]) -> set[str]:
    """Writes what can be drawn; returns the names."""
    figures = set()
    before = as_images(run.inputs(), run.settings.image)
    if before is not None:
        after = as_images(run.inputs() + run.dx, run.settings.image)
        assert after is not None  # noqa: S101 - shaped like the points before
        order = run.dx.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:SHOWN_POINTS].tolist()
        captions = [f"point {run.settings.points[i]}" for i in order]
        figure = image_grid(before[order].cpu().numpy(), after[order].cpu().numpy(), captions)
        run.folder.write_figure("points", figure)
        figures.add("points")
    run.folder.write_figure("effect", _effect_figure(result))
    return figures | {"effect"}


def _effect_figure(result: dict[str, Any]) -> Figure:
    """Changes in the direction meant: predicted, by retraining, and by chance."""
    gain, sign = result["gain"], 1.0 if result["design"]["is_raised"] else -1.0
    groups = {
        "estimate": [sign * row["linear_change"] for row in gain],
        "retraining": [sign * row["change"] for row in gain],
    }
    if result["random"]:
        groups["random, mean size"] = [row["random_typical"] for row in gain]
    labels = [row["name"].replace(", ", ",\n").replace(" steps of ", " steps of\n") for row in gain]
    meant = "rise" if sign > 0 else "fall"
    return bars_before_after(labels, groups, ylabel=f"{meant} of the {result['design']['goal']}")


def as_images(inputs: Tensor, shape: tuple[int, int] | None) -> Tensor | None:
    """Points as grey or coloured images, ``(k, h, w)`` or ``(k, h, w, 3)``; ``None`` if they are not any."""
    if shape is not None:
        return inputs.reshape(len(inputs), *shape)
    if inputs.ndim == 3:
        return inputs
    if inputs.ndim == 4 and inputs.shape[1] == 1:
        return inputs[:, 0]
    if inputs.ndim == 4 and inputs.shape[1] == 3:
        return inputs.permute(0, 2, 3, 1)
    return None


def _report(run: PoisonRun, result: dict[str, Any], figures: set[str]) -> Report:
    design, first = result["design"], result["gain"][0]
    verb = "raise" if design["is_raised"] else "lower"
    return Report(
        title="Which change of the training data moves the model there?",
        question=f"Within a budget of {run.settings.radius:g} ({_budget_text(run.settings)}) on {len(run.settings.points)} training points, how far can their features {verb} the {design['goal']}, and does real retraining confirm it?",
        summary=(
            Finding(
                f"change after {first['name']}",
                first["change"],
                f"By real retraining on the moved points, minus the same on clean ones; one linear estimate predicted {first['linear_change']:.4g}.",
            ),
            Finding(
                "random directions of the same size",
                first["random_mean"],
                "Mean change over random perturbations that use the whole budget, retrained alike.",
            ),
            Finding(
                "times chance",
                first["times_chance"],
                "The designed change over the mean size of the random ones.",
                ".3g",
            ),
            Finding(
                "confirmed by every retraining",
                result["judgement"]["is_confirmed"],
                "Whether each way of retraining below moved the goal the way it was meant to go.",
            ),
        ),
        sections=poison_sections(run, result, figures),
        warnings=_warnings(result),
        settings=run.folder.settings,
        versions=run.folder.versions,
    )


def poison_sections(run: PoisonRun, result: dict[str, Any], figures: set[str]) -> tuple[Section, ...]:
    """The sections of the page."""
    return (
        _effect_section(result, figures),
        _points_section(run, result, figures),
        _guard_section(result),
        _course_section(result),
    )


def _budget_text(settings: PoisonSettings) -> str:
    norm = {"l2": "Euclidean norm", "linf": "largest entry"}[settings.norm]
    return f"{norm}, {'of each point' if settings.scope == 'per_point' else 'of all points together'}"


def _effect_section(result: dict[str, Any], figures: set[str]) -> Section:
    design = result["design"]
    picture = Picture(
        "effect",
        "Changes of the goal in the direction meant: by one linear estimate, made for the first way of retraining, by each real retraining, and the mean size of those of random perturbations. A change the other way has no bar, only its number.",
        "Bars of the change of the goal: predicted, by retraining, by chance.",
    )
    return Section(
        "Predicted against actual effect",
        f"The {design['goal']} after each way of retraining, on the clean and on the moved data. The prediction is for the first way alone; the others show whether the effect carries over.",
        figures=(picture,) if "effect" in figures else (),
        table=Table(
            "Retraining",
            (
                Column("name", "retraining"),
                Column("clean", "clean data", ".5g"),
                Column("poisoned", "moved data", ".5g"),
                Column("change", "change", ".3g"),
                Column("linear_change", "linear estimate", ".3g"),
                Column("predicted_change", "followed", ".3g"),
                Column("random_mean", "random: mean", ".3g"),
                Column("random_best", "random: best", ".3g"),
                Column("times_chance", "times chance", ".3g"),
                Column("is_success", "as meant"),
                Column("gradient_norm", "gradient norm", ".1e"),
            ),
            result["gain"],
        ),
        notes=(
            f"At the trained weights the goal is {design['trained']:.5g}, and {design['clean']:.5g} where the ascent's own re-solving ends on clean data, from which its changes are counted; to first order it would become {design['first_order']:.5g}, by one linear estimate {design['linear']:.5g}, and followed from round to round {design['predicted']:.5g}.",
            "Followed: where the ascent's own re-solving ended. If gradient descent is counted on, that is the first way of retraining itself and agrees with it by construction; the linear estimate is the prediction made without any training.",
            "Times chance: the change over the mean size of the changes that random perturbations of the whole budget made by the same retraining.",
            "The gradient norm is that of the risk on the moved data where retraining ended.",
        ),
    )


def _points_section(run: PoisonRun, result: dict[str, Any], figures: set[str]) -> Section:
    inputs, dx = run.inputs().flatten(1), run.dx.flatten(1)
    rows = [
        {
            "point": point,
            "norm": float(inputs[i].norm()),
            "moved": float(dx[i].norm()),
            "largest": float(dx[i].abs().max()),
            "features": int((dx[i] != 0).sum()),
            "percent": 100 * float(dx[i].norm() / inputs[i].norm()) if bool(inputs[i].any()) else None,
        }
        for i, point in enumerate(run.settings.points)
    ]
    picture = Picture(
        "points",
        "The points that moved most: before, after, and the difference on its own scale.",
        "Images before and after, and their difference.",
    )
    inside = "is" if result["design"]["is_feasible"] else "IS NOT"
    return Section(
        "The moved points",
        "How far each point moved, in input units after preprocessing.",
        figures=(picture,) if "points" in figures else (),
        table=Table(
            "Points",
            (
                Column("point", "point", "d"),
                Column("norm", "norm before", ".4g"),
                Column("moved", "moved by", ".4g"),
                Column("percent", "of its norm", ".3g", "%"),
                Column("largest", "largest entry", ".3g"),
                Column("features", "features moved", "d"),
            ),
            rows,
        ),
        notes=(
            f"The perturbation {inside} within the budget and the valid features, checked without a tolerance.",
        ),
    )


def _guard_section(result: dict[str, Any]) -> Section:
    return Section(
        "Which points to guard",
        "All training points by what a unit move of each alone does to the goal, to first order, along its own worst direction: a poisoner moves the first, a defender checks them first.",
        table=Table(
            f"The first {min(SHOWN_GUARDED, len(result['guard']))} of {len(result['guard'])} points",
            (
                Column("rank", "rank", "d"),
                Column("point", "point", "d"),
                Column("effect", "effect of a unit move", ".4g"),
                Column("may_move", "in the budget"),
            ),
            result["guard"][:SHOWN_GUARDED],
        ),
        notes=(
            f"{100 * result['design']['unbounded']:.3g} % of the goal's gradient lies outside the range of the constraint: along that part the goal is unbounded to first order on the solution set, and which solution training takes decides, not the data.",
        ),
    )


def _course_section(result: dict[str, Any]) -> Section:
    design = result["design"]
    return Section(
        "The course of the ascent",
        "Each round linearises at the moved data, climbs, and re-solves; a round whose rise re-solving does not confirm is taken back.",
        table=Table(
            "Rounds",
            (
                Column("number", "round", "d"),
                Column("size", "size", ".4g"),
                Column("predicted", "by the linearisation", ".5g"),
                Column("value", "by re-solving", ".5g"),
                Column("stride", "stride", ".3g"),
                Column("is_kept", "kept"),
            ),
            design["course"],
        ),
        notes=(f"It stopped because: {design['reason']}.", f"Optimality map: {design['optimality']}."),
    )


def _warnings(result: dict[str, Any]) -> tuple[str, ...]:
    warnings = []
    gain, design = result["gain"], result["design"]
    diverged = [row["name"] for row in gain if not isfinite(row["change"])]
    if diverged:
        warnings.append(
            f"Training diverged by {', '.join(diverged)}: the goal is no number there, on clean or on moved data; take a smaller learning rate."
        )
    lost = [
        row["name"] for row in gain if row["random_mean"] is not None and not isfinite(row["random_mean"])
    ]
    if lost:
        warnings.append(f"On random perturbations training diverged by {', '.join(lost)}.")
    if design["drift"] > DRIFT:
        warnings.append(
            f"Training had not stopped: on data that did not move the goal goes from {design['trained']:.5g} to {design['clean']:.5g} by itself, where the perturbation adds {design['predicted'] - design['clean']:.3g}. Changes are counted from there; the linear estimate and the ranking of points cannot be trusted."
        )
    failed = [row["name"] for row in gain if not row["is_success"]]
    if failed:
        warnings.append(f"Not confirmed by {', '.join(failed)}: no success is claimed there.")
    if design["gradient_norm"] > 1e-3:
        warnings.append(
            f"The weights are not stationary: the gradient norm of the risk is {design['gradient_norm']:.3g}."
        )
    return tuple(warnings)
