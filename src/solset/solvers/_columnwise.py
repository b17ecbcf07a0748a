"""The common part of matrix-free solvers: columns one by one, and the filters that need no spectrum."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from solset.errors import Status, bad_type, bad_value
from solset.linalg import LinearOperator, NormalOperator
from solset.solvers._base import Prepared, Solver, judge
from solset.solvers._element import recipe_element
from solset.solvers._solution import Solution
from solset.solvers.filters import Filter, GradientFlow, MinimumNorm, Recipe, Tikhonov


class ColumnwisePrepared(Prepared):
    """Solves one column after the other.

    Args:
        operator: The matrix ``A``, ``(m, p)``.
        column: Function from a flat right-hand side to its solution.
        damped: Function from a damping to the prepared system with that damping, for Tikhonov elements.
        solver: Solver of the systems with ``Aᵀ`` and ``AᵀA``, if ``A`` is not symmetric.
    """

    def __init__(
        self,
        operator: LinearOperator,
        column: Callable[[Tensor], Solution],
        damped: Callable[[float], Prepared],
        solver: Solver | None = None,
    ) -> None:
        self.operator = operator
        self._column, self._damped, self._solver = column, damped, solver

    def solve(self, rhs: Tensor) -> Solution:
        """The solution of each column; status and residual are those of the worst column."""
        return _by_column(self._guarded, rhs)

    def _guarded(self, rhs: Tensor) -> Solution:
        """The solution of a column, or zero where ``b`` is orthogonal to the range of ``A``.

        There a Krylov method only amplifies rounding. No iterate can then have a residual below 1, so only
        failures pay for the test.
        """
        solution = self._column(rhs)
        if solution.residual < 1.0 - 1e-8 or not is_off_range(self.operator, rhs):
            return solution
        zero = torch.zeros_like(solution.value)
        return Solution(zero, Status.INCONSISTENT, 1.0, solution.steps)

    def solve_transposed(self, rhs: Tensor) -> Solution:
        """The solution with ``Aᵀ``."""
        if self.operator.is_symmetric or self._solver is None:
            return super().solve_transposed(rhs)
        return self._solver.solve(self.operator.T, rhs)

    def curvature(self) -> Prepared:
        """Itself, or ``AᵀA`` with the same solver."""
        if self.operator.is_symmetric or self._solver is None:
            return self
        return self._solver.prepare(NormalOperator(self.operator))

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """The filtered element, for filters that need no spectrum.

        Raises:
            ValueError: If the filter needs the spectrum.
        """
        match choice:
            case MinimumNorm():
                return self.solve(rhs)
            case GradientFlow():
                return descend(self.operator, choice, rhs)
            case Recipe():
                return _by_column(lambda column: recipe_element(self.operator, choice, column), rhs)
            case Tikhonov(damping=damping):
                inner = self._damped(damping).solve(rhs)
                element = judge(self.operator, inner.value, rhs, 0.0, inner.steps, chosen=choice)
                return replace(element, status=inner.status)
        raise bad_value(
            "filter",
            expected="MinimumNorm, GradientFlow, Recipe or Tikhonov for a matrix-free solver",
            got=choice,
            cure="Take Dense or Dual, which see the spectrum.",
        )


def _by_column(column: Callable[[Tensor], Solution], rhs: Tensor) -> Solution:
    if rhs.ndim == 1:
        return column(rhs)
    parts = [column(rhs[:, j].contiguous()) for j in range(rhs.shape[1])]
    worst = max(parts, key=lambda part: (part.status is not Status.CONVERGED, part.residual))
    value = torch.stack([part.value for part in parts], dim=1)
    return Solution(value, worst.status, worst.residual, sum(part.steps for part in parts))


def descend(operator: LinearOperator, flow: GradientFlow, rhs: Tensor) -> Solution:
    """The gradient-flow element by the linearised descent itself: exact, one product a step.

    The step is ``v ← v - η(Hv - b)`` for a symmetric operator, and ``v ← v - ηAᵀ(Av - b)`` for any other,
    with two products.
    """
    pull = (lambda r: r) if operator.is_symmetric else (lambda r: operator.T @ r)
    value = torch.zeros(operator.shape[1], *rhs.shape[1:], dtype=rhs.dtype, device=rhs.device)
    for _ in range(flow.steps):
        value = value - flow.learning_rate * pull(operator @ value - rhs)
    solution = judge(operator, value, rhs, 0.0, flow.steps, chosen=flow)
    if operator.is_symmetric and solution.residual > 1.0 + 1e-8:  # stable descent never raises the residual
        return replace(solution, status=Status.DIVERGED)
    return solution


def is_off_range(operator: LinearOperator, rhs: Tensor) -> bool:
    """Whether ``Aᵀ b`` is nothing but rounding, so that the least-squares solution is zero.

    One product with ``A`` gives a lower estimate of its norm; a second one is with ``Aᵀ``.
    """
    size = torch.linalg.vector_norm(rhs)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(operator.shape[1], generator=generator, dtype=torch.float64)
    probe = (probe / torch.linalg.vector_norm(probe)).to(operator.device, operator.dtype)
    norm = torch.linalg.vector_norm(operator @ probe)
    rounding = 100 * torch.finfo(operator.dtype).eps * norm * size
    return bool(size > 0) and bool(torch.linalg.vector_norm(operator.T @ rhs) <= rounding)


def require_symmetric(operator: LinearOperator, name: str) -> None:
    """Refuses an operator that is not declared symmetric; ``name`` is that of the solver."""
    if not operator.is_symmetric:
        raise bad_type(
            "operator",
            expected=f"symmetric for {name}",
            got=f"{type(operator).__name__} of shape {operator.shape}",
            cure="Use LSMR or Dual for rectangular rows.",
        )
