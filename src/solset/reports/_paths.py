"""Large perturbations of a user's own model: the path of its solution, station by station."""

from dataclasses import dataclass
from typing import Any

import torch

from solset.changes import Move
from solset.errors import bad_value
from solset.paths import Course, check_path, follow_path
from solset.problem import Problem, keeps_outputs
from solset.reports._directions import step_of
from solset.reports._options import (
    Settings,
    direction_option,
    indices,
    map_option,
    option,
    seed_option,
    source_option,
    steps_option,
)
from solset.reports._run_folder import RunFolder
from solset.reports._stages import stage
from solset.reports._users import check_moves, chosen_directions, map_of


def _below_one(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise bad_value(name, expected="between 0 and 1", got=value, cure="Use 1e-3.")


@dataclass(frozen=True)
class PathSettings(Settings):
    """Settings of ``solset path``; each field says what it is in its help text."""

    source: str = source_option("a solset.Problem")
    points: tuple[int, ...] = option(
        flag="--points", parse=indices, help="Indices of the training points that move, such as 0,3,7."
    )
    direction: str = direction_option()
    sizes: tuple[float, ...] = steps_option((0.05,), "one path is followed for each")
    optimality: str = map_option("are followed", only_exact=True)
    max_error: float = option(
        1e-3,
        flag="--max-error",
        check=_below_one,
        help="Error of the path's end along the solution set, relative to the length of the path.",
    )
    nearest: bool = option(
        False,
        flag="--nearest",
        help="Search for the solution nearest to the trained weights too.",
    )
    seed: int = seed_option("random directions")


def check_path_settings(problem: Problem, settings: PathSettings) -> None:
    """Refuses settings that do not fit the problem, and a problem that has no path.

    Cost: one gradient over the moved points, and what the run needs anyway.
    """
    check_moves(
        problem,
        points=settings.points,
        direction=settings.direction,
        optimality=settings.optimality,
        seed=settings.seed,
    )
    points = problem.check_points(settings.points)
    check_path(problem, points=points, optimality=map_of(settings.optimality), nearest=settings.nearest)


def run_paths(problem: Problem, settings: PathSettings, folder: RunFolder) -> dict[str, Any]:
    """Follows a path for every size; an interrupted one is taken up where it was left."""
    points = problem.check_points(settings.points)
    inputs = problem.risk().points.features(points)
    directions = chosen_directions(problem, points, inputs, settings.direction, settings.seed)
    rows = []
    for size in settings.sizes:
        dx = step_of(inputs, directions, size)
        rows.append(
            stage(
                folder,
                f"path_{size:g}",
                lambda dx=dx, size=size: _along(problem, points, dx, size, settings, folder),
                beside=[f"weights_{size:g}.safetensors"],
            )
        )
    result = {"setup": {"problem": repr(problem), "risk": problem.risk().value()}, "paths": rows}
    folder.write_json("result.json", result)
    return result


def _along(
    problem: Problem,
    points: list[int],
    dx: torch.Tensor,
    size: float,
    settings: PathSettings,
    folder: RunFolder,
) -> dict[str, Any]:
    course = follow_path(
        problem,
        Move(points, dx),
        optimality=map_of(settings.optimality),
        max_error=settings.max_error,
        nearest=settings.nearest,
        checkpoint=folder.reserve(f"course_{size:g}.safetensors"),
    )
    moved = problem.risk().move(points, dx)
    losses = moved.losses()
    tensors = {"dx": dx, "trained": problem.weights().clone(), "end": course.weights}
    if course.nearest is not None:
        tensors["nearest"] = course.nearest.weights
    folder.write_tensors(f"weights_{size:g}.safetensors", tensors)
    return {
        "size": size,
        "trained_moved": float(losses[points].mean()),
        "trained_all": float(losses.mean()),
        **_nearest(problem, points, course.end.place * dx, course),
        **_facts(course),
    }


def _nearest(problem: Problem, points: list[int], dx: torch.Tensor, course: Course) -> dict[str, Any]:
    """How far the nearest solution is, and how well it solves; the residual is that of the stations."""
    nearest = course.nearest
    if nearest is None:
        return {"nearest_distance": None, "nearest_status": None, "nearest_residual": None}
    residual = nearest.gradient_norm
    if keeps_outputs(course.optimality):
        start = problem.risk()
        off = start.move(points, dx).at(nearest.weights).outputs() - start.outputs()
        residual = float(off.abs().max())
    return {
        "nearest_distance": float(nearest.change.norm()),
        "nearest_status": nearest.status.value,
        "nearest_residual": residual,
    }


def _facts(course: Course) -> dict[str, Any]:
    end = course.end
    return {
        "optimality": course.optimality,
        "reason": course.reason.value,
        "message": course.message,
        "is_complete": course.is_complete,
        "place": end.place,
        "end_moved": end.moved_loss,
        "end_all": end.all_loss,
        "residual": end.residual,
        "distance": float(course.change.norm()),
        "length": end.length,
        "smallest": course.smallest,
        "gradients": end.gradients,
        "steps": len(course.stations) - 1,
        "stations": [
            {
                "place": station.place,
                "moved_loss": station.moved_loss,
                "all_loss": station.all_loss,
                "residual": station.residual,
                "length": station.length,
                "smallest": station.smallest,
                "rows": station.rows,
                "gradients": station.gradients,
            }
            for station in course.stations
        ],
    }
