"""The rounds of a designed perturbation: linearise, climb, follow, and accept or take back."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from math import isfinite
from typing import cast

import torch
from torch import Tensor
from tqdm import tqdm

from solset.changes import Change, PointsChange
from solset.derivatives import Response
from solset.goals import Goal
from solset.poisoning._adjoint import AdjointGradient
from solset.poisoning._ascent import Ascent, Climb, Slope, climb
from solset.poisoning._budget import FeasibleSet
from solset.poisoning._followers import BasePoint, Follower
from solset.poisoning._poisoning_file import Progress, Reason, Round
from solset.problem import FIT_TOL, GaussNewton, LinearisedMap, Problem
from solset.solvers import Solver

SHORTEST = 1e-4  # stride, as a share of the radius, below which the ascent ends
AGREES = 0.75  # share of the predicted rise above which the next round goes further
DISAGREES = 0.1  # share of the predicted rise below which a round is taken back


class Rounds:
    """The rounds of one ascent, with everything that stays the same from round to round.

    Args:
        problem: The trained point, with its data.
        goal: Goal ``φ`` of the weights.
        feasible: Perturbations that the budget allows.
        kind: Kind of change that the budget bounds, of the points ``K``.
        follower: Value that moves the weights along.
        settings: Settings of the ascent.
        solver: Solver for every linearisation.
        trained: Linear response at the trained point.
    """

    def __init__(
        self,
        problem: Problem,
        goal: Goal,
        feasible: FeasibleSet,
        kind: PointsChange,
        follower: Follower,
        settings: Ascent,
        solver: Solver | None,
        trained: Response,
    ) -> None:
        self.problem, self.goal, self.feasible, self.kind = problem, goal, feasible, kind
        self.follower, self.settings, self.solver, self.trained = follower, settings, solver, trained
        self._latest: tuple[BasePoint, Response] | None = None

    def change(self, dx: Tensor) -> Change:
        """The change of the data of this length."""
        return cast("Change", self.kind.along(self.problem.risk(), dx.flatten()))

    @cached_property
    def clean(self) -> BasePoint:
        """Where the follower ends on the clean data: effects of a perturbation are counted from there.

        A training that had not stopped goes on by itself; counted from ``w̄`` that would look like an effect.
        """
        zero = torch.zeros_like(self.feasible.inputs)
        return self.follower.follow(self.problem, self.change(zero), zero, self.problem.weights())

    def first(self, dx: Tensor) -> Progress:
        """The state before the first round."""
        if not bool(torch.isfinite(self.clean.weights).all()):
            return Progress(self.clean, self.settings.stride, (), Reason.NOT_FINITE.name)
        if not bool(dx.any()):
            return Progress(self.clean, self.settings.stride, (), "")
        predicted = self.clean.weights + self.trained.push(dx)
        begin = self.follower.follow(self.problem, self.change(dx), dx, predicted)
        return Progress(begin, self.settings.stride, (), "")

    def run(self, state: Progress, adjoint: AdjointGradient, *, progress: bool | None) -> Iterator[Progress]:
        """The states after each round, the last one with a reason."""
        if state.reason not in {"", Reason.MAX_ROUNDS.name}:
            return
        if not self._has_room():
            yield replace(state, reason=Reason.NO_ROOM.name)
            return
        uphill = self.goal.sign * adjoint.gradient
        enough = self.settings.min_rise * float((uphill * self.feasible.steepest(uphill)).sum())
        numbers = range(len(state.course) + 1, self.settings.max_rounds + 1)
        hidden = None if progress is None else not progress
        for _ in tqdm(numbers, desc="poisoning", disable=hidden, leave=False):
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
        """One linearisation, the ascent on it, and what the follower confirms."""
        if not self._is_fitted(state.base):
            return replace(state, reason=Reason.LEFT_FIT.name)
        slope = Slope(self.problem, self.goal, self._response(state.base), state.base, self.feasible)
        end = climb(slope, self.settings, state.stride, enough)
        if not end.steps:
            return replace(state, reason=self._why_none(slope, end.room, enough).name)
        return self._judged(state, end)

    def _judged(self, state: Progress, end: Climb) -> Progress:
        """The state at the end of an ascent if the follower confirms it, else at its start."""
        reached = self.follower.follow(self.problem, self.change(end.dx), end.dx, end.weights)
        before, is_finite = (
            self.goal.value(self.problem.risk(), state.base.weights),
            reached.weights.isfinite().all(),
        )
        after = self.goal.value(self.problem.risk(), reached.weights) if is_finite else float("nan")
        share = (after - before) / (end.value - before)
        stride = state.stride
        rises = isfinite(share) and share > DISAGREES
        is_kept = rises and reached.is_solved and self._is_fitted(reached)
        size = self.feasible.size(end.dx)
        made = Round(len(state.course) + 1, after, end.value, size, stride, end.room, is_kept)
        course = (*state.course, made)
        if is_kept:
            return Progress(reached, min(1.0, 2 * stride) if share > AGREES else stride, course, "")
        why = Reason.LEFT_FIT if rises else Reason.NO_PROGRESS
        if not isfinite(share):
            why = Reason.NOT_FINITE
        elif not reached.is_solved:
            why = Reason.NOT_SOLVED
        return Progress(state.base, stride / 4, course, why.name if stride / 4 < SHORTEST else "")

    def _why_none(self, slope: Slope, room: float, enough: float) -> Reason:
        """The reason why no step was taken on a linearisation."""
        gradient = slope.gradient(slope.base.weights)
        if not bool(gradient.isfinite().all()):
            return Reason.NOT_FINITE
        if room <= enough:
            return Reason.STATIONARY
        # There is a direction that rises, but no step along it does: values there are not finite, or the
        # line search failed.
        nearest = slope.feasible.project(slope.base.dx + 1e-3 * slope.direction(slope.base.dx, gradient))
        value = self.goal.value(self.problem.risk(), slope.weights(nearest))
        return Reason.NO_PROGRESS if isfinite(value) else Reason.NOT_FINITE

    def _is_fitted(self, base: BasePoint) -> bool:
        """Whether the interpolating map still applies; any other always does."""
        if not self._map.keeps_outputs:
            return True
        moved = self.problem.moved_to(self.change(base.dx), base.weights)
        return moved.misfit <= FIT_TOL

    @property
    def _map(self) -> LinearisedMap:
        """The map on moved data: training of a finite duration leaves a residual, which only ``B`` sees."""
        trained = self.trained.linearisation.map
        follows_training = self.trained.follows_training and trained.keeps_outputs
        return GaussNewton() if follows_training else cast("LinearisedMap", trained)

    def _response(self, base: BasePoint) -> Response:
        """The linear response at a base; the latest is kept for the case that a round is taken back."""
        if not bool(base.dx.any()):
            return self.trained
        if self._latest is None or self._latest[0] is not base:
            self._latest = None  # it is large: free it before the next one is made
            moved = self.problem.moved_to(self.change(base.dx), base.weights)
            line = moved.derivative(self.kind, optimality=self._map, solver=self.solver).linearisation
            self._latest = (base, Response(line, self.trained.element))
        return self._latest[1]
