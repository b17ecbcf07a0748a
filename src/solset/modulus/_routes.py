"""Three routes to ``sup_u ‖Cᵀu‖ / ‖Aᵀu‖``: a Gram matrix of rows, a dense Hessian, and products alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.derivatives import Linearisation
from solset.errors import Status
from solset.linalg import (
    LargestRatio,
    LinearOperator,
    NormalOperator,
    Product,
    largest_eigenpair,
    largest_ratio,
)
from solset.operators import InputJacobian
from solset.solvers import Prepared, Solver


@dataclass(frozen=True)
class Ratio:
    """A ratio by one of the routes."""

    value: float  # Largest ratio that the route reached
    direction: Tensor  # Unit data direction that attains it, ``(q,)``
    upper: float  # Upper bound for the ratio of the operators as solved; infinite if a solve failed
    solves: Status  # Status of the solve that ended worst
    exact: LargestRatio | None = None  # Ratio with ranks and kernel, where a spectrum was seen
    left: Tensor | None = None  # Vector ``u``, ``(m,)``, where the route gives it


def by_decomposition(line: Linearisation) -> Ratio | None:
    """The exact ratio, where the solver has a Gram matrix of rows or the spectrum of a symmetric operator."""
    side = line.system.left_side()
    if side is None:
        return None
    if line.constraint.operator.is_symmetric:
        root, rows = _column_root(line.data), None
    else:
        root, rows = _row_root(line.data, line.rows)
    exact = largest_ratio(side, root, rows)
    u = exact.attained_at.to(line.data.dtype)
    direction = line.data.T @ u
    length = float(direction.norm())
    unit = direction / length if length > 0 else direction
    return Ratio(exact.value, unit, exact.value, Status.CONVERGED, exact, u)


def _row_root(data: LinearOperator, count: int) -> tuple[Tensor, Tensor]:
    """``L`` with ``LLᵀ = CCᵀ`` on the rows of ``C`` that moved points touch, and the indices of these rows.

    Cost: ``c`` backward passes over the moved points; ``(|K|c)²`` numbers.
    """
    if isinstance(data, Product) and isinstance(data.right, InputJacobian):
        inner, rows = _row_root(data.right, data.right.shape[0])
        full = torch.zeros(data.right.shape[0], inner.shape[1], dtype=data.dtype, device=data.device)
        full[rows] = inner.to(data.dtype)
        picked = (data.left @ full).to(torch.float64)
        touched = picked.abs().sum(dim=1).nonzero().flatten()
        return picked[touched], touched
    if isinstance(data, InputJacobian):
        values, vectors = torch.linalg.eigh(data.gram_blocks())
        # The root of an eigenvalue that is rounding would be 1e-8 of the largest: far above rounding.
        rounding = 10 * values.shape[-1] * torch.finfo(values.dtype).eps * values.amax(dim=-1, keepdim=True)
        roots = vectors * torch.where(values > rounding, values, 0.0).sqrt().unsqueeze(1)
        return torch.block_diag(*roots), data.moved_rows
    return data.to_dense().to(torch.float64), torch.arange(count, device=data.device)


def _column_root(data: LinearOperator) -> Tensor:
    """``L`` with ``LLᵀ = BBᵀ``, no wider than it is tall, ``(p, min(p, q))``.

    Cost: the smaller side's number of products; ``p·q`` numbers.
    """
    dense = data.to_dense().to(torch.float64)
    if dense.shape[1] <= dense.shape[0]:
        return dense
    return torch.linalg.qr(dense.T, mode="r").R.T


def by_products(line: Linearisation, solver: Solver | None, max_steps: int) -> Ratio:
    """The ratio by Lanczos' method on ``CᵀA⁺ᵀA⁺C``, each product a solve.

    Args:
        line: Pair ``(A, C)`` of the linearisation.
        solver: Solver for ``JJᵀ`` where ``A`` are rows; the system's own otherwise.
        max_steps: Largest number of Lanczos vectors.
    """
    operator: _Squared
    if line.constraint.operator.is_symmetric:
        operator = _Symmetric(line)
    else:
        rows = line.constraint.operator
        operator = _Rows(line, (solver or line.constraint.solver).prepare(NormalOperator(rows.T)))
    eigenpair = largest_eigenpair(operator, steps=max_steps)
    solves = operator.worst if eigenpair.has_converged else Status.MAX_STEPS
    upper = eigenpair.upper**0.5 if solves is Status.CONVERGED else float("inf")
    return Ratio(eigenpair.value**0.5, eigenpair.vector / eigenpair.vector.norm(), upper, solves)


class _Squared(LinearOperator):
    """``CᵀA⁺ᵀA⁺C``, which remembers how its solves ended."""

    is_symmetric = True

    def __init__(self, line: Linearisation) -> None:
        q = line.data.shape[1]
        super().__init__((q, q), line.data.dtype, line.data.device)
        self.line, self.worst = line, Status.CONVERGED

    def solved(self, system: Prepared, rhs: Tensor) -> Tensor:
        """A solve, whose end is noted if it is not a good one."""
        solution = system.solve(rhs)
        if solution.status is not Status.CONVERGED:
            self.worst = solution.status
        return solution.value


class _Rows(_Squared):
    """``J_xᵀ (JJᵀ)⁺ J_x``."""

    def __init__(self, line: Linearisation, squares: Prepared) -> None:
        super().__init__(line)
        self._squares = squares

    def _apply(self, block: Tensor) -> Tensor:
        data = self.line.data
        return data.T @ self.solved(self._squares, data @ block)


class _Symmetric(_Squared):
    """``Bᵀ H⁺ H⁺ B``."""

    def _apply(self, block: Tensor) -> Tensor:
        data, system = self.line.data, self.line.system
        return data.T @ self.solved(system, self.solved(system, data @ block))
