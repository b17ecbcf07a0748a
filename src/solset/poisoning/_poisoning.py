"""Perturbations by design: where to move training points so that retraining ends where a goal says."""

import warnings
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from solset.checks import checked
from solset.errors import SolsetWarning, bad_value
from solset.goals import Goal
from solset.poisoning._adjoint import AdjointGradient, Response, gradient_of, require_finite
from solset.poisoning._ascent import Ascent
from solset.poisoning._budget import Budget, FeasibleSet
from solset.poisoning._followers import Follower, default_follower
from solset.poisoning._poisoning_file import PoisoningFile, Progress, Reason, Round
from solset.poisoning._rounds import Rounds
from solset.problem import Optimality, Problem
from solset.risk import identity
from solset.solvers import Solver
from solset.solvers.filters import Filter
from solset.storage import Checkpoint, Probe

DRIFT = 0.1  # share of a perturbation's effect up to which what training does by itself is small


@dataclass(frozen=True)
class Poisoning:
    """A perturbation designed for a goal, and what the model says of it; what retraining says is for `judge`.

    Attributes:
        points: ``K``.
        dx: The perturbation, ``(|K|, *input)``, in input units; inside the budget to the last bit.
        weights: At the moved data, as followed from round to round, ``(p,)``.
        clean: ``φ(w_0)``, where the follower ended on the data as they are: changes are counted from there.
            For a problem trained to its end ``w_0`` is ``w̄``; ``φ(w̄)`` itself is ``adjoint.value``.
        first_order: ``φ(w_0) + ⟨∇_x φ, Δx⟩``, with the gradient at the trained point.
        linear: ``φ(w_0 + v)`` with the chosen element ``v`` of the linear response at the trained point.
        predicted: ``φ`` at :attr:`weights`, which the follower's re-solving reached; for a flow element it is
            what training of that duration gives, so that :attr:`linear` is the model's own prediction.
        drift: What following does on data that did not move, relative to what the perturbation does: of the
            goal, ``|φ(w_0) - φ(w̄)|``, or of the weights, ``‖w_0 - w̄‖``, whichever is more. Where it is not
            small the weights were not the solution, and the gradient, the ranking, :attr:`first_order` and
            :attr:`linear` cannot be trusted; changes counted from :attr:`clean` can.
        adjoint: The gradient at the trained point, with the ranking of the points.
        course: Every round, those taken back included.
        reason: Why the ascent stopped.
    """

    points: tuple[int, ...]
    dx: Tensor
    weights: Tensor
    clean: float
    first_order: float
    linear: float
    predicted: float
    drift: float
    adjoint: AdjointGradient
    course: tuple[Round, ...]
    reason: Reason

    def ranking(self) -> list[tuple[int, float]]:
        """The points to guard: each with the change of the goal for a unit move of it alone."""
        return self.adjoint.ranking()


