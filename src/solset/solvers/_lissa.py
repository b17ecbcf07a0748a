"""LiSSA: the truncated Neumann series that influence-function code uses, with the check it lacks."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.checks import checked
from solset.errors import Status, bad_value
from solset.linalg import LinearOperator, shifted
from solset.solvers._base import Prepared, Solver, attainable, judge, relative_residual
from solset.solvers._columnwise import ColumnwisePrepared, require_symmetric
from solset.solvers._solution import Solution


@checked
@dataclass(frozen=True)
class LiSSA(Solver):
    """The solution of ``(A + damping·I) v = b`` by the series ``v ← b/σ + (I - (A + damping·I)/σ) v``.

    Agarwal, Bullins & Hazan (2017), without the sampling of batches. The series converges only if every
    eigenvalue of the damped operator lies in ``(0, 2σ)``; where it does not, the iterate grows and the
    solve stops with status ``diverged`` and the best iterate seen.

    Attributes:
        scale: ``σ``; ``None`` takes 1.1 times the largest eigenvalue, found by power iteration.
        damping: Added to the diagonal. The residual reported is that of the damped system.
        max_steps: Terms of the series (the literature's depth), one product each.
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
        if self.scale is not None and not self.scale > 0:
            raise bad_value("scale", expected="positive", got=self.scale, cure="Leave it out to estimate it.")

    def takes(self, operator: LinearOperator) -> bool:
        """Whether the operator is symmetric."""
        return operator.is_symmetric

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The damped operator and its scale.

        Args:
            operator: A symmetric ``A``.
        """
        require_symmetric(operator, "LiSSA")
        damped = shifted(operator, self.damping)
        scale = self.scale if self.scale is not None else 1.1 * largest_eigenvalue(damped)
        return ColumnwisePrepared(
            damped,
            lambda rhs: self._smallest(damped, scale, rhs),
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


def largest_eigenvalue(operator: LinearOperator, steps: int = 30) -> float:
    """A lower estimate of ``max|s|`` of a symmetric operator by power iteration from a fixed start.

    Args:
        operator: Symmetric.
        steps: Products.
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
