"""Ways for the weights to follow the data from one linearisation to the next."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from solset.changes import Change
from solset.errors import Status
from solset.problem import Problem, keeps_outputs
from solset.retraining import GradientDescent, LevenbergMarquardt, Method, Newton, Retrained
from solset.solvers.filters import Filter, GradientFlow


@dataclass(frozen=True)
class BasePoint:
    """A place on the way: moved data, and the weights that belong to them.

    Attributes:
        dx: Change from the trained point's data, ``(|K|, *input)``.
        weights: Weights ``w`` on the moved data, ``(p,)``.
        status: Outcome of the solve on the moved data.
    """

    dx: Tensor
    weights: Tensor
    status: Status = Status.CONVERGED

    @property
    def is_solved(self) -> bool:
        """Whether the weights are a solution on the moved data, or where a stated training ended."""
        return self.status in {Status.CONVERGED, Status.MAX_STEPS} and bool(
            torch.isfinite(self.weights).all()
        )


@runtime_checkable
class Follower(Protocol):
    """Moves the weights along when the data moves; a function that follows a path is one example."""

    def follow(self, problem: Problem, change: Change, dx: Tensor, predicted: Tensor) -> BasePoint:
        """The place at ``x̄ + Δx``: the weights there, and how the solve for them ended.

        The first call is for data that did not move. Effects are counted from the weights that it returns.

        Args:
            problem: The trained point, with its data.
            change: Change that the data is to have, counted from the trained point.
            dx: Length of that change, ``(|K|, *input)`` for features.
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

    def follow(self, problem: Problem, change: Change, dx: Tensor, predicted: Tensor) -> BasePoint:
        """The place at ``x̄ + Δx``; arguments as for :meth:`Follower.follow`."""
        return _trained(problem, self.method, change, dx, predicted)


@dataclass(frozen=True)
class Nearest:
    """From the predicted weights towards the solution nearest to ``w̄``, for a fitted problem.

    Corrections towards the latest weights would add up to a point that depends on the way taken: a round trip
    in the data would then move the weights, and an ascent finds such trips.

    Attributes:
        method: Search for the nearest solution; a few steps are enough from a good prediction.
    """

    method: LevenbergMarquardt = LevenbergMarquardt(output_tol=1e-8, max_steps=3)

    def follow(self, problem: Problem, change: Change, dx: Tensor, predicted: Tensor) -> BasePoint:
        """The place at ``x̄ + Δx``; arguments as for :meth:`Follower.follow`."""
        if not bool(dx.any()):  # the weights keep the outputs, and none are nearer to them
            return BasePoint(dx, problem.weights())
        start, target = change.applied_to(problem.risk()).at(predicted), change.outputs_after(problem.risk())
        solved = self.method.run_towards(problem.weights(), start, target)
        return BasePoint(dx, solved.weights, outcome(solved))


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
        change: Change,
        dx: Tensor,
        predicted: Tensor,  # noqa: ARG002
    ) -> BasePoint:
        """The place at ``x̄ + Δx``; arguments as for :meth:`Follower.follow`."""
        return _trained(problem, self.method, change, dx, problem.weights())


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


def _trained(problem: Problem, method: Method, change: Change, dx: Tensor, start: Tensor) -> BasePoint:
    """The place where a method ends that begins with the weights ``start`` on the changed data."""
    risk = problem.risk()
    solved = method.run(change.applied_to(risk).at(start), lambda: change.outputs_after(risk))
    return BasePoint(dx, solved.weights, outcome(solved))


def outcome(solved: Retrained) -> Status:
    """The status of a solve: ``inconsistent`` where a method that looks for a solution ended off the set."""
    if solved.status is Status.MAX_STEPS and not solved.is_solution:
        return Status.INCONSISTENT
    return solved.status
