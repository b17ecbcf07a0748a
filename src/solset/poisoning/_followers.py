"""Ways for the weights to follow the data from one linearisation to the next."""

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
    """A place on the way: moved data, and the weights that belong to them.

    Attributes:
        dx: Change from the trained point's data, ``(|K|, *input)``.
        weights: Weights ``w`` on the moved data, ``(p,)``.
    """

    dx: Tensor
    weights: Tensor


@runtime_checkable
class Follower(Protocol):
    """Moves the weights along when the data moves; a function that follows a path is one example."""

    def follow(
        self, problem: Problem, points: Sequence[int], base: BasePoint, dx: Tensor, predicted: Tensor
    ) -> Tensor:
        """The weights at ``x̄ + Δx``, ``(p,)``.

        The first call is for data that did not move. Effects are counted from the weights that it returns.

        Args:
            problem: The trained point, with its data.
            points: Indices ``K`` of the points that move.
            base: Base of the last linearisation.
            dx: Change that the data is to have, counted from the trained point, ``(|K|, *input)``.
            predicted: Weights at that change by the linearisation, ``(p,)``.
        """
        ...


@dataclass(frozen=True)
class Corrected:
    """From the predicted weights onto the solution set of the moved data.

    Attributes:
        method: Method that solves on the moved data: Newton's method, or any other way to retrain.
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
        """The weights at ``x̄ + Δx``; arguments as for :meth:`Follower.follow`."""
        start = problem.risk().move(points, dx).at(predicted)
        return self.method.run(start, problem.risk().outputs()).weights


@dataclass(frozen=True)
class Nearest:
    """From the predicted weights towards the solution nearest to ``w̄``, for a fitted problem.

    Corrections towards the latest weights would add up to a point that depends on the way taken: a round trip
    in the data would then move the weights, and an ascent finds such trips.

    Attributes:
        method: Search for the nearest solution; a few steps are enough from a good prediction.
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
        """The weights at ``x̄ + Δx``; arguments as for :meth:`Follower.follow`."""
        if not bool(dx.any()):
            return problem.weights()  # they keep the outputs, and no weights are nearer to them
        start = problem.risk().move(points, dx).at(predicted)
        return self.method.run_towards(problem.weights(), start, problem.risk().outputs()).weights


@dataclass(frozen=True)
class FromTrained:
    """Training from ``w̄`` on the moved data, of the duration that the chosen element stands for.

    Attributes:
        method: Method of training from the trained weights.
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
        """The weights at ``x̄ + Δx``; arguments as for :meth:`Follower.follow`."""
        return self.method.run(problem.risk().move(points, dx), problem.risk().outputs()).weights


def default_follower(optimality: str, element: Filter | None) -> Follower:
    """The follower that reaches the solution which the element stands for.

    For a flow it is real gradient descent from ``w̄``, which costs its steps at every linearisation; for the
    interpolating map, steps towards the nearest solution, a few Gram builds; else Newton's method.
    """
    if isinstance(element, GradientFlow):
        return FromTrained(GradientDescent(element.steps, element.learning_rate))
    if keeps_outputs(optimality):
        return Nearest()
    return Corrected(Newton())


def is_finite(weights: Tensor) -> bool:
    """Whether all weights are finite."""
    return bool(torch.isfinite(weights).all())
