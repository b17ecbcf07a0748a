"""The common part of matrix-free solvers: a verdict for each column, and filters that need no spectrum."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from solset.errors import Status, bad_type, bad_value
from solset.linalg import LinearOperator, NormalOperator
from solset.solvers._base import Prepared, Solution, Solver, judge
from solset.solvers._element import recipe_element
from solset.solvers.filters import Filter, GradientFlow, MinimumNorm, Recipe, Tikhonov


class ColumnwisePrepared(Prepared):
    """Solves a block of right-hand sides and judges each column.

    Args:
        operator: The matrix ``A``, ``(m, p)``.
        block: Function from right-hand sides ``(m, k)`` to the solution of each column.
        damped: Function from a damping to the prepared system with that damping, for Tikhonov elements.
        solver: Solver of the systems with ``Aᵀ`` and ``AᵀA``, if ``A`` is not symmetric.
    """

    def __init__(
        self,
        operator: LinearOperator,
        block: Callable[[Tensor], list[Solution]],
        damped: Callable[[float], Prepared],
        solver: Solver | None = None,
    ) -> None:
        self.operator = operator
        self._block, self._damped, self._solver = block, damped, solver

    def solve(self, rhs: Tensor) -> Solution:
        """The solution of each column; status and residual are those of the worst column."""
        solutions = self.columns(rhs.reshape(len(rhs), -1))
        return solutions[0] if rhs.ndim == 1 else _joined(solutions)

    def columns(self, rhs: Tensor) -> list[Solution]:
        """The solution of each column by itself.

        Args:
            rhs: Right-hand sides ``b``, ``(m, k)``.
        """
        solutions = zip(self._block(rhs), rhs.T, strict=True)
        return [self._guarded(solution, column) for solution, column in solutions]

    def _guarded(self, solution: Solution, rhs: Tensor) -> Solution:
        """The solution of a column, or zero where ``b`` is orthogonal to the range of ``A``.

        There a Krylov method only amplifies rounding. No iterate can then have a residual below 1, so only
        failures pay for the test.
        """
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
                element = one_by_one(lambda column: recipe_element(self.operator, choice, column))
                return element(rhs.reshape(-1, 1))[0] if rhs.ndim == 1 else _joined(element(rhs))
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


def one_by_one(column: Callable[[Tensor], Solution]) -> Callable[[Tensor], list[Solution]]:
    """A function on blocks that solves one column after the other."""
    return lambda block: [column(part.contiguous()) for part in block.T]


def judge_columns(
    operator: LinearOperator, value: Tensor, rhs: Tensor, tol: float, steps: list[int]
) -> list[Solution]:
    """The verdict on each column of a block, from one product with all of them.

    Args:
        operator: The matrix ``A``, ``(m, p)``.
        value: Solutions ``v``, ``(p, k)``.
        rhs: Right-hand sides ``b``, ``(m, k)``.
        tol: Relative residual that counts as solved.
        steps: Number of steps that each column took.
    """
    parts = zip(value.T, rhs.T, (operator @ value).T, steps, strict=True)
    return [judge(operator, v, b, tol, taken, product=image) for v, b, image, taken in parts]


def columns_of(prepared: Prepared, rhs: Tensor) -> list[Solution]:
    """The solution of each column by itself, by any prepared system.

    Args:
        prepared: The matrix ``A`` as a solver prepared it.
        rhs: Right-hand sides ``b``, ``(m, k)``.
    """
    if isinstance(prepared, ColumnwisePrepared):
        return prepared.columns(rhs)
    return one_by_one(prepared.solve)(rhs)


def _joined(parts: list[Solution]) -> Solution:
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
