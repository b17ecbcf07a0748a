"""Large perturbations of a user's own model: the path of its solution, station by station, and its page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from solset.changes import Move
from solset.errors import bad_value
from solset.paths import Course, check_path, follow_path
from solset.plotting import station_losses
from solset.problem import Problem, keeps_outputs
from solset.reports._moves import ChangeSettings, map_of, mean_losses
from solset.reports._options import map_option, option, steps_option
from solset.reports._points_report import follow_points
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

_COLUMNS = (
    STEP,
    Column("reached_percent", "reached", ".4g", "%"),
    *columns(reason="ended with", distance="distance", length="length"),
    *columns(nearest_distance="nearest", nearest_status="nearest: status"),
    *columns(".1e", nearest_residual="nearest: residual", residual="residual"),
    Column("smallest", "smallest", ".2e"),
    *columns(".3g", trained_moved="moved: trained", end_moved="moved: end", end_all="all: end"),
    Column("gradients", "gradients", ".3g"),
)


def _below_one(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise bad_value(name, expected="between 0 and 1", got=value, cure="Use 1e-3.")


@dataclass(frozen=True)
class PathSettings(ChangeSettings):
    """Settings of ``solset path``; each field says what it is in its help text."""

    sizes: tuple[float, ...] = steps_option((0.05,), "one path is followed for each")
    optimality: str = map_option("are followed", only_exact=True)
    max_error: float = option(
        1e-3,
        flag="--max-error",
        check=_below_one,
        help="Error of the path's end along the solution set, relative to the length of the path.",
    )
    nearest: bool = option(
        False, flag="--nearest", help="Search for the solution nearest to the trained weights too."
    )

    def check(self, problem: Problem) -> None:
        """Refuses settings that do not fit the problem, and a problem that has no path."""
        super().check(problem)
        change = self.change_kind(problem)
        check_path(problem, change, optimality=map_of(self.optimality), nearest=self.nearest)


def run_paths(problem: Problem, settings: PathSettings, folder: RunFolder) -> dict[str, Any]:
    """Follows a path for every size; an interrupted one is taken up where it was left."""
    moves = settings.moves(problem)

    def follow(dx: Tensor, size: float) -> dict[str, Any]:
        return _along(problem, moves.points, dx, size, settings, folder)

    result = {
        "setup": {"problem": repr(problem), "risk": problem.risk().value()},
        "paths": moves.stages(folder, "path", settings.sizes, follow),
    }
    folder.write_json("result.json", result)
    return result


def _along(
    problem: Problem, points: list[int], dx: Tensor, size: float, settings: PathSettings, folder: RunFolder
) -> dict[str, Any]:
    course = follow_path(
        problem,
        Move(points, dx),
        optimality=map_of(settings.optimality),
        max_error=settings.max_error,
        nearest=settings.nearest,
        checkpoint=folder.reserve(f"course_{size:g}.safetensors"),
    )
    tensors = {"dx": dx, "trained": problem.weights().clone(), "end": course.weights}
    if course.nearest is not None:
        tensors["nearest"] = course.nearest.weights
    folder.write_tensors(f"weights_{size:g}.safetensors", tensors)
    end = course.end
    return {
        "trained": mean_losses(problem.risk().move(points, dx), points),
        "nearest": _nearest(problem, points, end.place * dx, course),
        "optimality": course.optimality,
        "reason": course.reason.value,
        "message": course.message,
        "is_complete": course.is_complete,
        "place": end.place,
        "reached_percent": 100 * size * end.place,
        "end": {"moved": end.moved_loss, "all": end.all_loss},
        "residual": end.residual,
        "distance": float(course.change.norm()),
        "length": end.length,
        "smallest": course.smallest,
        "gradients": end.gradients,
        "steps": len(course.stations) - 1,
        "stations": course.rows(),
    }


def _nearest(problem: Problem, points: list[int], dx: Tensor, course: Course) -> dict[str, Any]:
    """How far the nearest solution is, and how well it solves; the residual is that of the stations."""
    nearest = course.nearest
    if nearest is None:
        return {"distance": None, "status": None, "residual": None}
    residual = nearest.gradient_norm
    if keeps_outputs(course.optimality):
        start = problem.risk()
        off = start.move(points, dx).at(nearest.weights).outputs() - start.outputs()
        residual = float(off.abs().max())
    return {"distance": float(nearest.change.norm()), "status": nearest.status.value, "residual": residual}


def path_experiment(problem: Problem, settings: PathSettings, folder: RunFolder) -> Path:
    """Follows the paths into a folder and returns the path of the page."""
    if settings.changes_points:
        return follow_points(problem, settings, folder)
    result = run_paths(problem, settings, folder)
    paths = result["paths"]
    folder.write_csv("paths.csv", flat_rows(paths))
    for row in paths:
        stop = None if row["is_complete"] else row["place"]
        folder.write_figure(f"course_{row['size']:g}", station_losses(row["stations"], stop=stop))
    last = max(paths, key=lambda row: row["size"])
    report = Report(
        "Where does the solution go?",
        f"If {len(settings.points)} training points moved little by little, along which weights would the network's solution move with them, and how far does that go well?",
        summary=[
            Finding("how it ended", last["reason"], f"The path to the largest step {last['message']}."),
            Finding(
                "distance",
                last["distance"],
                "Distance from the trained weights to the end of the path, in weight units.",
            ),
            Finding(
                "loss on the moved points",
                last["trained"]["moved"],
                f"The loss at the trained weights for the whole step; at the end of the path it is {last['end']['moved']:.3g}, on the data reached there.",
            ),
        ],
        sections=[_section(result, last["optimality"], settings)],
        warnings=[*leftover_gradient(problem), *(text for row in paths for text in _warnings(row))],
    )
    return write_report(folder, report)


def _warnings(row: dict[str, Any]) -> list[str]:
    path, nearest, warnings = f"The path to {100 * row['size']:g} %", row["nearest"], []
    if not row["is_complete"]:
        warnings.append(f"{path} was not completed: {row['message']}.")
    if nearest["status"] not in (None, "converged"):
        warnings.append(
            f"{path}: the search for the nearest solution ended with {nearest['status']}, at a residual of {nearest['residual']:.1e}."
        )
    return warnings


def _section(result: dict[str, Any], optimality: str, settings: PathSettings) -> Section:
    pictures = [
        Picture(
            f"course_{row['size']:g}",
            f"Losses and distance along the path to a step of {100 * row['size']:g} %; it {row['message']}.",
            "Lines of losses and distance against the share of the perturbation.",
        )
        for row in result["paths"]
    ]
    return Section(
        "Paths",
        "Each path starts at the trained weights and follows the solution while the points move. Its end is a point of the moved solution set. It is neither the nearest point nor what a training of finite length reaches.",
        [
            *pictures,
            Table("Paths", _COLUMNS, flat_rows(result["paths"])),
            f"{result['setup']['problem']}; map followed: {optimality}.",
            settings.directions_note,
            "Residual: the largest error of an output that is kept, or the gradient norm of the risk where the stationary map is followed.",
            "Nearest: the solution nearest to the trained weights for the data that the path reached, where asked for.",
            "Smallest: the smallest singular value of the rows of the Jacobian in use, or eigenvalue of the Hessian on the directions searched, along the path.",
            "Gradients: the cost by count, in gradients of the risk over all points; a forward pass counts a third, a Hessian product two, a row of the Jacobian one gradient of its point.",
        ],
    )
