"""The main job on a user's own model: move points, estimate the set, report."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from solset._stability import training_stability
from solset.changes import Move
from solset.checks import within
from solset.problem import Problem
from solset.reports._moves import MoveSettings, map_of, mean_losses
from solset.reports._options import option, seed_option
from solset.reports._run_folder import RunFolder
from solset.risk import EmpiricalRisk


@dataclass(frozen=True)
class UserSettings(MoveSettings):
    """Settings of ``solset run``; each field says what it is in its help text."""

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
    derivative = problem.graphical_derivative(points=moves.points, optimality=map_of(settings.optimality))
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
