"""A run on a user's own model as a page."""

from pathlib import Path
from typing import Any

from solset.plotting import bars_before_after
from solset.problem import Problem
from solset.reports._report import write_report
from solset.reports._report_parts import STEP, Column, Finding, Picture, Report, Section, Table
from solset.reports._run_folder import RunFolder
from solset.reports._users import UserSettings, run_user_problem


def user_experiment(problem: Problem, settings: UserSettings, folder: RunFolder) -> Path:
    """Runs a user's problem into a folder and returns the path of the page."""
    result = run_user_problem(problem, settings, folder)
    rows = [_flat(row) for row in result["sizes"]]
    folder.write_csv("sizes.csv", rows)
    last = max(result["sizes"], key=lambda row: row["size"])
    losses = {name: [last[name]["moved"], last[name]["all"]] for name in ("trained", "estimate")}
    labels = ("moved points", "all points")
    figure = bars_before_after(labels, losses, ylabel="loss per example on the moved data")
    folder.write_figure("losses", figure)
    report = Report(
        "Where would this network have ended up?",
        f"If {len(settings.points)} training points had been moved, how far would the solution set be, and what loss would its nearest element have?",
        summary=(
            Finding(
                "training stability",
                last["distance"],
                "Distance from the trained weights to the estimated solution set, at the largest step that was run.",
            ),
            Finding(
                "per unit of perturbation",
                last["ratio"],
                "The same distance over the norm of the perturbation, in weight units per input unit.",
            ),
            Finding(
                "loss on the moved points",
                last["trained"]["moved"],
                f"The loss at the trained weights; at the estimated ones it is {last['estimate']['moved']:.3g}.",
            ),
        ),
        sections=(_estimates(result["setup"], last, rows, settings),),
        warnings=_warnings(result),
    )
    return write_report(folder, report)


def _flat(row: dict[str, Any]) -> dict[str, object]:
    flat = {key: value for key, value in row.items() if not isinstance(value, dict)}
    flat["step_percent"] = 100 * row["size"]
    for where in ("trained", "estimate"):
        flat |= {f"{part}_{where}": value for part, value in row[where].items()}
    return flat


def _estimates(
    setup: dict[str, Any], last: dict[str, Any], rows: list[dict[str, object]], settings: UserSettings
) -> Section:
    return Section(
        "Estimates",
        "The minimum-norm element of the estimated solution set, applied to the model. The residual says how nearly the linear system was solved; a set that is empty at tolerance 1e-6 is represented by its least-squares element.",
        figures=(
            Picture(
                "losses", f"Losses at a step of {100 * last['size']:g} %.", "Bars of losses before and after."
            ),
        ),
        table=Table(
            "Steps",
            (
                STEP,
                Column("distance", "distance"),
                Column("sampled_distance", "nearest sample"),
                Column("status", "status"),
                Column("residual", "residual", ".1e"),
                Column("risk_trained", "risk: trained", ".8g"),
                Column("risk_estimate", "risk: estimate", ".8g"),
                Column("moved_trained", "moved: trained", ".3g"),
                Column("moved_estimate", "moved: estimate", ".3g"),
            ),
            rows,
        ),
        notes=(
            f"{setup['problem']}.",
            f"Optimality map: {setup['reason']}.",
            f"Directions: {settings.direction}; each point moves by the stated percentage of its own norm, in input units after preprocessing.",
            f"Solver: {setup['solver']}. Status: converged, the linear system is solved; inconsistent, it has no solution and the least-squares element stands in; max_steps, the solver ran out of steps and the numbers are not to be used.",
            "The risk is what training minimises, weight decay included; the other columns are losses per example.",
            "These are estimates: solset.retrain gives the truth to judge them by.",
        ),
    )


def _warnings(result: dict[str, Any]) -> tuple[str, ...]:
    warnings = []
    if result["setup"]["gradient_norm"] > 1e-3:
        warnings.append(
            f"The weights are not stationary: the gradient norm of the risk is {result['setup']['gradient_norm']:.3g}."
        )
    empty = [f"{100 * row['size']:g} %" for row in result["sizes"] if row["is_empty"]]
    if empty:
        warnings.append(
            f"The estimated set is empty at tolerance 1e-6 for steps of {', '.join(empty)}: the numbers are of its least-squares element."
        )
    return tuple(warnings)
