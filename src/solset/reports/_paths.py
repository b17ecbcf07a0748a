"""Large perturbations of a user's own model: the path of its solution, station by station."""

from dataclasses import dataclass
from typing import Any

import torch

from solset.changes import Move
from solset.errors import bad_value
from solset.paths import Course, check_path, follow_path
from solset.problem import Optimality, Problem, as_map, keeps_outputs
from solset.reports._directions import check_sizes, step_of
from solset.reports._options import check_seed
from solset.reports._run_folder import RunFolder
from solset.reports._stages import stage
from solset.reports._users import check_settings, chosen_directions


@dataclass(frozen=True)
class PathSettings:
    """What a run along a path is asked to do.

    Attributes:
        source: ``FILE.py:FUNCTION``; the function takes nothing and returns a Problem.
        points: ``K``.
        direction: ``"gradient"``, ``"random"``, or a safetensors file with the key ``directions``.
        sizes: Steps as fractions of each moved point's norm, a path each.
        optimality: The map whose solutions are followed.
        tol: Error of the end along the set, relative to the length of the path.
        nearest: Whether to look for the nearest solution too.
        seed: Of random directions.
    """

    source: str
    points: tuple[int, ...]
    direction: str = "gradient"
    sizes: tuple[float, ...] = (0.05,)
    optimality: Optimality = "auto"
    tol: float = 1e-3
    nearest: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_sizes(self.sizes)
        if not 0 < self.tol < 1:
            raise bad_value("tol", expected="between 0 and 1", got=self.tol, cure="Use 1e-3.")
        asked = as_map(self.optimality)
        if asked is not None and not asked.is_exact:
            raise bad_value(
                "optimality",
                expected="auto, interpolating or stationary",
                got=repr(self.optimality),
                cure="Its solutions are those of the stationary map: follow that.",
            )


def check_path_settings(problem: Problem, settings: PathSettings) -> None:
    """Refuses settings that do not fit the problem, and a problem that has no path.

    Args:
        problem: The trained point.
        settings: What the run is asked to do.

    Raises:
        ValueError: As for :func:`check_settings` and :func:`check_path`.

    Cost: one gradient over the moved points, and what the run needs anyway.
    """
    check_settings(problem, settings)
    points = problem.check_points(settings.points)
    check_path(problem, points=points, optimality=settings.optimality, nearest=settings.nearest)


def run_paths(problem: Problem, settings: PathSettings, folder: RunFolder) -> dict[str, Any]:
    """Follows a path for every size; an interrupted one is taken up where it was left.

    Args:
        problem: The trained point.
        settings: What to do.
        folder: Where results and the courses go.
    """
    points = problem.check_points(settings.points)
    inputs, _ = problem.risk().points[points]
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
        optimality=settings.optimality,
        max_error=settings.tol,
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
    found = course.nearest
    if found is None:
        return {"nearest_distance": None, "nearest_status": None, "nearest_residual": None}
    residual = found.gradient_norm
    if keeps_outputs(course.optimality):
        start = problem.risk()
        off = start.move(points, dx).at(found.weights).outputs() - start.outputs()
        residual = float(off.abs().max())
    return {
        "nearest_distance": float(found.change.norm()),
        "nearest_status": found.status.value,
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
