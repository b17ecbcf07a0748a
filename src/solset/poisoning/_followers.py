"""How the weights follow the data from one linearisation to the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from solset.problem import Problem, keeps_outputs
from solset.retraining import GradientDescent, LevenbergMarquardt, Method, Newton
from solset.solvers.filters import Filter, GradientFlow


@dataclass(frozen=True)
class BasePoint:
    """A place on the way: moved data and the weights that answer it.

    Attributes:
        dx: Change from the trained point's data, ``(|K|, *input)``.
        weights: ``w``, ``(p,)``.
    """

    dx: Tensor
    weights: Tensor


@runtime_checkable
class Follower(Protocol):
    """What carries the weights along when the data moves; a path follower is one."""

    def follow(
        self, problem: Problem, points: Sequence[int], base: BasePoint, dx: Tensor, predicted: Tensor
    ) -> Tensor:
        """The weights at ``x̄ + Δx``, ``(p,)``.

        The first call is for data that did not move: what it makes of them is what effects are counted from.

        Args:
            problem: The trained point.
            points: ``K``.
            base: Where the last linearisation was made.
            dx: Where the data is to go, counted from the trained point.
            predicted: The weights there by that linearisation.
        """
        ...


@dataclass(frozen=True)
class Corrected:
    """From the predicted weights onto the solution set of the moved data.

    Attributes:
        method: What solves there: Gauss–Newton steps, Newton's method, any way to retrain.
    """

    method: Method

    def follow(
        self,
        problem: Problem,
        points: Sequence[int],
        base: BasePoint,  # noqa: ARG002 - part of the interface
        dx: Tensor,
        predicted: Tensor,
    ) -> Tensor:
        """As the interface says."""
        start = problem.risk().move(points, dx).at(predicted)
        return self.method.run(start, problem.risk().outputs()).weights


@dataclass(frozen=True)
class Nearest:
    """From the predicted weights towards the solution nearest to ``w̄``, for a fitted problem.

    Corrections towards the latest weights would add up to a point that hangs on the way taken: going round
    in the data and back again would move the weights, and an ascent finds such ways.

    Attributes:
        method: Its steps; few are enough from a good prediction, and those that end on the set follow.
    """

    method: LevenbergMarquardt = LevenbergMarquardt(output_tol=1e-8, max_steps=3)

    def follow(
        self,
        problem: Problem,
        points: Sequence[int],
        base: BasePoint,  # noqa: ARG002 - part of the interface
        dx: Tensor,
        predicted: Tensor,
    ) -> Tensor:
        """As the interface says."""
        if not bool(dx.any()):
            return problem.weights()  # they keep the outputs as they are, and nothing is nearer to them
        start = problem.risk().move(points, dx).at(predicted)
        return self.method.run_towards(problem.weights(), start, problem.risk().outputs()).weights


@dataclass(frozen=True)
class FromTrained:
    """Training from ``w̄`` anew on the moved data, of the duration that the chosen element stands for.

    Attributes:
        method: How to train.
    """

    method: Method

    def follow(
        self,
        problem: Problem,
        points: Sequence[int],
        base: BasePoint,  # noqa: ARG002 - part of the interface
        dx: Tensor,
        predicted: Tensor,  # noqa: ARG002 - part of the interface
    ) -> Tensor:
        """As the interface says."""
        return self.method.run(problem.risk().move(points, dx), problem.risk().outputs()).weights


def default_follower(optimality: str, element: Filter | None) -> Follower:
    """The follower that reaches what the element stands for.

    Args:
        optimality: The map that is linearised.
        element: ``None`` for the nearest solution.

    Returns:
        For a flow, real gradient descent from ``w̄``, which costs its steps at every linearisation; for the
        interpolating map steps towards the nearest solution, a few Gram builds; else Newton's method.
    """
    if isinstance(element, GradientFlow):
        return FromTrained(GradientDescent(element.steps, element.learning_rate))
    if keeps_outputs(optimality):
        return Nearest()
    return Corrected(Newton())


def is_finite(weights: Tensor) -> bool:
    """Whether weights can be gone on from."""
    return bool(torch.isfinite(weights).all())
