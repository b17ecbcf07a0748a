"""Predictors of what a change of the data does to goals: those of solset, and any scores of points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from solset.changes import Change, Decay, Remove, Reweight, Sum
from solset.checks import require
from solset.errors import bad_type, bad_value
from solset.goals import Goals, slopes_of
from solset.judge._truth import value_of
from solset.operators import PointGradients
from solset.problem import Problem
from solset.training import Run


@runtime_checkable
class Predictor(Protocol):
    """What foretells the change of each goal by each change of the data; any function of this form is one."""

    def __call__(self, changes: Sequence[Change], goal: Goals) -> Tensor:
        """The predicted changes, ``(changes, k)``.

        Args:
            changes: Changes of the training data.
            goal: One goal, or several as a block.
        """
        ...


@dataclass(frozen=True)
class ByEstimate:
    """The goals at the weights that ``estimate(change)`` returns: each change by itself, as far as it goes.

    Attributes:
        trained: Run or problem that is asked.
        options: Keyword arguments of ``estimate``, such as ``{"optimality": "gauss_newton"}``.
    """

    trained: Run | Problem
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, changes: Sequence[Change], goal: Goals) -> Tensor:
        """Arguments as for every predictor. Cost: one estimate for each change."""
        return torch.stack([self._after(change, goal) for change in changes]) - value_of(self.trained, goal)

    def _after(self, change: Change, goal: Goals) -> Tensor:
        run = self.trained
        if isinstance(run, Run):
            model = run.estimate(change, **{"verify": False, "progress": False, **self.options}).apply_to(
                run.model
            )
            return torch.as_tensor(run.value(goal, model)).double().reshape(-1)
        element = run.estimate(change, **self.options).min_norm()
        return value_of(run, goal, element.weights)


@dataclass(frozen=True)
class ByAttribution:
    """The derivative of the goals times each change: one solve or replay for each goal serves all changes.

    Attributes:
        trained: Run or problem that is asked.
        options: Keyword arguments of ``attribute``, such as ``{"element": filters.Tikhonov(0.01)}``.
    """

    trained: Run | Problem
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, changes: Sequence[Change], goal: Goals) -> Tensor:
        """Arguments as for every predictor. Cost: one attribution of the goals."""
        of_run = {"verify": False, "progress": False} if isinstance(self.trained, Run) else {}
        parts = [
            part for change in changes for part in (change.parts if isinstance(change, Sum) else [change])
        ]
        moves = not all(isinstance(part, Remove | Reweight | Decay) for part in parts)
        worth = self.trained.attribute(goal, **{"features": moves, **of_run, **self.options})
        return torch.stack([torch.as_tensor(worth.predict(change)).reshape(-1) for change in changes])


@dataclass(frozen=True, eq=False)
class ByScores:
    """Scores of points by any method or library, summed over the points whose factors change.

    Attributes:
        scores: Derivative of each goal in the factor of each point's loss, ``(k, n)``, as a tensor, an array
            or lists, or a function of the goals that returns it; removing a point is predicted to change the
            goal by minus its score.
        count: Number of training points, where scores of another number are to be refused.
    """

    scores: Any
    count: int | None = None

    def __call__(self, changes: Sequence[Change], goal: Goals) -> Tensor:
        """Arguments as for every predictor.

        Raises:
            ValueError: If a change is of something else than factors, or the scores are no matrix of one
                column for each point.
        """
        scores = as_matrix(self.scores(goal) if callable(self.scores) else self.scores)
        scores = scores.unsqueeze(0) if scores.ndim == 1 else scores
        if scores.ndim != 2 or self.count not in {None, scores.shape[1]}:
            expected = f"(goals, {'points' if self.count is None else self.count})"
            got, cure = (
                f"shape {tuple(scores.shape)}",
                "Pass one row for each goal, with a number for each point.",
            )
            raise bad_value("scores", expected=expected, got=got, cure=cure)
        return torch.stack([scores @ _factors(change, scores.shape[1]) for change in changes])


def as_matrix(answer: Any) -> Tensor:
    """Numbers of any library as a tensor in float64 in the memory of the host.

    Args:
        answer: A tensor, an array, a frame, or a list of them.

    Raises:
        TypeError: If it holds anything but numbers.
    """
    parts = answer if isinstance(answer, list | tuple) else [answer]
    try:
        values = [
            np.asarray(p.detach().cpu() if isinstance(p, Tensor) else p, dtype=np.float64) for p in parts
        ]
        return torch.from_numpy(np.stack(values) if parts is answer else values[0].copy())
    except (TypeError, ValueError) as error:
        cure = "Return a tensor or an array."
        raise bad_type("predictor", expected="numbers", got=type(answer).__name__, cure=cure) from error


def _factors(change: Change, count: int) -> Tensor:
    """The change of each point's factor, ``(n,)``; refused for a change of anything else."""
    asked = change.of_training(count, _no_features)
    if asked.features or asked.targets or asked.added or asked.decays or asked.rate:
        raise _no_factors(repr(change))
    steps = torch.zeros(count, dtype=torch.float64)
    steps[list(asked.factors)] = torch.tensor(list(asked.factors.values()), dtype=torch.float64)
    return steps


def _no_factors(got: str) -> ValueError:
    cure = "Judge scores by removals or other factors of points, or use ByAttribution or ByEstimate."
    return bad_value("changes", expected="changes of factors for scores of points", got=got, cure=cure)


def _no_features() -> Any:
    raise _no_factors("a move of features")


def gradient_products(problem: Problem) -> ByScores:
    """Minus the products of the goals' gradients with those of the points: one checkpoint of TracIn.

    Pruthi et al. (2020), equation 1, with the last weights as the only checkpoint and rate 1.

    Args:
        problem: Trained weights with the training points.

    Cost: a gradient of each point.
    """
    require("problem", problem, Problem, cure="Pass Problem(run.model, loss, x, y) for a run.")

    def scores(goal: Goals) -> Tensor:
        risk = problem.risk()
        points = PointGradients(risk, risk.select(range(problem.point_count)))
        return -(points.T @ slopes_of(goal, risk).gradients).T

    return ByScores(scores, problem.point_count)


def random_scores(count: int, goals: int = 1, *, seed: int = 0) -> ByScores:
    """Normal random scores, which agree with nothing: what a score is without any information.

    Args:
        count: Number of training points.
        goals: Number of the goals' values.
        seed: Seed of the scores.
    """
    return ByScores(torch.randn(goals, count, generator=torch.Generator().manual_seed(seed)), count)
