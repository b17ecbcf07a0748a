"""Projected ascent of a goal on one linearisation of the solution map."""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from solset.checks import checked
from solset.errors import bad_value
from solset.goals import Goal
from solset.poisoning._adjoint import Response
from solset.poisoning._budget import FeasibleSet
from solset.poisoning._followers import BasePoint
from solset.problem import Problem

HALVINGS = 12  # of a step in the line search
SUFFICIENT = 1e-4  # Armijo's share of the first-order rise


@checked
@dataclass(frozen=True)
class Ascent:
    """How a perturbation is improved.

    Attributes:
        rounds: Linearisations at most; each costs what preparing the solver costs.
        steps: Ascent steps on each.
        stride: How far the first round may go, as a share of the budget's radius; later ones go twice as far
            where the linear model held, and a quarter as far where it did not.
        tol: Stop where a move of the budget's whole radius would, to first order, raise the goal by less
            than this share of what it would at the start.

    Raises:
        ValueError: If a number is not positive, or the stride exceeds 1.
    """

    rounds: int = 12
    steps: int = 4
    stride: float = 0.25
    tol: float = 1e-2

    def __post_init__(self) -> None:
        for name in ("rounds", "steps"):
            if getattr(self, name) < 1:
                raise bad_value(name, expected="one or more", got=getattr(self, name), cure="Leave it out.")
        if not 0 < self.stride <= 1:
            raise bad_value("stride", expected="in (0, 1]", got=self.stride, cure="It is a share.")
        if not 0 <= self.tol < 1:
            raise bad_value("tol", expected="in [0, 1)", got=self.tol, cure="It is a share.")


@dataclass(frozen=True)
class Climb:
    """Where the ascent on one linearisation ended.

    Attributes:
        dx: Feasible, counted from the trained point.
        weights: By the linearisation.
        value: The goal there.
        room: First-order rise along the last feasible direction, for a move of the budget's radius.
        steps: That were taken.
    """

    dx: Tensor
    weights: Tensor
    value: float
    room: float
    steps: int


@dataclass(frozen=True)
class Slope:
    """A goal as a function of the data, by one linearisation: ``ψ(Δx) = φ(w + v(Δx - Δx_0))``.

    Attributes:
        problem: The trained point.
        goal: ``φ``.
        response: ``v`` at the base.
        base: ``(Δx_0, w)``.
        feasible: The perturbations that the budget allows.
    """

    problem: Problem
    goal: Goal
    response: Response
    base: BasePoint
    feasible: FeasibleSet

    def weights(self, dx: Tensor) -> Tensor:
        """``w + v(Δx - Δx_0)``."""
        return self.base.weights + self.response.push(dx - self.base.dx)

    def gradient(self, weights: Tensor) -> Tensor:
        """``±∇ψ`` where the linearisation gives these weights, shaped like ``dx``; it points uphill."""
        _, slope = self.goal.slope(self.problem, weights)
        if not bool(torch.isfinite(slope).all()):
            return torch.full_like(self.base.dx, torch.nan)
        return self.goal.sign * self.response.pull(slope)[0]

    def direction(self, dx: Tensor, gradient: Tensor) -> Tensor:
        """The steepest direction of the budget's norm, without what leads out of active bounds."""
        return self.feasible.tangent(dx, self.feasible.steepest(gradient))


def climb(slope: Slope, settings: Ascent, stride: float, enough: float) -> Climb:
    """Projected ascent with an Armijo line search along ``P(Δx + s P_T(d))``; never leaves the budget.

    ``P`` projects on the feasible set, ``P_T`` on its tangent cone at ``Δx``.

    Args:
        slope: The goal on this linearisation.
        settings: How many steps.
        stride: Share of the radius that all steps together may go.
        enough: Rise for a move of the radius below which a point counts as stationary.

    Cost: two solves a step and one for each shortening of it.
    """
    dx, weights = slope.base.dx, slope.base.weights
    value, room, taken = slope.goal.value(slope.problem, weights), 0.0, 0
    for _ in range(settings.steps):
        gradient = slope.gradient(weights)
        if not bool(torch.isfinite(gradient).all()):
            break
        direction = slope.direction(dx, gradient)
        room = float((gradient * direction).sum())
        if room <= enough:
            break
        found = _line_search(slope, dx, value, gradient, (stride / settings.steps) * direction)
        if found is None:
            break
        dx, weights, value = found
        taken += 1
    return Climb(dx, weights, value, room, taken)


def _line_search(
    slope: Slope, dx: Tensor, value: float, gradient: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, float] | None:
    """The first of the steps 1, 1/2, … that raises the goal enough; a value that is not finite never does."""
    sign = slope.goal.sign
    for halving in range(HALVINGS):
        trial = slope.feasible.project(dx + 0.5**halving * step)
        weights = slope.weights(trial)
        reached = slope.goal.value(slope.problem, weights)
        rise = sign * (reached - value)
        hoped = float((gradient * (trial - dx)).sum())
        if isfinite(reached) and rise > 0 and rise >= SUFFICIENT * hoped:
            return trial, weights, reached
    return None
