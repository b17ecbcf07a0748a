"""The adjoint: how a function of the weights answers to every training feature, from one solve."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from solset.checks import checked
from solset.derivatives import Linearisation
from solset.errors import SolsetWarning, Status, bad_value
from solset.goals import Goal
from solset.problem import Optimality, Problem
from solset.solvers import Prepared, Solution, Solver
from solset.solvers.filters import Filter, GradientFlow, MinimumNorm, Tikhonov


@dataclass(frozen=True)
class Response:
    """The linear map ``Δx ↦ v`` from data to the chosen element of the graphical derivative, and its adjoint.

    ``v = -A⁺ C Δx`` for the minimum norm; ``v = -Aᵀ_W φ(A_W Aᵀ_W) W C Δx`` with the weighted rows
    ``A_W = W A`` for a filter that follows training (``-φ(H) B Δx`` for a symmetric ``A``).

    Attributes:
        linearisation: The pair ``(A, C)``.
        element: The filter; ``None`` or ``MinimumNorm`` for the nearest element.
    """

    linearisation: Linearisation
    element: Filter | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.element, MinimumNorm | GradientFlow | Tikhonov | None):
            raise bad_value(
                "element",
                expected="None, MinimumNorm, GradientFlow or Tikhonov",
                got=self.element,
                cure="A rank cut is a choice of the solver: Dual(rank_tolerance=...).",
            )

    def push(self, dx: Tensor) -> Tensor:
        """The weight change ``v``, ``(p,)``.

        Args:
            dx: ``(|K|, *input)``.

        Cost: one product with ``C`` and one solve.
        """
        line = self.linearisation
        rhs = -(line.data @ line.data_space.flatten(dx))
        if self.follows_training:
            constraint = line.constraint
            return constraint.flow.filtered(self._filter, constraint.weigh(rhs)).value
        return line.system.solve(rhs).value

    def pull(self, q: Tensor) -> tuple[Tensor, Solution]:
        """The adjoint: ``-Cᵀ (Aᵀ)⁺ q``, shaped like ``dx``, with the solve that made it.

        The solution's residual is ``‖(I - A⁺A) q‖ / ‖q‖``, whatever the element: the share of ``q`` along
        which the set is unbounded.

        Args:
            q: A weight direction, ``(p,)``.

        Cost: one solve with ``Aᵀ`` (two for a filter), one product with ``Cᵀ``.
        """
        line = self.linearisation
        solved = line.system.solve_transposed(q)
        y = self._filtered(q) if self.follows_training else solved.value
        return line.data_space.unflatten(-(line.data.T @ y)), solved

    def _filtered(self, q: Tensor) -> Tensor:
        """``φ(H) q``, or ``Wᵀ A_W φ(Aᵀ_W A_W) q``: the adjoint of the filtered solve."""
        constraint = self.linearisation.constraint
        flow: Prepared = constraint.flow
        inner = flow.curvature().filtered(self._filter, q).value
        if constraint.weights is None:
            return inner if flow.operator.is_symmetric else flow.operator @ inner
        return constraint.weights.T @ (flow.operator @ inner)

    @property
    def _filter(self) -> Filter:
        return self.element or MinimumNorm()

    @property
    def follows_training(self) -> bool:
        """Whether the element is one that training of a finite duration reaches."""
        return isinstance(self.element, GradientFlow | Tikhonov)


@dataclass(frozen=True)
class AdjointGradient:
    """The derivative of a goal in every feature of the chosen points, at one linearisation.

    Attributes:
        points: ``K``.
        value: ``φ`` at the weights of the linearisation.
        gradient: ``∇_x φ``, ``(|K|, *input)``, in goal units per input unit.
        weight_gradient: ``‖∇φ‖``, in goal units per weight unit.
        unbounded: ``‖(I - A⁺A) ∇φ‖ / ‖∇φ‖``: the share of ``∇φ`` outside ``range Aᵀ``. Along it ``φ`` is
            unbounded to first order on the solution set, so that data says nothing about it.
        status: How the solve with ``Aᵀ`` ended; ``inconsistent`` where a part is outside its range.
        optimality: The map that was linearised.
    """

    points: tuple[int, ...]
    value: float
    gradient: Tensor
    weight_gradient: float
    unbounded: float
    status: Status
    optimality: str

    @cached_property
    def sizes(self) -> Tensor:
        """``‖∇_{x_k} φ‖`` of each point, ``(|K|,)``: the rise for a unit move of that point alone."""
        return self.gradient.flatten(1).norm(dim=1)

    def ranking(self) -> list[tuple[int, float]]:
        """Points with the rise that a unit move of each alone makes, the largest first.

        For a poisoner the points to move; for a defender the points to guard.
        """
        order = torch.argsort(self.sizes, descending=True, stable=True).tolist()
        return [(self.points[i], float(self.sizes[i])) for i in order]


@checked
def adjoint_gradient(
    problem: Problem,
    goal: Goal,
    *,
    points: Sequence[int] | None = None,
    element: Filter | None = None,
    optimality: Optimality = "auto",
    solver: Solver | None = None,
) -> AdjointGradient:
    """How a goal answers to every feature of the chosen training points, for one solve.

    ``∇_x φ = -Cᵀ (Aᵀ)⁺ ∇φ(w̄)``: the derivative at ``Δx = 0`` of ``φ`` at the solution nearest to ``w̄``.
    For a flow element ``φ_t`` stands for the pseudo-inverse: the derivative of ``φ`` where training of that
    duration ends. With ``H`` invertible it is Koh & Liang's influence of a feature (2017, equation 5).

    Args:
        problem: The trained point.
        goal: ``φ``.
        points: ``K``; all points by default.
        element: ``None`` for the nearest solution, ``filters.GradientFlow`` for training of that duration,
            ``filters.Tikhonov``.
        optimality: As for :meth:`Problem.graphical_derivative`.
        solver: As there; it must solve with ``Aᵀ`` as well.

    Raises:
        TypeError: If the solver keeps nothing that serves the transposed system.
        ValueError: If the goal does not fit, is not differentiable or not finite.

    Warns:
        SolsetWarning: If the solve with ``Aᵀ`` failed.

    Cost: one backward pass over the goal, one solve with ``Aᵀ`` and one product with ``Cᵀ``, whatever the
    number of points.

    Example:
        >>> from torch import nn
        >>> from solset.goals import WeightFunction
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.tensor([[1.0]]), torch.tensor([[2.0]]))
        >>> found = adjoint_gradient(problem, WeightFunction(lambda w: w.sum()))
        >>> found.gradient  # w = 2 / x
        tensor([[-2.]])
    """
    goal.check(problem)
    derivative = problem.graphical_derivative(points=points, optimality=optimality, solver=solver)
    response = Response(derivative.linearisation, element)
    found = gradient_of(problem, goal, response, problem.check_points(points))
    require_finite(found)
    if found.status not in {Status.CONVERGED, Status.INCONSISTENT}:
        warnings.warn(
            f"the adjoint solve ended with status '{found.status}': the gradient cannot be trusted; take "
            f"another solver",
            SolsetWarning,
            stacklevel=2,
        )
    return found


def gradient_of(problem: Problem, goal: Goal, response: Response, points: Sequence[int]) -> AdjointGradient:
    """The gradient at a linearisation that is there already, whatever its numbers are.

    Args:
        problem: At the point of linearisation.
        goal: ``φ``.
        response: There.
        points: ``K``, checked.
    """
    value, slope = goal.slope(problem, problem.weights())
    size = float(torch.linalg.vector_norm(slope))
    if not size < float("inf"):
        space = response.linearisation.data_space
        gradient = torch.full(space.shape, torch.nan, dtype=space.dtype, device=space.device)
        solved = Solution(slope, Status.NONFINITE, float("nan"), 0)
    else:
        gradient, solved = response.pull(slope)
    return AdjointGradient(
        points=tuple(points),
        value=value,
        gradient=gradient,
        weight_gradient=size,
        unbounded=solved.residual,
        status=solved.status,
        optimality=response.linearisation.optimality,
    )


def require_finite(found: AdjointGradient) -> None:
    """Refuses a goal that has no finite value and gradient at the trained weights.

    Args:
        found: There.

    Raises:
        ValueError: If either is not finite.
    """
    if abs(found.value) < float("inf") and found.weight_gradient < float("inf"):
        return
    raise bad_value(
        "goal",
        expected="finite, with a finite gradient, at the trained weights",
        got=f"value {found.value}, gradient norm {found.weight_gradient}",
        cure="Look at it there: it overflows, or is not smooth.",
    )
