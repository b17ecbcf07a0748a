"""Perturbations by design: where to move training points so that retraining ends where a goal says."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from solset.analysis.design.adjoint import AdjointGradient, Response, gradient_of, require_finite
from solset.analysis.design.ascent import Ascent
from solset.analysis.design.budget import Budget, FeasibleSet
from solset.analysis.design.followers import Follower, default_follower
from solset.analysis.design.goals import Goal
from solset.analysis.design.poisoning_file import PoisoningFile, Reason, Round
from solset.analysis.design.rounds import Rounds
from solset.door import checked
from solset.errors import bad_value
from solset.problem import Optimality, Problem
from solset.solvers import Solver
from solset.solvers.filters import Filter


@dataclass(frozen=True)
class Poisoning:
    """A perturbation designed for a goal, and what the model says of it; what retraining says is for `judge`.

    Attributes:
        points: ``K``.
        dx: The perturbation, ``(|K|, *input)``, in input units; inside the budget to the last bit.
        weights: At the moved data, as followed from round to round, ``(p,)``.
        clean: ``φ(w̄)``.
        first_order: ``φ(w̄) + ⟨∇_x φ, Δx⟩``.
        linear: ``φ`` at the chosen element of the one linear estimate made at the trained point.
        predicted: ``φ`` at :attr:`weights`, which the follower's re-solving reached; for a flow element it is
            what training of that duration gives, so that :attr:`linear` is the model's own prediction.
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
            onto the set, Newton's method, or for a flow real gradient descent from ``w̄``.
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

    Cost: a round prepares the solver anew (for the interpolating map ``nc`` rows and their Gram matrix) and
    makes two solves a step; the follower's cost comes on top.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from solset.analysis import WeightFunction
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
        "goal": goal.identity(),
        "budget": budget.identity(),
        "ascent": replace(settings, rounds=1),  # more rounds may be asked for later
        "element": element,
        "follower": follower,
        "solver": solver,
        "map": derivative.optimality,
    }
    kept = PoisoningFile.of(checkpoint, problem, parts, begin, adjoint.value)
    state = kept.read() or search.first(begin)
    for reached in search.run(state, adjoint, progress=progress):
        kept.write(reached)
        state = reached
    linear = response.push(state.base.dx)
    return Poisoning(
        points=tuple(points),
        dx=state.base.dx,
        weights=state.base.weights,
        clean=adjoint.value,
        first_order=adjoint.value + float((adjoint.gradient * state.base.dx).sum()),
        linear=goal.value(problem, problem.weights() + linear),
        predicted=goal.value(problem, state.base.weights),
        adjoint=adjoint,
        course=state.course,
        reason=Reason[state.reason],
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
