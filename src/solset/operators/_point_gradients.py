"""The gradients of single points' losses, as the columns of an operator."""

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from solset.linalg import LinearOperator
from solset.operators._first import Jacobian
from solset.operators._graphs import GRAPH_BUDGET
from solset.risk import EmpiricalRisk, point_factors, require_points, slopes_at


class PointGradients(LinearOperator):
    """The derivative of the risk's gradient in the factors of some points, ``(p, |K|)``.

    Column ``k`` is ``α ∇ℓ_k`` where the divisor stays. For a mean that is divided by the number of points
    that count, it is ``α (∇ℓ_k - g)`` with the gradient ``g`` of the mean loss without weight decay. Where
    points count unequally, each column has its point's own ``α_k``.

    Args:
        risk: Empirical risk at the point of linearisation.
        losses: Losses of the points ``K``: ``risk.select(points)``, or those of points outside the risk.
        divides: Whether the divisor of a mean changes with the factors.

    Cost: one gradient, once for each risk, and one forward pass over the points at the first product; then a
    product with ``J`` of the points.
    """

    def __init__(self, risk: EmpiricalRisk, losses: EmpiricalRisk, *, divides: bool = True) -> None:
        super().__init__((risk.layout.size, len(losses.points)), risk.weights.dtype, risk.weights.device)
        require_points(risk)
        self._risk, self._losses, self._divides = risk, replace(losses, total=risk.total), divides

    @cached_property
    def _rows(self) -> Jacobian:
        return Jacobian(self._losses, memory_budget=GRAPH_BUDGET)

    @cached_property
    def _slopes(self) -> Tensor:
        """The slopes ``α ∇_f L`` of the points, ``(|K|, c)``."""
        return slopes_at(self._losses, self._losses.outputs())

    @cached_property
    def _share(self) -> tuple[Tensor, Tensor] | None:
        """The gradient ``α g`` that points take from a mean, ``(p,)``, and how often each, ``(|K|,)``.

        ``None`` where the divisor stays. Their outer product, of ``p·|K|`` numbers, is never written.
        """
        if not self._divides or self._risk.reduction != "mean":
            return None
        factors = point_factors(self._losses, range(self.shape[1]))
        ones = torch.ones(self.shape[1], dtype=self.dtype, device=self.device)
        return self._risk.loss_gradient / self._risk.total, ones if factors is None else factors

    def _apply(self, block: Tensor) -> Tensor:
        weighted = torch.einsum("nk,nc->nck", block, self._slopes).reshape(-1, block.shape[1])
        columns = self._rows.T @ weighted
        if self._share is None:
            return columns
        gradient, factors = self._share
        return columns - torch.outer(gradient, factors @ block)

    def _apply_transposed(self, block: Tensor) -> Tensor:
        pushed = (self._rows @ block).reshape(*self._slopes.shape, block.shape[1])
        rows = torch.einsum("nc,nck->nk", self._slopes, pushed)
        if self._share is None:
            return rows
        gradient, factors = self._share
        return rows - torch.outer(factors, gradient @ block)
