"""The main job on a user's own model: move points, estimate the set, report."""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from solset._stability import Stability, training_stability
from solset.changes import Move
from solset.checks import within
from solset.errors import bad_type, bad_value
from solset.problem import AUTO, Optimality, Problem, as_map
from solset.reports._directions import (
    directions_from_file,
    loss_directions,
    random_directions,
    step_of,
)
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


@dataclass(frozen=True)
class UserSettings(Settings):
    """Settings of ``solset run``; each field says what it is in its help text."""

    source: str = source_option("a solset.Problem")
    points: tuple[int, ...] = option(
        flag="--points", parse=indices, help="Indices of the training points that move, such as 0,3,7."
    )
    direction: str = direction_option()
    sizes: tuple[float, ...] = steps_option((0.01,), "the set is estimated for each")
    optimality: str = map_option("are estimated")
    samples: int = option(
        5,
        flag="--samples",
        check=partial(within, low=0, cure="Use 0 for none."),
        help="Number of elements drawn from the estimated set.",
    )
    seed: int = seed_option("random directions and samples")


def load_problem(source: str) -> Problem:
    """The Problem that a user's function returns; the file finds the modules beside it, as a script does."""
    problem = returned_by(source)
    if not isinstance(problem, Problem):
        raise bad_type(
            "source",
            expected="a function that returns a Problem",
            got=type(problem).__name__,
            cure="Return one.",
        )
    return problem


def returned_by(source: str) -> object:
    """What a user's function returns; the file finds the modules beside it, as a script does."""
    file, _, name = source.rpartition(":")
    path = Path(file)
    if not file or not name or path.suffix != ".py" or not path.is_file():
        raise bad_value(
            "source",
            expected="FILE.py:FUNCTION with an existing file",
            got=repr(source),
            cure="Check the path.",
        )
    name_of_module = f"solset_user_{path.stem}"  # never that of a module which is already in use
    spec = importlib.util.spec_from_file_location(name_of_module, path.resolve())
    if spec is None or spec.loader is None:
        raise bad_value("source", expected="an importable file", got=repr(source), cure="Check the file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name_of_module] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
        function = getattr(module, name, None)
        returned = function() if callable(function) else function
    except (Exception, SystemExit) as error:
        raise bad_value(
            "source",
            expected=f"a file and function {name}() that run",
            got=" ".join(f"{type(error).__name__}: {error}".split()),
            cure="Call it by itself first, or set SOLSET_TRACEBACK=1 to see where it fails.",
        ) from error
    if function is None:
        raise bad_value(
            "source", expected=f"a function {name} in {path.name}", got="none", cure="Check the name."
        )
    return returned


def map_of(name: str) -> Optimality:
    """The optimality map of this name, or the word for the automatic choice."""
    return as_map(name) or AUTO


def check_moves(
    problem: Problem, *, points: Sequence[int], direction: str, optimality: str, seed: int
) -> None:
    """Refuses settings that do not fit the problem; a run folder is made afterwards.

    Cost: one gradient over the moved points.
    """
    checked = problem.check_points(points)
    inputs = problem.risk().points.features(checked)
    chosen_directions(problem, checked, inputs, direction, seed)
    asked = as_map(optimality)
    if asked is not None:
        problem.graphical_derivative(points=checked, optimality=asked)


def check_settings(problem: Problem, settings: UserSettings) -> None:
    """As :func:`check_moves`, for the settings of ``solset run``."""
    check_moves(
        problem,
        points=settings.points,
        direction=settings.direction,
        optimality=settings.optimality,
        seed=settings.seed,
    )


def run_user_problem(problem: Problem, settings: UserSettings, folder: RunFolder) -> dict[str, Any]:
    """Estimates the new solution set at every size, stage by stage."""
    points = problem.check_points(settings.points)
    inputs = problem.risk().points.features(points)
    directions = chosen_directions(problem, points, inputs, settings.direction, settings.seed)
    derivative = problem.graphical_derivative(points=points, optimality=map_of(settings.optimality))
    setup = stage(
        folder,
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
    rows = []
    for size in settings.sizes:
        dx = step_of(inputs, directions, size)
        rows.append(
            stage(
                folder,
                f"size_{size:g}",
                lambda dx=dx, size=size: _at_size(problem, points, dx, size, settings, folder),
                beside=[f"weights_{size:g}.safetensors"],
            )
        )
    result = {"setup": setup, "sizes": rows}
    folder.write_json("result.json", result)
    return result


def chosen_directions(
    problem: Problem, points: list[int], inputs: Tensor, direction: str, seed: int
) -> Tensor:
    """Unit directions for the moved points, ``(|K|, *input)``."""
    if direction == "gradient":
        return loss_directions(problem, points)
    if direction == "random":
        return random_directions(inputs.shape, inputs, torch.Generator().manual_seed(seed))
    return directions_from_file(Path(direction), inputs.shape, inputs)


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
    moved = problem.risk().move(points, dx)
    tensors = {"dx": dx, "trained": problem.weights().clone(), "estimate": stability.solution.value}
    if stability.samples:
        tensors["samples"] = torch.stack([sample.value for sample in stability.samples])
    folder.write_tensors(f"weights_{size:g}.safetensors", tensors)
    return {
        "size": size,
        "perturbation": stability.perturbation,
        "distance": stability.distance,
        "sampled_distance": stability.sampled_distance,
        "ratio": stability.ratio,
        "status": stability.status.value,
        "residual": stability.solution.residual,
        "is_empty": stability.is_empty,
        "trained": _losses(moved, points),
        "estimate": _losses(moved.at(stability.solution.value), points),
        "samples": _worst(moved, points, stability),
    }


def _losses(risk: Any, points: list[int]) -> dict[str, float]:
    losses = risk.losses()
    return {"moved": float(losses[points].mean()), "all": float(losses.mean()), "risk": risk.value()}


def _worst(risk: Any, points: list[int], stability: Stability) -> dict[str, float]:
    losses = [_losses(risk.at(sample.value), points) for sample in stability.samples]
    return {key: max(one[key] for one in losses) for key in losses[0]} if losses else {}
