"""Paths of a user's own model as a page."""

from pathlib import Path
from typing import Any

from solset.plotting import station_losses
from solset.problem import Problem
from solset.reports._paths import PathSettings, run_paths
from solset.reports._report import write_report
from solset.reports._report_parts import STEP, Column, Finding, Picture, Report, Section, Table
from solset.reports._run_folder import RunFolder

_COLUMNS = (
    STEP,
    Column("reached_percent", "reached", ".4g", "%"),
    Column("reason", "ended with"),
    Column("distance", "distance"),
    Column("length", "length"),
    Column("nearest_distance", "nearest"),
    Column("nearest_status", "nearest: status"),
    Column("nearest_residual", "nearest: residual", ".1e"),
    Column("residual", "residual", ".1e"),
    Column("smallest", "smallest", ".2e"),
    Column("trained_moved", "moved: trained", ".3g"),
    Column("end_moved", "moved: end", ".3g"),
    Column("end_all", "all: end", ".3g"),
    Column("gradients", "gradients", ".3g"),
)


def path_experiment(problem: Problem, settings: PathSettings, folder: RunFolder) -> Path:
    """Follows the paths into a folder and returns the path of the page."""
    result = run_paths(problem, settings, folder)
    rows = [_flat(row) for row in result["paths"]]
    folder.write_csv("paths.csv", rows)
    for row in result["paths"]:
        stop = None if row["is_complete"] else row["place"]
        folder.write_figure(f"course_{row['size']:g}", station_losses(row["stations"], stop=stop))
    last = max(result["paths"], key=lambda row: row["size"])
    report = Report(
        "Where does the solution go?",
        f"If {len(settings.points)} training points moved little by little, along which weights would the network's solution move with them, and how far does that go well?",
        summary=(
            Finding("how it ended", last["reason"], f"The path to the largest step {last['message']}."),
            Finding(
                "distance",
                last["distance"],
                "Distance from the trained weights to the end of the path, in weight units.",
            ),
            Finding(
                "loss on the moved points",
                last["trained_moved"],
                f"The loss at the trained weights for the whole step; at the end of the path it is {last['end_moved']:.3g}, on the data reached there.",
            ),
        ),
        sections=(_section(result, last, rows, settings),),
        warnings=tuple(warning for row in result["paths"] for warning in _warnings(row)),
    )
    return write_report(folder, report)


def _flat(row: dict[str, Any]) -> dict[str, object]:
    flat = {key: value for key, value in row.items() if key != "stations"}
    return flat | {"step_percent": 100 * row["size"], "reached_percent": 100 * row["size"] * row["place"]}


def _warnings(row: dict[str, Any]) -> list[str]:
    path, warnings = f"The path to {100 * row['size']:g} %", []
    if not row["is_complete"]:
        warnings.append(f"{path} was not completed: {row['message']}.")
    if row["nearest_status"] not in (None, "converged"):
        warnings.append(
            f"{path}: the search for the nearest solution ended with {row['nearest_status']}, at a residual of {row['nearest_residual']:.1e}."
        )
    return warnings


def _section(
    result: dict[str, Any], last: dict[str, Any], rows: list[dict[str, object]], settings: PathSettings
) -> Section:
    return Section(
        "Paths",
        "Each path starts at the trained weights and follows the solution while the points move. Its end is a point of the moved solution set, not the nearest one, and not what a training of finite length reaches.",
        figures=tuple(
            Picture(
                f"course_{row['size']:g}",
                f"Losses and distance along the path to a step of {100 * row['size']:g} %; it {row['message']}.",
                "Lines of losses and distance against the share of the perturbation.",
            )
            for row in result["paths"]
        ),
        table=Table("Paths", _COLUMNS, rows),
        notes=(
            f"{result['setup']['problem']}; map followed: {last['optimality']}.",
            f"Directions: {settings.direction}; each point moves by the stated percentage of its own norm, in input units after preprocessing.",
            "Residual: the largest error of an output that is kept, or the gradient norm of the risk where the stationary map is followed.",
            "Nearest: the solution nearest to the trained weights for the data that the path reached, where asked for.",
            "Smallest: singular value of the rows of the Jacobian in use, or eigenvalue of the Hessian on the directions searched, along the path.",
            "Gradients: cost by count, in gradients of the risk over all points; a forward pass counts a third, a Hessian product two, a row of the Jacobian one gradient of its point.",
        ),
    )
