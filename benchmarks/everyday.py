"""Four everyday models without any option: what the removal of a fifth of the points does to test losses.

Each is trained by AdamW on mini-batches and stopped after some epochs. The truth is the same recipe run again
without the points, from the same seed and from others. The linear datamodeling score (LDS) is the rank
correlation over the removals of predicted and real changes of a test loss, on average over test losses. A
prediction of a removal is the sum of the scores of its points. Every rival has the best of five settings,
chosen by the truth; ours has one answer.
"""

import copy
import time
import warnings
from typing import Any

import torch
from torch import Tensor

from benchmarks.everyday_models import Everyday, everyday
from benchmarks.everyday_rivals import rivals
from benchmarks.tables import table
from solset import Problem, Remove, compare
from solset.errors import SolsetWarning
from solset.goals import PointLosses
from solset.judge import ByScores, Comparison
from solset.linalg import krylov
from solset.operators import GaussNewton
from solset.problem import calibrate
from solset.training import Run


def in_double(case: Everyday, model: torch.nn.Module) -> tuple[Problem, PointLosses]:
    """The same weights and points in float64."""
    parts = [part.double() if part.is_floating_point() else part for part in (*case.train, *case.test)]
    problem = Problem(copy.deepcopy(model).double(), case.loss, parts[0], parts[1])
    return problem, PointLosses(parts[2], parts[3])


def run(*, small: bool) -> dict[str, object]:
    """Prints how each predictor does on each model, and returns the numbers."""
    results: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolsetWarning)  # weights that are not stationary are what is studied
        for case in everyday(tests=24 if small else 60):
            results[case.name] = _of(case, *((24, 4) if small else (40, 10)))
    return results


def _of(case: Everyday, removals: int, seeds: int) -> dict[str, object]:
    run, goal = case.training().run(progress=False), PointLosses(*case.test)
    start = time.process_time()
    problem = Problem(run.model, case.loss, *case.train)
    ours = torch.as_tensor(problem.attribute(goal, features=False).weights).double()
    seconds = time.process_time() - start
    doubled, goal_in_double = in_double(case, run.model)
    again = torch.as_tensor(doubled.attribute(goal_in_double, features=False).weights)
    changes = _removals(len(case.train[0]), removals)
    largest = _largest(problem)
    reruns = calibrate(problem, lambda change: run.retrain(change, progress=False).model)
    measured = problem.attribute(goal, features=False, optimality=reruns.optimality).weights
    scores: dict[str, Any] = {
        "ours, weights alone": ours,
        "ours, three reruns": measured,
        "ours, the run": _from_run(run, goal),
    }
    for name, settings in rivals(case, problem, goal, largest).items():
        scores |= {f"{name}: {setting}": each for setting, each in settings}
    predictors = {name: ByScores(torch.as_tensor(each)) for name, each in scores.items()}
    judged = compare(run, changes, goal, predictors, seeds=range(1, seeds), progress=False)
    rows = _best_settings(judged)
    both = {
        "half of the seeds, against the others": judged.halves,
        "ceiling": judged.ceiling,
        "float32 to float64, correlation": _correlation(ours, again),
        "float32 to float64, size": float(ours.norm() / again.norm()),
        "damping by reruns": reruns.damping / largest,
        "CPU seconds": seconds,
    }
    weights = len(problem.weights())
    print(
        f"\n{case.name}: {len(case.train[0])} points, {weights} weights, {removals} removals, {seeds} seeds"
    )
    print(", ".join(f"{name} {value:.4g}" for name, value in both.items()))
    heads = ["LDS, same seed", "LDS, mean", "low", "high", "size"]
    lines = [[name, *(f"{row[head]:.3f}" for head in heads)] for name, row in rows.items()]
    print(table(["predictor", *heads], lines))
    best = next(name for name in rows if not name.startswith("ours"))
    lead, low, high = judged.lead("ours, weights alone", best)
    print(f"ours, weights alone, minus {best}: {lead:.3f} ({low:.3f} to {high:.3f})", flush=True)
    return {**both, **rows}


def _removals(count: int, removals: int) -> list[Remove]:
    """Removals of random fifths of the points."""
    generator = torch.Generator().manual_seed(1)
    return [
        Remove(torch.randperm(count, generator=generator)[: count // 5].tolist()) for _ in range(removals)
    ]


def _best_settings(judged: Comparison) -> dict[str, dict[str, float]]:
    """Each predictor at the setting with the best score, the best predictor first."""
    rows: dict[str, dict[str, float]] = {}
    for one in judged.scores:
        numbers = {"LDS, same seed": one.same_seed, "LDS, mean": one.mean, "size": one.size}
        name = one.predictor.partition(": ")[0]
        if name not in {each.partition(": ")[0] for each in rows}:
            rows[one.predictor] = {**numbers, "low": one.low, "high": one.high}
    return rows


def _from_run(run: Run, goal: PointLosses) -> Tensor:
    """Scores by one replay of the run for each test loss."""
    return torch.as_tensor(run.attribute(goal, features=False, verify=False, progress=False).weights)


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def _largest(problem: Problem) -> float:
    """The largest eigenvalue of the Gauss–Newton matrix, in units of which all dampings are."""
    matrix = GaussNewton(problem.risk())
    start = torch.randn(len(problem.weights()), generator=torch.Generator().manual_seed(0))
    return float(torch.linalg.eigvalsh(krylov(matrix, start, 12).matrix).max())
