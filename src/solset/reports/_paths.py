"""Large perturbations of a user's own model: the path of its solution, station by station."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from solset.changes import Move
from solset.errors import bad_value
from solset.paths import Course, check_path, follow_path
from solset.problem import Problem, keeps_outputs
from solset.reports._moves import MoveSettings, map_of, mean_losses
from solset.reports._options import map_option, option, steps_option
from solset.reports._run_folder import RunFolder


def _below_one(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise bad_value(name, expected="between 0 and 1", got=value, cure="Use 1e-3.")


@dataclass(frozen=True)
class PathSettings(MoveSettings):
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
        points = problem.check_points(self.points)
        check_path(problem, points=points, optimality=map_of(self.optimality), nearest=self.nearest)


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
    trained = mean_losses(problem.risk().move(points, dx), points)
    return {
        "trained_moved": trained["moved"],
        "trained_all": trained["all"],
        **_nearest(problem, points, course.end.place * dx, course),
        **_facts(course),
    }


def _nearest(problem: Problem, points: list[int], dx: Tensor, course: Course) -> dict[str, Any]:
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
        "stations": course.rows(),
    }
