"""LiSSA: the truncated Neumann series that influence-function code uses, with the check it lacks."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.checks import checked, positive
from solset.errors import Status
from solset.linalg import LinearOperator, shifted
from solset.solvers._base import Prepared, Solution, Solver, attainable, judge, relative_residual
from solset.solvers._columnwise import ColumnwisePrepared, one_by_one, require_symmetric
from solset.solvers._needs import Needs

POWER_STEPS = 30  # of the power iteration that finds the largest eigenvalue


@checked
@dataclass(frozen=True)
class LiSSA(Solver):
    """The solution of ``(A + damping·I) v = b`` by the series ``v ← b/σ + (I - (A + damping·I)/σ) v``.

    Agarwal, Bullins & Hazan (2017), without the sampling of batches. The series converges only if every
    eigenvalue of the damped operator lies in ``(0, 2σ)``; where it does not, the iterate grows and the
    solve stops with status ``diverged`` and the best iterate seen.

    Attributes:
        scale: Divisor ``σ`` of each step; ``None`` takes 1.1 times the largest eigenvalue, from power
            iteration.
        damping: Number that is added to the diagonal (0: none). The residual reported is that of the damped
            system.
        max_steps: Largest number of terms of the series (its depth in the literature), one product each.
        tol: Relative residual at which to stop.

    Example:
        >>> from solset.linalg import DenseOperator
        >>> A = DenseOperator(torch.diag(torch.tensor([1.0, 4.0])))
        >>> LiSSA(scale=1.0).solve(A, torch.ones(2)).status.value
        'diverged'
        >>> LiSSA(tol=1e-5).solve(A, torch.ones(2)).value
        tensor([1.0000, 0.2500])
    """

    scale: float | None = None
    damping: float = 0.0
    max_steps: int = 5000
    tol: float = 1e-8

    def __post_init__(self) -> None:
        if self.scale is not None:
            positive("scale", self.scale, cure="Leave it out to estimate it.")

    def takes(self, operator: LinearOperator) -> bool:
        """Whether the operator is symmetric."""
        return operator.is_symmetric

    def plan(self, operator: LinearOperator) -> Needs:
        """Five vectors in the dtype of the operator; one product in each step, one for the verdict."""
        return Needs(
            memory=5 * operator.dtype.itemsize * operator.shape[1],
            preparation=POWER_STEPS if self.scale is None else 0,
            products=1,
            products_per_step=1,
            max_steps=self.max_steps,
        )

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The damped operator and its scale."""
        require_symmetric(operator, "LiSSA")
        damped = shifted(operator, self.damping)
        scale = self.scale if self.scale is not None else 1.1 * largest_eigenvalue(damped)
        return ColumnwisePrepared(
            damped,
            one_by_one(lambda rhs: self._smallest(damped, scale, rhs)),
            lambda damping: replace(self, damping=self.damping + damping).prepare(operator),
        )

    def _smallest(self, operator: LinearOperator, scale: float, rhs: Tensor) -> Solution:
        """The series, repeated on the part of ``b`` in the range where the rest fills the kernel of ``A``."""
        first = self._series(operator, scale, rhs)
        if first.status is not Status.INCONSISTENT:
            return first
        second = self._series(operator, scale, operator @ first.value)
        return judge(operator, second.value, rhs, self.tol, first.steps + second.steps)

    def _series(self, operator: LinearOperator, scale: float, rhs: Tensor) -> Solution:
        size = float(torch.linalg.vector_norm(rhs))
        target = attainable(self.tol, operator) * size
        value, best, lowest = torch.zeros_like(rhs), torch.zeros_like(rhs), size
        for step in range(self.max_steps):
            residual = rhs - operator @ value
            norm = float(torch.linalg.vector_norm(residual))
            if norm < lowest:
                best, lowest = value, norm
            if norm <= target:
                return judge(operator, value, rhs, self.tol, step)
            if not norm < 10.0 * size:
                _, relative = relative_residual(operator, best, rhs)
                return Solution(best, Status.DIVERGED, relative, step)
            value = value + residual / scale
        return judge(operator, value, rhs, self.tol, self.max_steps)


def largest_eigenvalue(operator: LinearOperator, steps: int = POWER_STEPS) -> float:
    """A lower estimate of ``max|s|`` of a symmetric operator by power iteration from a fixed start.

    Args:
        operator: Symmetric operator, ``(p, p)``.
        steps: Number of products, one each.
    """
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(operator.shape[0], generator=generator, dtype=torch.float64)
    vector = vector.to(operator.device, operator.dtype)
    size = 0.0
    for _ in range(steps):
        vector = operator @ (vector / torch.linalg.vector_norm(vector))
        size = float(torch.linalg.vector_norm(vector))
        if size == 0.0:
            return 1.0
    return size
