"""The main job on a user's own model: move points, estimate the set of solutions, and show both on a page."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from solset._stability import training_stability
from solset.changes import Move
from solset.checks import within
from solset.plotting import marks_before_after
from solset.problem import Problem
from solset.reports._changes import named_points
from solset.reports._moves import ChangeSettings, map_of, mean_losses
from solset.reports._options import option, seed_option, source_option
from solset.reports._points_report import estimate_points
from solset.reports._records import flat_rows
from solset.reports._report import write_report
from solset.reports._report_parts import (
    STEP,
    Column,
    Finding,
    Picture,
    Report,
    Section,
    Table,
    columns,
    leftover_gradient,
)
from solset.reports._run_folder import RunFolder
from solset.risk import EmpiricalRisk

_COLUMNS = (
    STEP,
    *columns(distance="distance", sampled_distance="nearest sample", status="status"),
    Column("residual", "residual", ".1e"),
    *columns(".8g", trained_risk="risk: trained", estimate_risk="risk: estimate"),
    *columns(".3g", trained_moved="moved: trained", estimate_moved="moved: estimate"),
)


@dataclass(frozen=True)
class UserSettings(ChangeSettings):
    """Settings of ``solset run``; each field says what it is in its help text."""

    source: str = source_option("a solset.Problem or a solset.Training")
    seed: int = seed_option("random directions and samples")
    samples: int = option(
        5,
        flag="--samples",
        check=partial(within, low=0, cure="Use 0 for none."),
        help="Number of elements drawn from the estimated set.",
    )


def run_user_problem(problem: Problem, settings: UserSettings, folder: RunFolder) -> dict[str, Any]:
    """Estimates the new solution set at every size, stage by stage."""
    moves = settings.moves(problem)
    derivative = problem.derivative(points=moves.points, optimality=map_of(settings.optimality))
    setup = folder.stage(
        "setup",
        lambda: {
            "problem": repr(problem),
            "optimality": derivative.optimality,
            "reason": derivative.reason,
            "solver": type(derivative.solver).__name__,
            "gradient_norm": float(problem.gradient().norm()),
            "fit": problem.fit,
            "risk": problem.risk().value(),
        },
    )

    def estimate(dx: Tensor, size: float) -> dict[str, Any]:
        return _at_size(problem, moves.points, dx, size, settings, folder)

    result = {"setup": setup, "sizes": moves.stages(folder, "size", settings.sizes, estimate)}
    folder.write_json("result.json", result)
    return result


def _at_size(
    problem: Problem, points: list[int], dx: Tensor, size: float, settings: UserSettings, folder: RunFolder
) -> dict[str, Any]:
    stability = training_stability(
        problem,
        Move(points, dx),
        samples=settings.samples,
        generator=torch.Generator().manual_seed(settings.seed + 1),
        optimality=map_of(settings.optimality),
    )
    estimate, samples = stability.solution.value, [sample.value for sample in stability.samples]
    tensors = {"dx": dx, "trained": problem.weights().clone(), "estimate": estimate}
    if samples:
        tensors["samples"] = torch.stack(samples)
    folder.write_tensors(f"weights_{size:g}.safetensors", tensors)
    moved = problem.risk().move(points, dx)

    def losses(risk: EmpiricalRisk) -> dict[str, float]:
        return {**mean_losses(risk, points), "risk": risk.value()}

    of_samples = [losses(moved.at(sample)) for sample in samples]
    return {
        "perturbation": stability.perturbation,
        "distance": stability.distance,
        "sampled_distance": stability.sampled_distance,
        "ratio": stability.ratio,
        "status": stability.status.value,
        "residual": stability.solution.residual,
        "is_empty": stability.is_empty,
        "trained": losses(moved),
        "estimate": losses(moved.at(estimate)),
        "samples": {key: max(each[key] for each in of_samples) for key in of_samples[0]} if samples else {},
    }


def user_experiment(problem: Problem, settings: UserSettings, folder: RunFolder) -> Path:
    """Runs a user's problem into a folder and returns the path of the page."""
    if settings.changes_points:
        return estimate_points(problem, settings, folder)
    result = run_user_problem(problem, settings, folder)
    sizes, rows = result["sizes"], flat_rows(result["sizes"])
    folder.write_csv("sizes.csv", rows)
    last = max(sizes, key=lambda row: row["size"])
    losses = {name: [last[name]["moved"], last[name]["all"]] for name in ("trained", "estimate")}
    labels = ("moved points", "all points")
    figure = marks_before_after(labels, losses, ylabel="loss per example on the moved data")
    folder.write_figure("losses", figure)
    empty = ", ".join(f"{100 * row['size']:g} %" for row in sizes if row["is_empty"])
    warnings = leftover_gradient(problem)
    if empty:
        warnings += (
            f"The estimated set is empty at tolerance 1e-6 for steps of {empty}: the numbers are those of its least-squares element.",
        )
    report = Report(
        "Where would this network have ended up?",
        f"With {named_points(settings.points)} moved by {100 * last['size']:g} % of {'its' if len(settings.points) == 1 else 'their'} length, the nearest solution is {last['distance']:.3g} from the trained weights, and the loss of the moved points goes from {last['trained']['moved']:.3g} to {last['estimate']['moved']:.3g}.",
        summary=_summary(last),
        sections=[_estimates(result["setup"], last, rows, settings)],
        warnings=warnings,
    )
    return write_report(folder, report)


def _summary(last: dict[str, Any]) -> list[Finding]:
    """The numbers at the largest step that was run."""
    return [
        Finding(
            "training stability",
            last["distance"],
            "Distance from the trained weights to the estimated solution set, at the largest step that was run.",
        ),
        Finding(
            "per unit of perturbation",
            last["ratio"],
            "The same distance divided by the norm of the perturbation, in weight units per input unit.",
        ),
        Finding(
            "loss on the moved points",
            last["trained"]["moved"],
            f"The loss at the trained weights; at the estimated ones it is {last['estimate']['moved']:.3g}.",
        ),
    ]


def _estimates(
    setup: dict[str, Any], last: dict[str, Any], rows: list[dict[str, object]], settings: UserSettings
) -> Section:
    caption = f"Losses at a step of {100 * last['size']:g} %."
    return Section(
        "Estimates",
        "The minimum-norm element of the estimated solution set, applied to the model. The residual says how nearly the linear system was solved; a set that is empty at tolerance 1e-6 is represented by its least-squares element.",
        [
            Picture("losses", caption, "Marks of losses before and after."),
            Table("Steps", _COLUMNS, rows),
            f"{setup['problem']}.",
            f"Optimality map: {setup['reason']}.",
            settings.directions_note,
            f"Solver: {setup['solver']}. Its status is converged where the linear system is solved; inconsistent where it has no solution, and the least-squares element stands in; max_steps where the solver ran out of steps, and the numbers are not to be used.",
            "The risk is what training minimises, weight decay included; the other columns are losses per example.",
            "These are estimates: solset.retrain gives the truth by which to judge them.",
        ],
    )
