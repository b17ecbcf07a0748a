"""Whole points that change, on a user's own model: the estimate or the path, and its page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from solset._stability import training_stability
from solset.paths import follow_path
from solset.plotting import marks_before_after, station_losses
from solset.problem import Problem
from solset.reports._changes import PointChanges
from solset.reports._moves import ChangeSettings, map_of
from solset.reports._report import write_report
from solset.reports._report_parts import (
    Finding,
    Picture,
    Report,
    Section,
    Table,
    columns,
    leftover_gradient,
    sentence,
)
from solset.reports._run_folder import RunFolder

WEIGHTS = "weights.safetensors"
_COLUMNS = (
    *columns("d", count="points"),
    *columns(".4g", trained="loss: trained", after="loss: after"),
)


@dataclass(frozen=True)
class Words:
    """What a page says of the weights that it shows."""

    what: str  # Noun phrase for these weights, as the subject of a sentence
    section: str  # Title of the section
    meaning: str  # Sentences that say what the weights are and are not


ESTIMATED = Words(
    "the nearest solution",
    "The estimate",
    "The minimum-norm element of the estimated solution set, applied to the model: where training that runs "
    "to its end is expected to lead from the trained weights. Points that leave, join or change their class "
    "are answered by a Newton step, small changes of numbers by a derivative.",
)
FOLLOWED = Words(
    "the path of the solution",
    "The path",
    "The path starts at the trained weights and follows the solution while the change is made little by little. "
    "Its end is a solution on the changed data.",
)


def estimate_points(problem: Problem, settings: Any, folder: RunFolder) -> Path:
    """Estimates the solution set after the change into a folder; the path of the page."""
    changes = settings.point_changes(problem)

    def compute() -> dict[str, Any]:
        stability = training_stability(
            problem,
            changes.whole,
            samples=settings.samples,
            generator=torch.Generator().manual_seed(settings.seed + 1),
            optimality=map_of(settings.optimality),
        )
        weights = stability.solution.value
        samples = (
            {"samples": torch.stack([one.value for one in stability.samples])} if settings.samples else {}
        )
        folder.write_tensors(WEIGHTS, {"trained": problem.weights().clone(), "after": weights, **samples})
        derivative = problem.derivative(changes.whole, optimality=map_of(settings.optimality))
        return {
            **_record(problem, changes, weights),
            "status": stability.status.value,
            "message": stability.solution.message,
            "residual": stability.solution.residual,
            "is_empty": stability.is_empty,
            "sampled_distance": stability.sampled_distance,
            "reason": f"Optimality map: {derivative.reason}.",
        }

    result = folder.stage("change", compute, beside=[WEIGHTS])
    doubts = [sentence(result["message"])] if result["message"] else []
    return _page(problem, settings, folder, result, ESTIMATED, doubts)


def follow_points(problem: Problem, settings: Any, folder: RunFolder) -> Path:
    """Follows the solution to the end of the change into a folder; the path of the page."""
    changes = settings.point_changes(problem)

    def compute() -> dict[str, Any]:
        course = follow_path(
            problem,
            changes.whole,
            optimality=map_of(settings.optimality),
            max_error=settings.max_error,
            nearest=settings.nearest,
            checkpoint=folder.reserve("course.safetensors"),
        )
        folder.write_tensors(WEIGHTS, {"trained": problem.weights().clone(), "after": course.weights})
        return {
            **_record(problem, changes, course.weights),
            "status": course.reason.value,
            "message": course.message,
            "residual": course.end.residual,
            "is_complete": course.is_complete,
            "place": course.end.place,
            "gradients": course.end.gradients,
            "reason": f"Map followed: {course.optimality}. The path {course.message}.",
            "stations": course.rows(),
        }

    result = folder.stage("change", compute, beside=[WEIGHTS])
    stop = None if result["is_complete"] else result["place"]
    folder.write_figure("course", station_losses(result["stations"], stop=stop))
    doubts = [] if result["is_complete"] else [f"The path was not completed: it {result['message']}."]
    picture = Picture(
        "course",
        "Losses and distance along the path.",
        "Lines of losses and distance by the share of the change.",
    )
    return _page(problem, settings, folder, result, FOLLOWED, doubts, [picture])


def _record(problem: Problem, changes: PointChanges, weights: Tensor) -> dict[str, Any]:
    """How far the weights moved, and the mean losses of the points concerned, before and after."""
    risk, trained = problem.risk(), problem.weights()
    step = float(torch.linalg.vector_norm(weights - trained))
    changed = changes.whole.applied_to(risk)
    groups = [
        {
            "group": words,
            "count": len(losses.points),
            "trained": float(losses.losses().mean()),
            "after": float(losses.at(weights).losses().mean()),
        }
        for words, losses in changes.groups(risk)
    ]
    return {
        "problem": repr(problem),
        "distance": step,
        "share": step / max(float(torch.linalg.vector_norm(trained)), torch.finfo(trained.dtype).tiny),
        "risk": {"trained": changed.value(), "after": changed.at(weights).value()},
        "groups": groups,
    }


def _page(
    problem: Problem,
    settings: ChangeSettings,
    folder: RunFolder,
    result: dict[str, Any],
    words: Words,
    doubts: Sequence[str],
    pictures: Sequence[Picture] = (),
) -> Path:
    """The page of one change of whole points."""
    folder.write_json("result.json", result)
    rows = result["groups"]
    folder.write_csv("losses.csv", rows)
    losses = {"trained": [row["trained"] for row in rows], "after": [row["after"] for row in rows]}
    labels = [f"{row['group']}" for row in rows]
    folder.write_figure("losses", marks_before_after(labels, losses, ylabel="mean loss per example"))
    far = f"by {result['distance']:.3g}, which is {100 * result['share']:.2g} % of their length"
    report = Report(
        "Where would this network have ended up?",
        f"With {settings.sentence_part}, {words.what} moves the weights {far}.",
        summary=_findings(result),
        sections=[_section(result, words, pictures)],
        warnings=[*leftover_gradient(problem), *doubts],
    )
    return write_report(folder, report)


def _findings(result: dict[str, Any]) -> list[Finding]:
    first, risk = result["groups"][0], result["risk"]
    return [
        Finding(
            "distance",
            result["distance"],
            "Distance from the trained weights to the new ones, in weight units.",
        ),
        Finding(
            f"loss of the points that are {first['group']}",
            first["after"],
            f"Their mean loss at the new weights; at the trained ones it is {first['trained']:.3g}.",
        ),
        Finding(
            "risk on the changed data",
            risk["after"],
            f"What training minimises, at the new weights; at the trained ones it is {risk['trained']:.3g}.",
        ),
    ]


def _section(result: dict[str, Any], words: Words, pictures: Sequence[Picture]) -> Section:
    parts = [
        *pictures,
        Picture("losses", "Mean losses at the trained and at the new weights.", "Marks of losses."),
        Table("Losses per example", (*columns(group="points that are"), *_COLUMNS), result["groups"]),
        f"{result['problem']}.",
        result["reason"],
        f"The status is {result['status']}, at a residual of {result['residual']:.1e}.",
        "Points that leave, and points of another weight, are shown with the loss of their own data.",
        "solset.retrain gives the truth by which to judge these numbers.",
    ]
    return Section(words.section, words.meaning, parts)
