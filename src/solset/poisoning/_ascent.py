"""Projected ascent of a goal on one linearisation of the solution map."""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from solset.checks import checked, within
from solset.derivatives import Response
from solset.errors import bad_value
from solset.goals import Goal
from solset.poisoning._budget import FeasibleSet
from solset.poisoning._followers import BasePoint
from solset.problem import Problem


@checked
@dataclass(frozen=True)
class Ascent:
    """How a perturbation is improved: linearisations, steps on each, and when to stop.

    Attributes:
        max_rounds: Limit of linearisations; each costs what preparing the solver costs.
        max_steps: Limit of ascent steps on each linearisation.
        stride: Length of the first round as a share of the budget's radius. Later rounds go twice as far
            where the linear model was right, and a quarter as far where it was not.
        min_rise: Smallest worthwhile rise of the goal to first order, for a move of the whole radius, as a
            share of that rise at the start. The ascent stops where the rise is smaller.

    Raises:
        ValueError: If a limit is not positive, or a share lies outside its range.
    """

    max_rounds: int = 12
    max_steps: int = 4
    stride: float = 0.25
    min_rise: float = 1e-2

    def __post_init__(self) -> None:
        within("max_rounds", self.max_rounds, 1, cure="Leave it out.")
        within("max_steps", self.max_steps, 1, cure="Leave it out.")
        if not 0 < self.stride <= 1:
            raise bad_value("stride", expected="in (0, 1]", got=self.stride, cure="It is a share.")
        if not 0 <= self.min_rise < 1:
            raise bad_value("min_rise", expected="in [0, 1)", got=self.min_rise, cure="It is a share.")


@dataclass(frozen=True)
class Climb:
    """Where the ascent on one linearisation ended."""

    dx: Tensor  # Feasible perturbation, counted from the trained point
    weights: Tensor  # Weights by the linearisation, ``(p,)``
    value: float  # Goal at these weights
    room: float  # First-order rise along the last feasible direction, for a move of the budget's radius
    steps: int  # Number of steps taken


@dataclass(frozen=True)
class Slope:
    """A goal as a function of the data, by one linearisation: ``ψ(Δx) = φ(w + v(Δx - Δx_0))``."""

    problem: Problem  # The trained point, with its data
    goal: Goal  # Goal ``φ`` of the weights
    response: Response  # Linear response ``v`` at the base
    base: BasePoint  # Base ``(Δx_0, w)`` of the linearisation
    feasible: FeasibleSet  # Perturbations that the budget allows

    def weights(self, dx: Tensor) -> Tensor:
        """The weights ``w + v(Δx - Δx_0)``."""
        return self.base.weights + self.response.push(dx - self.base.dx)

    def gradient(self, weights: Tensor) -> Tensor:
        """``±∇ψ`` where the linearisation gives these weights, shaped like ``dx``; it points uphill."""
        _, slope = self.goal.slope(self.problem.risk(), weights)
        if not bool(torch.isfinite(slope).all()):
            return torch.full_like(self.base.dx, torch.nan)
        return self.goal.sign * self.response.pull(slope)[0]

    def direction(self, dx: Tensor, gradient: Tensor) -> Tensor:
        """The steepest direction of the budget's norm, without what leads out of active bounds."""
        return self.feasible.tangent(dx, self.feasible.steepest(gradient))


def climb(slope: Slope, settings: Ascent, stride: float, enough: float) -> Climb:
    """Projected ascent with an Armijo line search along ``P(Δx + s P_T(d))``; it never leaves the budget.

    ``P`` projects on the feasible set, ``P_T`` on its tangent cone at ``Δx``.

    Cost: two solves a step and one for each shortening of it.
    """
    dx, weights = slope.base.dx, slope.base.weights
    value, room, taken = slope.goal.value(slope.problem.risk(), weights), 0.0, 0
    for _ in range(settings.max_steps):
        gradient = slope.gradient(weights)
        if not bool(torch.isfinite(gradient).all()):
            break
        direction = slope.direction(dx, gradient)
        room = float((gradient * direction).sum())
        if room <= enough:
            break
        reached = _line_search(slope, dx, value, gradient, (stride / settings.max_steps) * direction)
        if reached is None:
            break
        dx, weights, value = reached
        taken += 1
    return Climb(dx, weights, value, room, taken)


def _line_search(
    slope: Slope, dx: Tensor, value: float, gradient: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, float] | None:
    """The first of the steps 1, 1/2, … that raises the goal enough; a value that is not finite never does."""
    for halving in range(12):
        trial = slope.feasible.project(dx + 0.5**halving * step)
        weights = slope.weights(trial)
        reached = slope.goal.value(slope.problem.risk(), weights)
        rise = slope.goal.sign * (reached - value)
        first_order = float((gradient * (trial - dx)).sum())
        if isfinite(reached) and rise > 0 and rise >= 1e-4 * first_order:  # Armijo's usual share
            return trial, weights, reached
    return None
