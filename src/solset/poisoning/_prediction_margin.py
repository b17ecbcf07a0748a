"""The smallest change of the training data that flips a prediction: by the linear model, then for real."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf, isfinite

import torch
from torch import Tensor

from solset.checks import checked
from solset.errors import bad_value
from solset.goals import check_inputs
from solset.poisoning._adjoint import AdjointGradient, Response, gradient_of, require_finite
from solset.poisoning._ascent import Ascent
from solset.poisoning._budget import Budget
from solset.poisoning._prediction_attack import (
    Attack,
    DesignOptions,
    PredictionGap,
    Trial,
    gaps_of,
    outputs_at,
    resolved,
)
from solset.problem import Optimality, Problem, keeps_outputs
from solset.retraining import GradientDescent, LevenbergMarquardt, Method, Newton
from solset.solvers import Solver
from solset.solvers.filters import Filter, GradientFlow

DESIGN = Ascent(rounds=4)


class MarginReason(StrEnum):
    """What a search for the smallest radius found."""

    BRACKETED = "a radius that flips the prediction, and a slightly smaller one that does not"
    TOO_SMALL = "the largest radius allowed does not flip it"
    FLIPS_BY_ITSELF = "re-solving on the data as they are flips it already"
    NO_LOWER_END = "every radius tried flips it, down to a small share of the first"
    NOT_SOLVED = "re-solving ended off the solution set, or at numbers that are not finite"


@dataclass(frozen=True)
class PredictionMargin:
    """How much a prediction hangs on the features of some training points.

    Attributes:
        points: ``K``.
        label: The predicted class.
        rival: The class that overtakes it first, by the linear model.
        linear: The smallest radius that flips it by the linear model, in input units; infinite if none up to
            the largest allowed does.
        verified: The smallest radius tried that flips it after real re-solving; infinite if none did, 0 if
            re-solving on the data as they are does.
        unflipped: The largest radius below it that was solved and did not flip it; 0 if none.
        dx: The perturbation of :attr:`verified`, or of :attr:`unflipped` if none flipped,
            ``(|K|, *input)``.
        trials: Every budget tried, in order; the first is the data as they are.
        adjoint: Of the gap to the rival, at the trained point.
        reason: What the search found, and why it ended.
    """

    points: tuple[int, ...]
    label: int
    rival: int
    linear: float
    verified: float
    unflipped: float
    dx: Tensor
    trials: tuple[Trial, ...]
    adjoint: AdjointGradient
    reason: MarginReason

    def ranking(self) -> list[tuple[int, float]]:
        """The points to guard: each with the change of the gap for a unit move of it alone."""
        return self.adjoint.ranking()


@checked
def stability_margin(
    problem: Problem,
    inputs: Tensor,
    budget: Budget,
    *,
    element: Filter | None = None,
    method: Method | None = None,
    ascent: Ascent | None = DESIGN,
    tol: float = 0.02,
    optimality: Optimality = "auto",
    solver: Solver | None = None,
) -> PredictionMargin:
    """The smallest budget that flips the prediction of one test input.

    By the linear model: the smallest radius ``ρ`` at which some rival ``j`` has
    ``max {-⟨∇_x g_j, Δx⟩ : Δx within ρ} ≥ g_j``, with the gap ``g_j = f_label - f_j`` after re-solving on
    the data as they are, and its adjoint gradient at the trained point. Then verified: bisection on the
    radius, each perturbation re-solved for real. That shows what one attack needs, so it bounds the true
    margin from above; nothing here bounds it from below. A prediction that re-solving changes on data that
    did not move has no margin: the result says so.

    Args:
        problem: The trained point.
        inputs: The test input, ``(*input)`` or ``(1, *input)``.
        budget: Which points, norm and valid features; its radius is the largest to try.
        element: As for :func:`design_poisoning`.
        method: How to re-solve; by default the element's own: the nearest solution, Newton's method, or for a
            flow gradient descent from ``w̄``.
        ascent: How each perturbation is designed anew by :func:`design_poisoning`; ``None`` takes the
            maximiser of the linear model instead, which is cheap and often does not flip at its own size.
        tol: Relative width to which the radius is bisected.
        optimality: As for :meth:`Problem.graphical_derivative`.
        solver: As there; it must solve with ``Aᵀ`` as well.

    Raises:
        ValueError: If the network has one output only, two outputs are equally large, the input does not
            fit, the budget's radius is zero, or training points lie outside the valid features.

    Cost: one solve with ``Aᵀ`` for each other class, and some ten designed perturbations and re-solvings.
    """
    one = inputs.unsqueeze(0) if tuple(inputs.shape) == problem.input_shape else inputs
    check_inputs(problem, one)
    _check(budget, tol, len(one))
    label, rivals = _classes(problem, one)
    points = problem.check_points(budget.points)
    line = problem.graphical_derivative(points=points, optimality=optimality, solver=solver).linearisation
    response, resolve = Response(line, element), method or _method_of(line.optimality, element)
    still = problem.data_space(points)
    still = torch.zeros(still.shape, dtype=still.dtype, device=still.device)
    outputs, status = resolved(problem, resolve, points, still, one)
    found = {}
    for rival in rivals:
        found[rival] = gradient_of(problem, PredictionGap(one, label, rival), response, points)
        require_finite(found[rival])
    gaps = dict(zip(rivals, gaps_of(outputs, label).tolist(), strict=True))
    first = Trial(0.0, min(gaps.values()), min(gaps.values()), status)
    if not first.is_solved:
        gaps = {rival: adjoint.value for rival, adjoint in found.items()}
    radii = {rival: _linear_radius(problem, budget, adjoint, gaps[rival]) for rival, adjoint in found.items()}
    rival = min(rivals, key=lambda j: (radii[j], gaps[j] / max(float(found[j].sizes.sum()), 1e-300)))
    goal = PredictionGap(one, label, rival)
    if not first.is_solved:
        why = MarginReason.NOT_SOLVED
        return _margin(goal, found[rival], radii[rival], inf, 0.0, still, [first], why)
    if not first.gap > 0:
        return _margin(goal, found[rival], 0.0, 0.0, 0.0, still, [first], MarginReason.FLIPS_BY_ITSELF)
    options = DesignOptions(element=element, optimality=optimality, solver=solver)
    attack = Attack(problem, goal, budget, found[rival], gaps[rival], resolve, ascent, options)
    return _bisected(attack, first, radii[rival], tol)


def _check(budget: Budget, tol: float, count: int) -> None:
    if count != 1:
        raise bad_value("inputs", expected="one test input", got=count, cure="Ask for one after the other.")
    if not budget.radius > 0:
        raise bad_value(
            "budget", expected="a positive largest radius", got=budget.radius, cure="Allow some room."
        )
    if not 0 < tol < 1:
        raise bad_value("tol", expected="in (0, 1)", got=tol, cure="It is relative to the radius.")


def _classes(problem: Problem, inputs: Tensor) -> tuple[int, list[int]]:
    """The predicted class and the others."""
    with torch.no_grad():
        outputs = outputs_at(problem, problem.weights(), inputs)
    if len(outputs) < 2:
        raise bad_value(
            "problem",
            expected="a classifier with two outputs or more",
            got=f"{len(outputs)}",
            cure="Design a poisoning with a WeightFunction of that output.",
        )
    first, second = outputs.topk(2).values.tolist()
    label = int(outputs.argmax())
    if not first > second:
        raise bad_value(
            "inputs",
            expected="a test input with one largest output",
            got=f"two of {first:.6g}",
            cure="There is no margin where nothing is predicted.",
        )
    return label, [j for j in range(len(outputs)) if j != label]


def _method_of(optimality: str, element: Filter | None) -> Method:
    if isinstance(element, GradientFlow):
        return GradientDescent(element.steps, element.learning_rate)
    return LevenbergMarquardt(output_tol=1e-8) if keeps_outputs(optimality) else Newton()


def _linear_radius(problem: Problem, budget: Budget, adjoint: AdjointGradient, gap: float) -> float:
    """The smallest radius at which the linear model closes the gap; the gain grows with it."""
    if not gap > 0:
        return 0.0

    def is_closed(radius: float) -> bool:
        dx = replace(budget, radius=radius).at(problem).farthest(-adjoint.gradient)
        return -float((adjoint.gradient * dx).sum()) >= gap

    low, high = 0.0, budget.radius
    if not is_closed(high):
        return inf
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_closed(middle) else (middle, high)
    return high


def _bisected(attack: Attack, first: Trial, linear: float, tol: float) -> PredictionMargin:
    """Brackets the radius that flips the prediction, from the linear one on, and halves the bracket.

    A radius that could not be solved bounds the search from above, as one that flips does.
    """
    largest, trials = attack.budget.radius, [first]
    radius = begin = linear if isfinite(linear) else largest
    low, top, flips, kept = 0.0, inf, inf, torch.zeros_like(attack.adjoint.gradient)
    while True:
        trial, dx = attack.at(radius)
        trials.append(trial)
        if trial.is_flipped:
            top, flips, kept = radius, radius, dx
        elif not trial.is_solved:
            top = radius
        else:
            low, kept = radius, kept if isfinite(flips) else dx
        is_closed = top - low <= tol * min(top, largest) or (low == 0.0 and top <= tol * begin)
        if is_closed or low >= largest:
            break
        radius = (low + top) / 2 if isfinite(top) else min(2 * radius, largest)  # halved while low is 0
    if not isfinite(top):
        reason = MarginReason.TOO_SMALL
    elif top < flips:
        reason = MarginReason.NOT_SOLVED
    else:
        reason = MarginReason.BRACKETED if low > 0 else MarginReason.NO_LOWER_END
    return _margin(attack.goal, attack.adjoint, linear, flips, low, kept, trials, reason)


def _margin(
    goal: PredictionGap,
    adjoint: AdjointGradient,
    linear: float,
    verified: float,
    unflipped: float,
    dx: Tensor,
    trials: Sequence[Trial],
    reason: MarginReason,
) -> PredictionMargin:
    return PredictionMargin(
        points=adjoint.points,
        label=goal.label,
        rival=goal.rival,
        linear=linear,
        verified=verified,
        unflipped=unflipped,
        dx=dx,
        trials=tuple(trials),
        adjoint=adjoint,
        reason=reason,
    )
