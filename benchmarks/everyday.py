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
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.everyday_models import Everyday, everyday
from benchmarks.everyday_rivals import rivals
from benchmarks.tables import table
from solset import Problem, Remove
from solset.errors import SolsetWarning
from solset.goals import PointLosses
from solset.linalg import krylov
from solset.operators import GaussNewton
from solset.problem import calibrate
from solset.training import Run


@dataclass(frozen=True, eq=False)
class Truth:
    """Real changes of test losses.

    Attributes:
        changes: Change of each test loss, ``(seeds, removals, tests)``; the first seed is that of the model.
        inside: One where a point is removed, ``(removals, n)``.
    """

    changes: Tensor
    inside: Tensor

    def judge(self, scores: Tensor) -> dict[str, float]:
        """LDS and size of a prediction.

        Args:
            scores: Derivative of each test loss in each point's factor, ``(tests, n)``.
        """
        predicted = -self.inside @ scores.double().T
        same, mean = self.changes[0], self.changes.mean(0)
        return {
            "LDS, same seed": lds(predicted, same),
            "LDS, mean": lds(predicted, mean),
            "size": float(predicted.norm() / mean.norm()),
        }

    @property
    def ceiling(self) -> float:
        """LDS of one half of the seeds as a prediction of the other."""
        half = len(self.changes) // 2
        return lds(self.changes[:half].mean(0), self.changes[half:].mean(0))


def lds(predicted: Tensor, real: Tensor) -> float:
    """Rank correlation over removals, averaged over tests; both are ``(removals, tests)``."""
    ranks = [part.T.argsort(1).argsort(1).double() for part in (predicted, real)]
    a, b = (part - part.mean(1, keepdim=True) for part in ranks)
    return float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean())


def truth_of(case: Everyday, removals: int, seeds: int) -> Truth:
    """Removals of random fifths, each trained again from every seed."""
    count, generator = len(case.train[0]), torch.Generator().manual_seed(1)
    sets = [torch.randperm(count, generator=generator)[: count // 5] for _ in range(removals)]
    changes = []
    for seed in range(seeds):
        training = case.training(seed)
        base = _losses(case, training.train(progress=False))
        ends = [training.on(Remove(points.tolist())).train(progress=False) for points in sets]
        changes.append(torch.stack([_losses(case, end) - base for end in ends]))
    inside = torch.stack([torch.zeros(count, dtype=torch.float64).index_fill(0, s, 1.0) for s in sets])
    return Truth(torch.stack(changes), inside)


def _losses(case: Everyday, model: torch.nn.Module) -> Tensor:
    each = type(case.loss)(reduction="none")
    with torch.no_grad():
        losses = each(model(case.test[0]), case.test[1]).double()
    return losses.reshape(len(losses), -1).mean(1)


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
    truth = truth_of(case, removals, seeds)
    largest = _largest(problem)
    reruns = calibrate(problem, lambda change: run.retrain(change, progress=False).model)
    measured = problem.attribute(goal, features=False, optimality=reruns.optimality).weights
    rows = {
        "ours, weights alone": ("none", truth.judge(ours)),
        "ours, three reruns": ("none", truth.judge(torch.as_tensor(measured))),
        "ours, the run": ("none", truth.judge(_from_run(run, goal))),
    }
    for name, settings in rivals(case, problem, goal, largest).items():
        judged = [(setting, truth.judge(scores)) for setting, scores in settings]
        if judged:
            rows[name] = max(judged, key=lambda each: each[1]["LDS, mean"])
    both = {
        "ceiling": truth.ceiling,
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
    lines = [[n, setting, *(f"{v:.3f}" for v in row.values())] for n, (setting, row) in rows.items()]
    print(table(["predictor", "setting", "LDS, same seed", "LDS, mean", "size"], lines), flush=True)
    return {**both, **{name: {"setting": setting, **row} for name, (setting, row) in rows.items()}}


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