@checked
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
    progress: bool = False,
) -> Poisoning:
    """The perturbation within a budget that moves the solution set's element where a goal says.

    Projected ascent along the adjoint gradient ``-Cᵀ (Aᵀ)⁺ ∇φ`` (one solve whatever the number of points),
    with steps on the tangent cone of the budget and a line search, linearised again at ``(x̄ + Δx, w)`` every
    few steps. A round whose rise re-solving does not confirm is taken back and made shorter. The linear
    model is never the judge: see :func:`judge_poisoning`.

    Args:
        problem: The trained point.
        goal: What to raise or lower: :class:`TargetWeights`, :class:`HeldOutLoss`, :class:`WeightFunction`.
        budget: Which points, how far, within which valid features.
        element: Which solution the poisoner counts on: ``None`` for the nearest one,
            ``filters.GradientFlow(steps, learning_rate)`` for what training of that duration reaches.
        ascent: Rounds, steps and strides.
        follower: What carries the weights from one linearisation to the next; by default Gauss–Newton steps
            onto the set, Newton's method, or for a flow real gradient descent from ``w̄``. Where it ends on
            the data as they are is what every change is counted from.
        start: A feasible perturbation to begin with, ``(|K|, *input)``; zero by default.
        optimality: As for :meth:`Problem.graphical_derivative`.
        solver: As there; it must solve with ``Aᵀ`` as well.
        checkpoint: A safetensors file that is replaced after every round. If it exists the ascent goes on
            from it, and must have been made for this problem, goal, budget and settings.
        progress: Whether to show a progress bar.

    Raises:
        TypeError: If the goal returns no tensor, or the solver does not serve ``Aᵀ``.
        ValueError: If nothing is feasible or the start is not; if the goal does not fit the problem, is not
            differentiable or not finite at ``w̄``; if the checkpoint is of something else (says of what).

    Warns:
        SolsetWarning: If the goal or the weights move by themselves by more than a tenth of what the
            perturbation does: training had not stopped.

    Cost: a round prepares the solver anew (for the interpolating map ``nc`` rows and their Gram matrix) and
    makes two solves a step; the follower's cost comes on top, once more for the data as they are.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from solset.goals import WeightFunction
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> x, y = torch.ones(1, 1).double(), torch.full((1, 1), 2.0).double()
        >>> problem = Problem(model, nn.MSELoss(), x, y)  # w = 2 / x
        >>> found = design_poisoning(problem, WeightFunction(lambda w: w.sum()), Budget([0], 0.2))
        >>> round(float(found.dx), 6), round(float(found.weights), 6)
        (-0.2, 2.5)
    """
    goal.check(problem)
    feasible = budget.at(problem)
    points = problem.check_points(budget.points)
    begin = _start(feasible, problem, start)
    derivative = problem.graphical_derivative(points=points, optimality=optimality, solver=solver)
    response = Response(derivative.linearisation, element)
    adjoint = gradient_of(problem, goal, response, points)
    require_finite(adjoint)
    follower = follower or default_follower(derivative.optimality, element)
    settings = ascent or Ascent()
    search = Rounds(problem, goal, feasible, points, follower, settings, solver, response)
    parts = {
        "start": begin,
        "goal": goal.identity(),
        "budget": budget.identity(),
        "ascent": replace(settings, rounds=1),  # more rounds may be asked for later
        "element": element,
        "follower": follower,
        "solver": solver,
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
    found = _result(search, state, adjoint)
    if found.drift > DRIFT:
        _warn_of_drift(found)
    return found


def _result(search: Rounds, state: Progress, adjoint: AdjointGradient) -> Poisoning:
    problem, goal, start = search.problem, search.goal, search.clean.weights
    dx, weights = state.base.dx, state.base.weights
    clean, reached = goal.value(problem, start), goal.value(problem, weights)
    changes = [abs(reached - clean), *(abs(one.predicted - clean) for one in state.course[:1])]
    drift = _share(abs(clean - adjoint.value), max(changes)) if state.course or bool(dx.any()) else 0.0
    if bool(dx.any()):
        drift = max(drift, _share(float((start - problem.weights()).norm()), float((weights - start).norm())))
    return Poisoning(
        points=adjoint.points,
        dx=dx,
        weights=weights,
        clean=clean,
        first_order=clean + float((adjoint.gradient * dx).sum()),
        linear=goal.value(problem, start + search.trained.push(dx)),
        predicted=reached,
        drift=drift,
        adjoint=adjoint,
        course=state.course,
        reason=Reason[state.reason],
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else inf if part > 0 else 0.0


def _warn_of_drift(found: Poisoning) -> None:
    warnings.warn(
        f"training had not stopped: on data that did not move the goal changes by "
        f"{found.clean - found.adjoint.value:.3g} by itself, by the perturbation it changes by "
        f"{found.predicted - found.clean:.3g} more; the gradient and the linear estimate cannot be trusted "
        f"here, judge by retraining on moved and on clean data alike",
        SolsetWarning,
        stacklevel=3,
    )


def _start(feasible: FeasibleSet, problem: Problem, start: Tensor | None) -> Tensor:
    """The perturbation to begin with, once it is feasible."""
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
            got=f"{'the points as they are' if start is None else 'one'}, {nearest:.3g} away from them",
            cure="Project it first: budget.at(problem).project(start).",
        )
    return dx
