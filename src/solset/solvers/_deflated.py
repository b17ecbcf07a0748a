"""A symmetric system whose kernel is known from elsewhere, solved beside it."""

from dataclasses import replace

import torch
from torch import Tensor

from solset.errors import Status
from solset.linalg import Deflated
from solset.solvers._base import Factor, Prepared, Solution, attainable
from solset.solvers.filters import Filter, MinimumNorm

CONSISTENT = 1e-8  # part of a right-hand side along the kernel, relative to it, that counts as none


class DeflatedPrepared(Prepared):
    """``P A P v = b``, where ``P`` projects orthogonally to a known kernel.

    Args:
        operator: The matrix ``P A P``, with the kernel.
        inner: Preparation of a matrix that agrees with it orthogonally to the kernel.
    """

    def __init__(self, operator: Deflated, inner: Prepared) -> None:
        self.operator, self.inner, self.doubt = operator, inner, inner.doubt
        self.is_blind = inner.is_blind
        self._without = operator.without
        self.known_kernel = operator.basis.shape[1]

    def solve(self, rhs: Tensor) -> Solution:
        """The solution of minimum norm; a right-hand side with a part along the kernel is inconsistent."""
        inside = self._without(rhs)
        solution = self.inner.solve(inside)
        solution = replace(solution, value=self._without(solution.value))
        sizes = [torch.linalg.vector_norm(part.reshape(len(part), -1), dim=0) for part in (rhs - inside, rhs)]
        shares = torch.where(sizes[1] > 0, sizes[0] / sizes[1], torch.zeros_like(sizes[1]))
        share = float(shares.max()) if shares.numel() else 0.0
        if share <= attainable(CONSISTENT, self.operator):
            return solution
        is_solved = solution.status is Status.CONVERGED
        status = Status.INCONSISTENT if is_solved else solution.status
        return replace(solution, status=status, residual=max(share, solution.residual))

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """The element that a filter picks."""
        return self.solve(rhs) if isinstance(choice, MinimumNorm) else self.inner.filtered(choice, rhs)

    def curvature(self) -> Prepared:
        """The system itself, which is symmetric."""
        return self

    def factor(self) -> Factor | None:
        """What is kept of the inner matrix."""
        return self.inner.factor()

    @property
    def rank(self) -> int | None:
        """The rank of the inner matrix without the kernel; ``None`` where its solver sees no spectrum."""
        return None if self.inner.rank is None else self.inner.rank - self.known_kernel
