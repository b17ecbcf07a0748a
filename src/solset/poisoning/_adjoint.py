"""The derivative of a function of the weights in every training feature, from one adjoint solve."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from solset.checks import checked
from solset.derivatives import Response
from solset.errors import SolsetWarning, Status
from solset.goals import Goal, require_finite
from solset.problem import Optimality, Problem
from solset.results import TableResult
from solset.solvers import Solution, Solver
from solset.solvers.filters import Filter


@dataclass(frozen=True, eq=False, repr=False)
class AdjointGradient(TableResult):
    """The derivative of a goal in every feature of the chosen points, at one linearisation.

    Attributes:
        points: Indices ``K`` of the points.
        value: Goal ``φ`` at the weights of the linearisation.
        gradient: Derivative ``∇_x φ``, ``(|K|, *input)``, in goal units per input unit.
        weight_gradient: Norm ``‖∇φ‖`` of the derivative in the weights, in goal units per weight unit.
        unbounded: Share ``‖(I - A⁺A) ∇φ‖ / ‖∇φ‖`` of ``∇φ`` outside ``range Aᵀ``. Along it ``φ`` is unbounded
            to first order on the solution set, so the data says nothing about it.
        status: Outcome of the solve with ``Aᵀ``; ``inconsistent`` where ``∇φ`` is partly outside its range.
        optimality: Map that was linearised.
    """

    points: tuple[int, ...]
    value: float
    gradient: Tensor
    weight_gradient: float
    unbounded: float
    status: Status
    optimality: str

    @property
    def headline(self) -> str:
        """Outcome, value of the goal, and the point that it answers to most."""
        point, size = self.ranking()[0]
        return (
            f"{self.status}, goal {self.value:.4g}, point {point} changes it most: {size:.3g} per input unit"
        )

    def rows(self) -> list[dict[str, Any]]:
        """One dict per point, the most influential first, with its index and ``‖∇_{x_k} φ‖``."""
        return [{"point": point, "size": size} for point, size in self.ranking()]

    @cached_property
    def sizes(self) -> Tensor:
        """``‖∇_{x_k} φ‖`` of each point, ``(|K|,)``: the rise for a unit move of that point alone."""
        return self.gradient.reshape(len(self.gradient), -1).norm(dim=1)

    def ranking(self) -> list[tuple[int, float]]:
        """The points, each with the rise of the goal for a unit move of it alone, the largest first.

        A poisoner moves the first ones; a defender guards them.
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
    """The derivative of a goal in every feature of the chosen training points, for one solve.

    ``∇_x φ = -Cᵀ (Aᵀ)⁺ ∇φ(w̄)``: the derivative at ``Δx = 0`` of ``φ`` at the solution nearest to ``w̄``.
    For a flow element ``φ_t`` replaces the pseudo-inverse: the derivative of ``φ`` where training of that
    duration ends. With ``H`` invertible it is Koh & Liang's influence of a feature (2017, equation 5).

    Args:
        problem: The trained point, with its data.
        goal: Goal ``φ``, a function of the weights.
        points: Indices ``K`` of the points; all points by default.
        element: Filter that chooses the solution: ``None`` for the nearest one, ``filters.GradientFlow`` for
            training of that duration, or ``filters.Tikhonov``.
        optimality: Optimality map, as for :meth:`Problem.derivative`.
        solver: Solver, as for :meth:`Problem.derivative`; it must solve with ``Aᵀ`` too.

    Raises:
        TypeError: If the solver cannot solve the transposed system.
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
        >>> adjoint = adjoint_gradient(problem, WeightFunction(lambda w: w.sum()))
        >>> adjoint.gradient  # w = 2 / x
        tensor([[-2.]])
    """
    goal.check(problem.risk())
    derivative = problem.derivative(points=points, optimality=optimality, solver=solver)
    response = Response(derivative.linearisation, element)
    adjoint = finite_gradient_of(problem, goal, response, problem.check_points(points))
    if adjoint.status not in {Status.CONVERGED, Status.INCONSISTENT}:
        text = f"the adjoint solve ended with status '{adjoint.status}': the gradient cannot be trusted"
        warnings.warn(f"{text}; take another solver", SolsetWarning, stacklevel=2)
    return adjoint


def gradient_of(problem: Problem, goal: Goal, response: Response, points: Sequence[int]) -> AdjointGradient:
    """The gradient at a linearisation that was made already; its numbers may not be finite."""
    value, slope = goal.slope(problem.risk(), problem.weights())
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


def finite_gradient_of(
    problem: Problem, goal: Goal, response: Response, points: Sequence[int]
) -> AdjointGradient:
    """The gradient at a linearisation; a goal whose value or slope is not finite is refused."""
    adjoint = gradient_of(problem, goal, response, points)
    require_finite(adjoint.value, adjoint.weight_gradient)
    return adjoint
