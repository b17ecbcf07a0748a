"""Perturbations by design: how to move training points so that a goal of the retrained weights changes."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from solset.changes import Change
from solset.checks import checked
from solset.derivatives import Response
from solset.errors import SolsetWarning, Status, bad_value
from solset.goals import Goal
from solset.poisoning._adjoint import AdjointGradient, finite_gradient_of
from solset.poisoning._ascent import Ascent
from solset.poisoning._budget import Budget, FeasibleSet
from solset.poisoning._design import DesignedChange, is_near
from solset.poisoning._followers import Follower, default_follower
from solset.poisoning._point_budget import PointBudget
from solset.poisoning._points import PointPoisoning, choose_points
from solset.poisoning._poisoning_file import PoisoningFile, Progress, Reason, Round
from solset.poisoning._rounds import Rounds
from solset.problem import Optimality, Problem, keeps_outputs
from solset.results import computed
from solset.retraining import LBFGS, Newton
from solset.risk import Layout, identity
from solset.solvers import Solver
from solset.solvers.filters import Filter
from solset.storage import Checkpoint, Probe

DRIFT = 0.1  # largest drift, relative to the effect of a perturbation, that passes without a warning


@dataclass(frozen=True, eq=False, repr=False)
class Poisoning(DesignedChange):
    """A perturbation designed for a goal, with the model's predictions; :func:`judge_poisoning` tests them.

    Attributes:
        points: Indices ``K`` of the points that move.
        dx: Perturbation, ``(|K|, *input)``, in input units (those of targets, or relative factors, where the
            budget is of these); inside the budget to the last bit.
        change: Change of the training data by this perturbation.
        weights: Weights on the moved data, as followed from round to round, ``(p,)``.
        clean: Goal ``φ(w_0)`` where the follower ended on the clean data; changes are counted from it. For a
            problem trained to its end ``w_0`` is ``w̄``; ``φ(w̄)`` itself is ``adjoint.value``.
        first_order: First-order estimate ``φ(w_0) + ⟨∇_x φ, Δx⟩``, with the gradient at the trained point.
        linear: Goal ``φ(w_0 + v)`` with the chosen element ``v`` of the linear response at the trained point.
        predicted: Goal ``φ`` at :attr:`weights`, which the follower reached. For a flow element the follower
            is a training of that duration, and :attr:`linear` is the model's prediction.
        solved: Outcome of the follower's solve at :attr:`weights`.
        real: Goal ``φ`` where warm retraining from ``w̄`` on the moved data ends, by L-BFGS and then Newton's
            method; ``None`` where solutions are not isolated or the element is a training itself. It differs
            from :attr:`predicted` where a path of solutions and a training end at different minima.
        drift: Change that the follower makes on data that did not move, relative to the change by the
            perturbation: of the goal, ``|φ(w_0) - φ(w̄)|``, or of the weights, ``‖w_0 - w̄‖``, whichever is
            larger. If it is not small, the weights were no solution. Then the gradient, the ranking,
            :attr:`first_order` and :attr:`linear` cannot be trusted; changes from :attr:`clean` can.
        adjoint: Gradient at the trained point, with the ranking of the points.
        course: Rounds in order, including those taken back.
        reason: Reason why the ascent stopped.
        layout: Names and shapes of the weights.
    """

    points: tuple[int, ...]
    dx: Tensor
    change: Change
    weights: Tensor
    clean: float
    first_order: float
    linear: float
    predicted: float
    solved: Status
    real: float | None
    drift: float
    adjoint: AdjointGradient
    course: tuple[Round, ...]
    reason: Reason
    layout: Layout = field(repr=False)

    @property
    def headline(self) -> str:
        """Predicted change of the goal, number of rounds, and the reason to stop."""
        real = "" if self.is_confirmed else f" ({self.real:.4g} by retraining)"
        ended = f"after {len(self.course)} rounds: {self.reason}"
        return f"goal {self.clean:.4g} → {self.predicted:.4g}{real} {ended}"

    @property
    def is_confirmed(self) -> bool:
        """Whether retraining changes the goal as predicted, to a tenth; true where it was not asked."""
        if self.real is None:
            return True
        return is_near(self.predicted, self.real, self.predicted - self.clean)

    @computed
    def status(self) -> Status:
        """``converged`` where no better perturbation is near; else ``max_steps``, or why solving failed."""
        if self.reason is Reason.NOT_FINITE:
            return Status.NONFINITE
        if self.solved not in {Status.CONVERGED, Status.MAX_STEPS}:
            return self.solved
        is_done = self.reason in {Reason.STATIONARY, Reason.NO_ROOM}
        return Status.CONVERGED if is_done else Status.MAX_STEPS

    @computed
    def message(self) -> str:
        """The reason to stop, and how far the predictions can be trusted."""
        text = str(self.reason)
        if self.solved not in {Status.CONVERGED, Status.MAX_STEPS}:
            text += f"; {self._no_solution()}"
        if not self.is_confirmed:
            text += (
                f"; retraining from the trained weights ends elsewhere: the goal goes from {self.clean:.4g} "
                f"to {self.real:.4g} and not to {self.predicted:.4g}"
            )
        if self.drift > DRIFT:
            text += f"; training had not stopped (drift {self.drift:.2g}): judge by retraining"
        return text

    def ranking(self) -> list[tuple[int, float]]:
        """The points to guard, each with the change of the goal for a unit move of it alone."""
        return self.adjoint.ranking()


@overload
def design_poisoning(
    problem: Problem,
    goal: Goal,
    budget: PointBudget,
    *,
    optimality: Optimality = "auto",
    solver: Solver | None = None,
    checkpoint: Path | str | None = None,
    progress: bool | None = None,
) -> PointPoisoning: ...


@overload
def design_poisoning(
    problem: Problem,
    goal: Goal,
    budget: Budget,
    *,
    element: Filter | None = None,
    ascent: Ascent | None = None,
    follower: Follower | None = None,
    start: Tensor | None = None,
    optimality: Optimality = "auto",
    solver: Solver | None = None,
    checkpoint: Path | str | None = None,
    progress: bool | None = None,
) -> Poisoning: ...


@checked
def design_poisoning(
    problem: Problem,
    goal: Goal,
    budget: Budget | PointBudget,
    *,
    element: Filter | None = None,
    ascent: Ascent | None = None,
    follower: Follower | None = None,
    start: Tensor | None = None,
    optimality: Optimality = "auto",
    solver: Solver | None = None,
    checkpoint: Path | str | None = None,
    progress: bool | None = None,
) -> Poisoning | PointPoisoning:
    """The change of the data within a budget that moves the chosen solution where a goal says.

    Projected ascent along the adjoint gradient ``-Cᵀ (Aᵀ)⁺ ∇φ`` (one solve for any number of points), with
    steps on the tangent cone of the budget and a line search, linearised again at ``(x̄ + Δx, w)`` every few
    steps. A round is taken back and made shorter if the follower does not confirm its rise. The linear model
    is never the judge: see :func:`judge_poisoning`.

    For a budget of whole points (:class:`Flips` of labels, :class:`Drops` of points) points are added one by
    one: one adjoint solve scores every further change, the best are really solved for by Newton's method,
    and the best choices go on (a beam search, whose width the budget says). It need not find the best set of
    points.

    Args:
        problem: The trained point, with its data.
        goal: Goal to raise or lower: :class:`TargetWeights`, :class:`HeldOutLoss`, :class:`WeightFunction`.
        budget: Points that may change, the radius, and the valid features, targets or factors; or
            :class:`Flips` or :class:`Drops` for labels that flip and points that are left out, with which the
            arguments of the ascent are left out: element, ascent, follower and start.
        element: Solution that the poisoner counts on: ``None`` for the nearest one,
            ``filters.GradientFlow(steps, learning_rate)`` for the end of a training of that duration.
        ascent: Limits and lengths of rounds and steps.
        follower: Value that moves the weights from one linearisation to the next; by default Gauss–Newton
            steps onto the set, Newton's method, or for a flow real gradient descent from ``w̄``. Every change
            is counted from where it ends on the clean data.
        start: Feasible perturbation to begin with, ``(|K|, *input)``; zero by default.
        optimality: Optimality map, as for :meth:`Problem.derivative`.
        solver: Solver, as for :meth:`Problem.derivative`; it must solve with ``Aᵀ`` too.
        checkpoint: Safetensors file that is replaced after every round. If it exists, the search continues
            from it; it must have been made for this problem, goal, budget and settings.
        progress: Whether to show a progress bar; by default only on a terminal.

    Raises:
        TypeError: If the goal returns no tensor, or the solver cannot solve with ``Aᵀ``.
        ValueError: If no perturbation or not the start is feasible; if the goal does not fit the problem, is
            not differentiable or not finite at ``w̄``; if whole points are to change where the data are
            fitted, so that nothing would move; if the checkpoint is of another search (says what
            differs).

    Warns:
        SolsetWarning: If the goal or the weights move by themselves by more than a tenth of the
            perturbation's effect: training had not stopped. If the weights are no solution on the moved data,
            or retraining from ``w̄`` misses the predicted change of the goal by more than a tenth.

    Cost: each round prepares the solver (for the interpolating map ``nc`` rows and their Gram matrix) and
    makes two solves a step. The follower adds its cost in each round, and once for the clean data. At an
    isolated solution one warm retraining at the end tests the prediction. For whole points: ``breadth``
    adjoint solves and ``breadth · tried`` solves by Newton's method for each point that changes.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from solset.goals import WeightFunction
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> x, y = torch.ones(1, 1).double(), torch.full((1, 1), 2.0).double()
        >>> problem = Problem(model, nn.MSELoss(), x, y)  # w = 2 / x
        >>> poisoning = design_poisoning(problem, WeightFunction(lambda w: w.sum()), Budget([0], 0.2))
        >>> round(float(poisoning.dx), 6), round(float(poisoning.weights), 6)
        (-0.2, 2.5)
    """
    if isinstance(budget, PointBudget):
        ascents = {"element": element, "ascent": ascent, "follower": follower, "start": start}
        _refuse_ascent(ascents)
        asked = {"optimality": optimality, "solver": solver, "checkpoint": checkpoint, "progress": progress}
        points = choose_points(problem, goal, budget, **asked)
        if points.solved is not Status.CONVERGED or points.is_drifting:
            warnings.warn(points.message, SolsetWarning, stacklevel=3)
        return points
    design = Design(problem, goal, element, ascent, follower, optimality, solver)
    poisoning = design.run(budget, start, checkpoint=checkpoint, progress=progress)
    if element is None and not keeps_outputs(poisoning.adjoint.optimality) and bool(poisoning.dx.any()):
        poisoning = replace(poisoning, real=goal.value(problem.risk(), _retrained(problem, poisoning)))
    if poisoning.drift > DRIFT:
        _warn_of_drift(poisoning)
    if not poisoning.is_confirmed or poisoning.solved not in {Status.CONVERGED, Status.MAX_STEPS}:
        warnings.warn(poisoning.message, SolsetWarning, stacklevel=3)
    return poisoning


def _refuse_ascent(options: Mapping[str, Any]) -> None:
    """Refuses what only an ascent in features takes."""
    for name, value in options.items():
        if value is not None:
            cure = "Leave it out; labels and points are chosen one after another, without an ascent."
            raise bad_value(name, expected="left out for a budget of whole points", got=value, cure=cure)


@dataclass(frozen=True)
class Design:
    """A search for perturbations; attributes as the arguments of :func:`design_poisoning`."""

    problem: Problem
    goal: Goal
    element: Filter | None
    ascent: Ascent | None
    follower: Follower | None
    optimality: Optimality
    solver: Solver | None

    def run(
        self,
        budget: Budget,
        start: Tensor | None = None,
        *,
        checkpoint: Path | str | None = None,
        progress: bool | None = None,
    ) -> Poisoning:
        """The perturbation within a budget, without a retraining that tests it, and without warnings."""
        problem, goal = self.problem, self.goal
        goal.check(problem.risk())
        feasible, points = budget.at(problem), problem.check_points(budget.points)
        begin = _start(feasible, problem, start)
        kind = budget.kind(problem)
        derivative = problem.derivative(kind, optimality=self.optimality, solver=self.solver)
        response = Response(derivative.linearisation, self.element)
        adjoint = finite_gradient_of(problem, goal, response, points)
        follower = self.follower or default_follower(derivative.optimality, self.element)
        ascent = self.ascent or Ascent()
        search = Rounds(problem, goal, feasible, kind, follower, ascent, self.solver, response)
        parts = {
            "start": begin,
            "goal": goal.identity(),
            "budget": budget.identity(),
            "ascent": replace(ascent, max_rounds=1),  # more rounds may be asked for later
            "element": self.element,
            "follower": follower,
            "solver": self.solver,
            "map": derivative.optimality,
        }
        value = torch.tensor(adjoint.value, dtype=torch.float64)
        probe = Probe("the goal at the trained weights", value, rtol=1e-6)
        store = Checkpoint.at(checkpoint, "poisoning", lambda: identity(problem.risk(), parts), probe)
        file = PoisoningFile(store, {"dx": begin, "weights": problem.weights()})
        state = file.read() or search.first(begin)
        for reached in search.run(state, adjoint, progress=progress):
            file.write(reached)
            state = reached
        return _result(search, state, adjoint)


def _retrained(problem: Problem, poisoning: Poisoning) -> Tensor:
    """The weights where warm retraining from ``w̄`` on the moved data ends, ``(p,)``."""
    change, risk = poisoning.change, problem.risk()
    moved = change.applied_to(risk)
    warm = LBFGS(gradient_tol=1e-8, max_gradients=1000).run(moved, lambda: change.outputs_after(risk))
    return Newton().run(moved.at(warm.weights), lambda: change.outputs_after(risk)).weights


def _result(search: Rounds, state: Progress, adjoint: AdjointGradient) -> Poisoning:
    problem, goal, start = search.problem, search.goal, search.clean.weights
    dx, weights = state.base.dx, state.base.weights
    clean, reached = goal.value(problem.risk(), start), goal.value(problem.risk(), weights)
    changes = [abs(reached - clean), *(abs(one.predicted - clean) for one in state.course[:1])]
    drift = _share(abs(clean - adjoint.value), max(changes)) if state.course or bool(dx.any()) else 0.0
    if bool(dx.any()):
        drift = max(drift, _share(float((start - problem.weights()).norm()), float((weights - start).norm())))
    return Poisoning(
        points=adjoint.points,
        dx=dx,
        change=search.change(dx),
        weights=weights,
        clean=clean,
        first_order=clean + float((adjoint.gradient * dx).sum()),
        linear=goal.value(problem.risk(), start + search.trained.push(dx)),
        predicted=reached,
        solved=state.base.status,
        real=None,
        drift=drift,
        adjoint=adjoint,
        course=state.course,
        reason=Reason[state.reason],
        layout=problem.risk().layout,
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else inf if part > 0 else 0.0


def _warn_of_drift(poisoning: Poisoning) -> None:
    warnings.warn(
        f"training had not stopped: on data that did not move the goal changes by "
        f"{poisoning.clean - poisoning.adjoint.value:.3g} by itself, by the perturbation it changes by "
        f"{poisoning.predicted - poisoning.clean:.3g} more; the gradient and the linear estimate cannot be "
        f"trusted here, judge by retraining on moved and on clean data",
        SolsetWarning,
        stacklevel=3,
    )


def _start(feasible: FeasibleSet, problem: Problem, start: Tensor | None) -> Tensor:
    """The perturbation to begin with, refused if it is not feasible."""
    inputs = feasible.inputs
    if start is None:
        dx = inputs.new_zeros(inputs.shape)
    else:
        space = problem.data_space(feasible.budget.points)
        dx = space.unflatten(replace(space, name="start").flatten(start)).clone()
    if not feasible.contains(dx):
        nearest = float((feasible.project(dx) - dx).norm())
        raise bad_value(
            "start",
            expected="a perturbation within the budget and the box of valid features",
            got=f"{'the clean points' if start is None else 'one'}, {nearest:.3g} away from them",
            cure="Project it first: budget.at(problem).project(start).",
        )
    return dx
