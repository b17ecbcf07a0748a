"""The rounds of a designed perturbation: linearise, climb, re-solve, and keep or take back."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from math import isfinite

import torch
from torch import Tensor
from tqdm import tqdm

from solset.changes import Move
from solset.goals import Goal
from solset.poisoning._adjoint import AdjointGradient, Response
from solset.poisoning._ascent import Ascent, Climb, Slope, climb
from solset.poisoning._budget import FeasibleSet
from solset.poisoning._followers import BasePoint, Follower, is_finite
from solset.poisoning._poisoning_file import Progress, Reason, Round
from solset.problem import FIT_TOL, MAPS, GaussNewton, LinearisedMap, Problem
from solset.solvers import Solver

SHORTEST = 1e-4  # share of the radius below which rounds are given up
AGREES, DISAGREES = 0.75, 0.1  # actual over predicted rise: go further next time; take the round back


class Rounds:
    """Everything that stays the same from round to round.

    Args:
        problem: The trained point.
        goal: ``φ``.
        feasible: What the budget allows.
        points: ``K``.
        follower: What carries the weights along.
        settings: Of the ascent.
        solver: For every linearisation.
        trained: The linear response at the trained point.
    """

    def __init__(
        self,
        problem: Problem,
        goal: Goal,
        feasible: FeasibleSet,
        points: Sequence[int],
        follower: Follower,
        settings: Ascent,
        solver: Solver | None,
        trained: Response,
    ) -> None:
        self.problem, self.goal, self.feasible, self.points = problem, goal, feasible, list(points)
        self.follower, self.settings, self.solver, self.trained = follower, settings, solver, trained
        self._latest: tuple[BasePoint, Response] | None = None

    @cached_property
    def clean(self) -> BasePoint:
        """Where the follower ends on the data as they are: what a perturbation does is counted from there.

        Training that had not stopped goes on by itself; counted from ``w̄`` that would pass for an effect.
        """
        still = torch.zeros_like(self.feasible.inputs)
        trained = BasePoint(still, self.problem.weights())
        return BasePoint(
            still, self.follower.follow(self.problem, self.points, trained, still, trained.weights)
        )

    def first(self, dx: Tensor) -> Progress:
        """Before the first round."""
        if not is_finite(self.clean.weights):
            return Progress(self.clean, self.settings.stride, (), Reason.NOT_FINITE.name)
        if not bool(dx.any()):
            return Progress(self.clean, self.settings.stride, (), "")
        predicted = self.clean.weights + self.trained.push(dx)
        weights = self.follower.follow(self.problem, self.points, self.clean, dx, predicted)
        return Progress(BasePoint(dx, weights), self.settings.stride, (), "")

    def run(self, state: Progress, adjoint: AdjointGradient, *, progress: bool) -> Iterator[Progress]:
        """The states after each round, the last one with a reason."""
        if state.reason not in {"", Reason.MAX_ROUNDS.name}:
            return
        if not self._has_room():
            yield replace(state, reason=Reason.NO_ROOM.name)
            return
        uphill = self.goal.sign * adjoint.gradient
        hoped = float((uphill * self.feasible.steepest(uphill)).sum())
        enough = self.settings.tol * hoped
        numbers = range(len(state.course) + 1, self.settings.rounds + 1)
        for _ in tqdm(numbers, desc="poisoning", disable=not progress, leave=False):
            state = self._round(replace(state, reason=""), enough)
            if state.reason:
                yield state
                return
            yield state
        yield replace(state, reason=Reason.MAX_ROUNDS.name)

    def _has_room(self) -> bool:
        free = (self.feasible.upper > self.feasible.lower).any()
        return self.feasible.budget.radius > 0 and bool(free)

    def _round(self, state: Progress, enough: float) -> Progress:
        """One linearisation, the ascent on it, and the follower's verdict."""
        if not self._is_fitted(state.base):
            return replace(state, reason=Reason.LEFT_FIT.name)
        slope = Slope(self.problem, self.goal, self._response(state.base), state.base, self.feasible)
        found = climb(slope, self.settings, state.stride, enough)
        if not found.steps:
            return replace(state, reason=self._why_none(slope, found.room, enough).name)
        return self._judged(state, found)

    def _judged(self, state: Progress, found: Climb) -> Progress:
        """The state after the follower has gone where the ascent led, or has been called back."""
        weights = self.follower.follow(self.problem, self.points, state.base, found.dx, found.weights)
        before = self.goal.value(self.problem, state.base.weights)
        after = self.goal.value(self.problem, weights) if is_finite(weights) else float("nan")
        share = (after - before) / (found.value - before)
        reached, stride = BasePoint(found.dx, weights), state.stride
        rises = isfinite(share) and share > DISAGREES
        is_kept = rises and self._is_fitted(reached)
        size = self.feasible.size(found.dx)
        made = Round(len(state.course) + 1, after, found.value, size, stride, found.room, is_kept)
        course = (*state.course, made)
        if is_kept:
            return Progress(reached, min(1.0, 2 * stride) if share > AGREES else stride, course, "")
        why = Reason.NOT_FINITE if not isfinite(share) else Reason.LEFT_FIT if rises else Reason.NO_PROGRESS
        return Progress(state.base, stride / 4, course, why.name if stride / 4 < SHORTEST else "")

    def _why_none(self, slope: Slope, room: float, enough: float) -> Reason:
        """Why not one step was taken on a linearisation."""
        gradient = slope.gradient(slope.base.weights)
        if not bool(gradient.isfinite().all()):
            return Reason.NOT_FINITE
        if room <= enough:
            return Reason.STATIONARY
        # The gradient rises but no step does: what lies further on is not finite, or the line search failed.
        nearest = slope.feasible.project(slope.base.dx + 1e-3 * slope.direction(slope.base.dx, gradient))
        value = self.goal.value(self.problem, slope.weights(nearest))
        return Reason.NO_PROGRESS if isfinite(value) else Reason.NOT_FINITE

    def _is_fitted(self, base: BasePoint) -> bool:
        """Whether the interpolating map still applies; any other always does."""
        if not self._map.keeps_outputs:
            return True
        moved = self.problem.moved_to(Move(self.points, base.dx), base.weights)
        return moved.fit <= FIT_TOL

    @property
    def _map(self) -> LinearisedMap:
        """The map at moved data: training of a finite duration leaves a residual, which only ``B`` sees."""
        trained = self.trained.linearisation.map
        follows_training = self.trained.follows_training and trained.keeps_outputs
        return GaussNewton() if follows_training else MAPS[trained.name]

    def _response(self, base: BasePoint) -> Response:
        """The linear response there; the latest is kept, for a round that is taken back."""
        if not bool(base.dx.any()):
            return self.trained
        if self._latest is None or self._latest[0] is not base:
            self._latest = None  # what it keeps is large: let go of it before the next is made
            moved = self.problem.moved_to(Move(self.points, base.dx), base.weights)
            line = moved.graphical_derivative(
                points=self.points, optimality=self._map, solver=self.solver
            ).linearisation
            self._latest = (base, Response(line, self.trained.element))
        return self._latest[1]
