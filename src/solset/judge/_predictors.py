"""Predictors of what a change of the data does to goals: those of solset, and any scores of points."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from solset.changes import Change, Decay, Remove, Reweight
from solset.errors import bad_value
from solset.goals import Goals, slopes_of
from solset.judge._truth import value_of
from solset.operators import PointGradients
from solset.problem import Problem
from solset.training import Run


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
        moves = not all(isinstance(change, Remove | Reweight | Decay) for change in changes)
        worth = self.trained.attribute(goal, **{"features": moves, **of_run, **self.options})
        return torch.stack([torch.as_tensor(worth.predict(change)).reshape(-1) for change in changes])


@dataclass(frozen=True, eq=False)
class ByScores:
    """Scores of points by any method or library, summed over the points whose factors change.

    Attributes:
        scores: Derivative of each goal in the factor of each point's loss, ``(k, n)``, or a function of the
            goals that returns it; removing a point is predicted to change the goal by minus its score.
    """

    scores: Tensor | Callable[[Goals], Tensor]

    def __call__(self, changes: Sequence[Change], goal: Goals) -> Tensor:
        """Arguments as for every predictor.

        Raises:
            ValueError: If a change is none of factors, or the scores are not one row for each goal.
        """
        scores = torch.as_tensor(self.scores if isinstance(self.scores, Tensor) else self.scores(goal))
        if scores.ndim == 1:
            scores = scores.unsqueeze(0)
        predicted = []
        for change in changes:
            factors = change.of_training(scores.shape[1], _no_features).factors
            steps = torch.tensor(list(factors.values()), dtype=torch.float64)
            predicted.append(scores[:, list(factors)].double().cpu() @ steps)
        return torch.stack(predicted)


def _no_features() -> Any:
    cure = "Judge them by removals or other factors of points, or use ByAttribution."
    raise bad_value("changes", expected="changes of factors for scores of points", got="a move", cure=cure)


def gradient_products(problem: Problem) -> ByScores:
    """Minus the products of the goals' gradients with those of the points: one checkpoint of TracIn.

    Pruthi et al. (2020), equation 1, with the last weights as the only checkpoint and rate 1.

    Args:
        problem: Trained weights with the training points.

    Cost: a gradient of each point.
    """

    def scores(goal: Goals) -> Tensor:
        risk = problem.risk()
        points = PointGradients(risk, risk.select(range(problem.point_count)))
        return -(points.T @ slopes_of(goal, risk).gradients).T

    return ByScores(scores)


def random_scores(count: int, goals: int = 1, *, seed: int = 0) -> ByScores:
    """Normal random scores, which agree with nothing: what a score is without any information.

    Args:
        count: Number of training points.
        goals: Number of the goals' values.
        seed: Seed of the scores.
    """
    return ByScores(torch.randn(goals, count, generator=torch.Generator().manual_seed(seed)))
