"""Influence functions: the special case of an isolated solution (Koh & Liang 2017)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from solset.changes import Move
from solset.checks import checked
from solset.derivatives import Linearisation
from solset.errors import SolsetWarning, Status, bad_value
from solset.goals import held_out, point_count
from solset.operators import Jacobian
from solset.problem import Problem, Stationary
from solset.risk import slopes_at
from solset.solvers import Solution, Solver


@checked
@dataclass(frozen=True)
class Moved:
    """Training points whose features change.

    Attributes:
        points: Indices of the points, in the order of ``dx``.
        dx: Change of the features, ``(|K|, *input)``, in input units.
    """

    points: Sequence[int]
    dx: Tensor


@checked
@dataclass(frozen=True)
class Reweighted:
    """Training points whose terms in the risk are multiplied by ``1 + factor``.

    Attributes:
        points: Indices of the points that are reweighted.
        factor: Relative change ``ε`` of the weights; -1 removes the points.
    """

    points: Sequence[int]
    factor: float


def removed(points: Sequence[int]) -> Reweighted:
    """The removal of points: their terms are multiplied by 0, while a mean is still divided by ``n``.

    Args:
        points: Indices of the points that are removed.
    """
    return Reweighted(points, -1.0)


@checked
def influence(problem: Problem, change: Moved | Reweighted, *, solver: Solver | None = None) -> Solution:
    """The first-order change of the trained weights when training points are moved, removed or reweighted.

    ``-H⁻¹ B Δx`` for moved features and ``-ε H⁻¹ α Σ_K ∇L_k`` for reweighted points (Koh & Liang 2017,
    equations 1 and 2 and section 2.2, with the sign of a change of weights). Where ``H`` is singular the
    minimum-norm solution is returned.

    Args:
        problem: Trained point; at an isolated minimum the result is the solution's own derivative.
        change: Change of the training data: moved or reweighted points.
        solver: Solver for the Hessian; by default the map chooses one that suits the sizes.

    Warns:
        SolsetWarning: If ``H`` is seen to be singular, or the solver did not converge.

    Returns:
        The weights ``w̄ + Δw`` with status and residual; subtract ``problem.weights()`` for the change.

    Cost: one product or gradient over ``K`` and one solve.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 1.5)
        >>> x, y = torch.ones(2, 1), torch.tensor([[1.0], [2.0]])
        >>> problem = Problem(model, nn.MSELoss(), x, y)  # the mean of the targets
        >>> influence(problem, removed([1])).value  # to first order; the mean of what is left is 1.0
        tensor([1.2500])
    """
    points = problem.check_points(change.points)
    derivative = problem.graphical_derivative(points=points, optimality=Stationary(), solver=solver)
    line, layout = derivative.linearisation, problem.risk().layout.shapes
    if isinstance(change, Moved):
        solution = derivative(Move(points, change.dx).direction(problem.risk())).min_norm()
    else:
        solution = line.answers(-change.factor * problem.risk().select(points).gradient()).min_norm()
    return _checked(solution.with_value(problem.weights() + solution.value, layout), line)


@checked
def removal_scores(problem: Problem, inputs: Any, targets: Any, *, solver: Solver | None = None) -> Tensor:
    """The predicted change of each test loss when each training point is removed, ``(tests, n)``.

    The formula is ``∇ℓ_tᵀ H⁻¹ α∇L_i``. A positive score says that the loss of test point ``t`` rises when
    training point ``i`` is removed.

    Args:
        problem: Trained point that is studied.
        inputs: Test inputs ``(tests, *input)``, or a tree like that of the training inputs.
        targets: Targets of the test inputs, ``(tests, ...)``.
        solver: Solver for the Hessian; by default the map chooses one that suits the sizes.

    Cost: one solve and one sweep over the training data per test point.
    """
    adjoints = _adjoints(problem, inputs, targets, solver)
    risk = problem.risk()
    pushed = Jacobian(risk) @ adjoints
    slopes = slopes_at(risk, risk.outputs())
    per_point = pushed.reshape(problem.point_count, -1, adjoints.shape[1])
    return torch.einsum("nc,nct->tn", slopes, per_point)


@checked
def feature_scores(problem: Problem, inputs: Any, targets: Any, *, solver: Solver | None = None) -> Tensor:
    """The derivative of each test loss in every training feature, ``(tests, n, *input)``.

    The formula is ``-Bᵀ H⁻¹ ∇ℓ_t`` (Koh & Liang 2017, equation 5). Large entries mark the pixels of the
    training points that matter most for a test point.

    Args:
        problem: Trained point that is studied.
        inputs: Test inputs ``(tests, *input)``, or a tree like that of the training inputs.
        targets: Targets of the test inputs, ``(tests, ...)``.
        solver: Solver for the Hessian; by default the map chooses one that suits the sizes.

    Cost: one solve and one product with ``Bᵀ`` per test point; ``tests·n·d`` numbers.
    """
    problem.risk().points.require_moving()
    adjoints = _adjoints(problem, inputs, targets, solver)
    derivative = problem.graphical_derivative(optimality=Stationary(), solver=solver)
    pulled = derivative.linearisation.pull(adjoints)
    return -pulled.T.reshape(adjoints.shape[1], problem.point_count, *problem.input_shape)


def _adjoints(problem: Problem, inputs: Any, targets: Any, solver: Solver | None) -> Tensor:
    """``H⁻¹ ∇ℓ_t`` for each test point, ``(p, tests)``."""
    counts = point_count(inputs), point_count(targets)
    if counts[0] == 0 or counts[0] != counts[1]:
        raise bad_value(
            "inputs",
            expected="one target per test input",
            got=f"{counts[0]} inputs, {counts[1]} targets",
            cure="Pass matching tensors.",
        )
    inputs = held_out(problem.risk(), inputs)
    targets = problem.risk().points.target_rows(targets, problem.weights())
    risk = problem.risk()
    gradients = []
    for i in range(len(inputs)):
        leaves = risk.leaves()
        with torch.enable_grad():
            value = risk.loss(risk.forward(leaves, inputs[i : i + 1]), targets[i : i + 1])
            slopes = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        gradients.append(risk.layout.join(slopes))
    derivative = problem.graphical_derivative(points=[0], optimality=Stationary(), solver=solver)
    line = derivative.linearisation
    return _checked(line.solve(torch.stack(gradients, dim=1)), line).value


def _checked(solution: Solution, line: Linearisation) -> Solution:
    """The solution; warns if the solver did not converge or the Hessian is singular."""
    rank, size = line.rank, line.rows
    singular = "" if rank is None or rank == size else f" and rank {rank} of {size}"
    if solution.status is not Status.CONVERGED or singular:
        warnings.warn(
            f"the Hessian system ended with status '{solution.status}' at relative residual "
            f"{solution.residual:.3g}{singular}: at a singular Hessian influence functions are one element "
            f"of a set, or none; use `problem.estimate`",
            SolsetWarning,
            stacklevel=3,
        )
    return solution
