"""The smallest change of the training data that flips a prediction: by the linear model, then for real."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from solset.checks import checked
from solset.derivatives import Response
from solset.errors import Status, bad_value
from solset.goals import held_out
from solset.poisoning._adjoint import AdjointGradient, finite_gradient_of
from solset.poisoning._ascent import Ascent
from solset.poisoning._budget import Budget
from solset.poisoning._poisoning import Design
from solset.poisoning._prediction_attack import Attack, PredictionGap, Trial, gaps_of, outputs_at, resolved
from solset.problem import Optimality, Problem, keeps_outputs
from solset.results import TableResult, computed
from solset.retraining import GradientDescent, LevenbergMarquardt, Method, Newton
from solset.risk import require_logits
from solset.solvers import Solver
from solset.solvers.filters import Filter, GradientFlow

DESIGN = Ascent(max_rounds=4)


class MarginReason(StrEnum):
    """The outcome of a search for the smallest radius that flips a prediction."""

    BRACKETED = "a radius that flips the prediction, and a slightly smaller one that does not"
    TOO_SMALL = "the largest radius allowed does not flip it"
    FLIPS_BY_ITSELF = "solving on the clean data flips it already"
    NO_LOWER_END = "every radius tried flips it, down to a small share of the first"
    NOT_SOLVED = "solving ended off the solution set, or at numbers that are not finite"


@dataclass(frozen=True, eq=False, repr=False)
class PredictionMargin(TableResult):
    """How much a prediction depends on the features of some training points.

    Attributes:
        points: Indices ``K`` of the points.
        label: Predicted class of the input.
        rival: Class that overtakes it first, by the linear model.
        linear: Smallest radius that flips the prediction by the linear model, in input units; infinite if no
            radius up to the largest allowed does.
        verified: Smallest radius tried that flips it after solving on the moved data; infinite if none did,
            0 if solving on the clean data does.
        unflipped: Largest radius below it that was solved and did not flip it; 0 if there is none.
        dx: Perturbation of :attr:`verified`, or of :attr:`unflipped` if none flipped, ``(|K|, *input)``.
        trials: Trials in order; the first is the clean data.
        adjoint: Adjoint gradient of the gap to the rival at the trained point.
        reason: Outcome of the search.
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

    @property
    def headline(self) -> str:
        """The radii that flip the prediction, by the linear model and for real, and the outcome."""
        return (
            f"class {self.label} → {self.rival} at radius {self.linear:.4g} by the linear model, "
            f"{self.verified:.4g} verified: {self.reason}"
        )

    @computed
    def status(self) -> Status:
        """``converged`` where the search is complete, ``inconsistent`` where a solve failed."""
        if self.reason is MarginReason.NOT_SOLVED:
            return Status.INCONSISTENT
        return Status.MAX_STEPS if self.reason is MarginReason.NO_LOWER_END else Status.CONVERGED

    @computed
    def message(self) -> str:
        """The outcome of the search in a sentence."""
        return str(self.reason)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per trial, with the attributes of :class:`Trial`."""
        return [asdict(trial) for trial in self.trials]

    def ranking(self) -> list[tuple[int, float]]:
        """The points to guard, each with the change of the gap for a unit move of it alone."""
        return self.adjoint.ranking()


@checked
def stability_margin(
    problem: Problem,
    inputs: Any,
    budget: Budget,
    *,
    element: Filter | None = None,
    method: Method | None = None,
    ascent: Ascent | None = DESIGN,
    radius_tol: float = 0.02,
    optimality: Optimality = "auto",
    solver: Solver | None = None,
) -> PredictionMargin:
    """The smallest budget that flips the prediction of one test input.

    By the linear model: the smallest radius ``ρ`` at which some rival ``j`` has
    ``max {-⟨∇_x g_j, Δx⟩ : Δx within ρ} ≥ g_j``, with the gap ``g_j = f_label - f_j`` after solving on the
    clean data, and its adjoint gradient at the trained point. Then the radius is verified by bisection, with
    a real solve on the moved data for each trial. One attack that succeeds bounds the true margin from above;
    nothing here bounds it from below. A prediction that changes by solving on the clean data has no margin;
    the result says so.

    Args:
        problem: The trained point, with its data.
        inputs: Test input, ``(*input)`` or ``(1, *input)``.
        budget: Points, norm and valid features; its radius is the largest one to try.
        element: Filter that chooses the solution, as for :func:`design_poisoning`.
        method: Method that solves on the moved data; by default the one that belongs to the element: the
            nearest solution, Newton's method, or for a flow gradient descent from ``w̄``.
        ascent: Settings by which :func:`design_poisoning` designs each perturbation; ``None`` takes the
            maximiser of the linear model instead, which is cheap and often does not flip at its own radius.
        radius_tol: Width of the bracket relative to the radius at which the bisection ends.
        optimality: Optimality map, as for :meth:`Problem.derivative`.
        solver: Solver, as for :meth:`Problem.derivative`; it must solve with ``Aᵀ`` too.

    Raises:
        ValueError: If the network has one output only, two outputs are equally large, the input does not
            fit, the budget's radius is zero, or training points lie outside the valid features.

    Cost: one solve with ``Aᵀ`` for each other class, and about ten designs and solves on the moved data.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(2, 2, bias=False).double()
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> _ = model.weight.data.copy_(eye)
        >>> problem = Problem(model, nn.MSELoss(), eye, eye, target_moves=False)
        >>> test = torch.tensor([1.0, 0.8], dtype=torch.float64)  # the gap of its two outputs is 0.2
        >>> margin = stability_margin(problem, test, Budget([0, 1], 0.9), ascent=None)
        >>> round(margin.linear, 4)  # 0.2 / (√2 (1 + 0.8))
        0.0786
    """
    is_one = isinstance(inputs, Tensor) and tuple(inputs.shape) == problem.input_shape
    one = held_out(problem.risk(), inputs.unsqueeze(0) if is_one else inputs)
    _check(budget, radius_tol, len(one))
    label, rivals = _classes(problem, one)
    points = problem.check_points(budget.points)
    line = problem.derivative(points=points, optimality=optimality, solver=solver).linearisation
    response, resolve = Response(line, element), method or _method_of(line.optimality, element)
    space = problem.data_space(points)
    zero = torch.zeros(space.shape, dtype=space.dtype, device=space.device)
    outputs, status = resolved(problem, resolve, points, zero, one)
    goals = {rival: PredictionGap(one, label, rival) for rival in rivals}
    adjoints = {rival: finite_gradient_of(problem, goal, response, points) for rival, goal in goals.items()}
    gaps = dict(zip(rivals, gaps_of(outputs, label).tolist(), strict=True))
    first = Trial(0.0, min(gaps.values()), min(gaps.values()), status)
    if not first.is_solved:
        gaps = {rival: adjoint.value for rival, adjoint in adjoints.items()}
    radii = {j: _linear_radius(problem, budget, adjoint, gaps[j]) for j, adjoint in adjoints.items()}
    rival = min(rivals, key=lambda j: (radii[j], gaps[j] / max(float(adjoints[j].sizes.sum()), 1e-300)))
    goal = goals[rival]
    if not first.is_solved:
        return _margin(goal, adjoints[rival], radii[rival], inf, 0.0, zero, [first], MarginReason.NOT_SOLVED)
    if not first.gap > 0:
        return _margin(goal, adjoints[rival], 0.0, 0.0, 0.0, zero, [first], MarginReason.FLIPS_BY_ITSELF)
    design = Design(problem, goal, element, ascent, None, optimality, solver)
    attack = Attack(design, goal, budget, adjoints[rival], gaps[rival], resolve)
    return _bisected(attack, first, radii[rival], radius_tol)


def _check(budget: Budget, radius_tol: float, count: int) -> None:
    if count != 1:
        raise bad_value("inputs", expected="one test input", got=count, cure="Ask for one after the other.")
    budget.require_features()
    if not budget.radius > 0:
        raise bad_value("budget", expected="of a positive radius", got=budget.radius, cure="Allow some room.")
    if not 0 < radius_tol < 1:
        raise bad_value("radius_tol", expected="in (0, 1)", got=radius_tol, cure="It is a relative width.")


def _classes(problem: Problem, inputs: Tensor) -> tuple[int, list[int]]:
    """The predicted class and all other classes."""
    require_logits(problem.risk())
    with torch.no_grad():
        outputs = outputs_at(problem.risk(), problem.weights(), inputs)
    if len(outputs) < 2:
        raise bad_value(
            "problem",
            expected="a classifier with two outputs or more",
            got=f"{len(outputs)}",
            cure="Use design_poisoning with a WeightFunction of the one output.",
        )
    first, second = outputs.topk(2).values.tolist()
    label = int(outputs.argmax())
    if not first > second:
        raise bad_value(
            "inputs",
            expected="a test input with one largest output",
            got=f"two of {first:.6g}",
            cure="Choose an input with a prediction: a tie has no margin.",
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


def _bisected(attack: Attack, first: Trial, linear: float, radius_tol: float) -> PredictionMargin:
    """Brackets the radius that flips the prediction, starting at the linear one, and halves the bracket.

    A radius that could not be solved is an upper end of the bracket, like one that flips.
    """
    largest, trials = attack.budget.radius, [first]
    radius = begin = linear if isfinite(linear) else largest
    low, top, flips, best = 0.0, inf, inf, torch.zeros_like(attack.adjoint.gradient)
    while True:
        trial, dx = attack.at(radius)
        trials.append(trial)
        if trial.is_flipped:
            top, flips, best = radius, radius, dx
        elif not trial.is_solved:
            top = radius
        else:
            low, best = radius, best if isfinite(flips) else dx
        is_closed = top - low <= radius_tol * min(top, largest) or (low == 0.0 and top <= radius_tol * begin)
        if is_closed or low >= largest:
            break
        radius = (low + top) / 2 if isfinite(top) else min(2 * radius, largest)  # halved while low is 0
    if not isfinite(top):
        reason = MarginReason.TOO_SMALL
    elif top < flips:
        reason = MarginReason.NOT_SOLVED
    else:
        reason = MarginReason.BRACKETED if low > 0 else MarginReason.NO_LOWER_END
    return _margin(attack.goal, attack.adjoint, linear, flips, low, best, trials, reason)


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
