"""The gradients of single points' losses, as the columns of an operator."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from solset.linalg import LinearOperator
from solset.operators._first import Jacobian
from solset.operators._graphs import GRAPH_BUDGET
from solset.risk import EmpiricalRisk, point_factors, slopes_at


class PointGradients(LinearOperator):
    """The derivative of the risk's gradient in the factors of some points, ``(p, |K|)``.

    Column ``k`` is ``α ∇ℓ_k`` for a sum. For a mean it is ``α (∇ℓ_k - g)`` with the gradient ``g`` of the
    mean loss without weight decay, since a mean over fewer points is divided by their number. Where points
    count unequally, each column has its point's own ``α_k``.

    Args:
        risk: Empirical risk at the point of linearisation.
        points: Indices ``K`` of the points.

    Cost: one gradient and one forward pass over the points at the first product, then a product with ``J`` of
    the points.
    """

    def __init__(self, risk: EmpiricalRisk, points: Sequence[int]) -> None:
        super().__init__((risk.layout.size, len(points)), risk.weights.dtype, risk.weights.device)
        self._risk, self._points = risk, points

    @cached_property
    def _rows(self) -> Jacobian:
        return Jacobian(self._risk.select(self._points), memory_budget=GRAPH_BUDGET)

    @cached_property
    def _slopes(self) -> Tensor:
        """The slopes ``α ∇_f L`` of the points, ``(|K|, c)``."""
        chosen = self._risk.select(self._points)
        return slopes_at(chosen, chosen.outputs())

    @cached_property
    def _share(self) -> Tensor | None:
        """The part of a mean's gradient that each point takes with it, ``(p, |K|)``; ``None`` for a sum."""
        if self._risk.reduction != "mean":
            return None
        share = self._risk.without_regularisation().gradient() / self._risk.total  # α g
        factors = point_factors(self._risk, self._points)
        ones = share.new_ones(len(self._points))
        return share.unsqueeze(1) * (ones if factors is None else factors)

    def _apply(self, block: Tensor) -> Tensor:
        weighted = torch.einsum("nk,nc->nck", block, self._slopes).reshape(-1, block.shape[1])
        columns = self._rows.T @ weighted
        return columns if self._share is None else columns - self._share @ block

    def _apply_transposed(self, block: Tensor) -> Tensor:
        pushed = (self._rows @ block).reshape(*self._slopes.shape, block.shape[1])
        rows = torch.einsum("nc,nck->nk", self._slopes, pushed)
        return rows if self._share is None else rows - self._share.T @ block
