"""The second derivative of what a risk adds to the losses of its points."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from solset.linalg import LinearOperator
from solset.operators._passes import pull_back
from solset.risk import EmpiricalRisk, flat_rows


class Regularisation(LinearOperator):
    """The diagonal matrix of the weight decays, and the Hessian of the penalty, ``(p, p)``.

    Args:
        risk: Empirical risk at the point of linearisation.
    """

    is_symmetric = True

    def __init__(self, risk: EmpiricalRisk) -> None:
        p = risk.layout.size
        super().__init__((p, p), risk.weights.dtype, risk.weights.device)
        self._risk, self._decay = risk, risk.weight_decay

    @property
    def floor(self) -> float:
        """The smallest decay, below which no eigenvalue lies; 0 beside a penalty, which may be concave."""
        if self._risk.penalty is not None:
            return 0.0
        return float(torch.as_tensor(self._decay).min())

    @cached_property
    def _graph(self) -> tuple[list[Tensor], Sequence[Tensor]]:
        """The weights as leaves, and the penalty's gradient as a function of them."""
        leaves = self._risk.leaves()
        with torch.enable_grad():
            value = self._risk.penalty_at(leaves)
            slopes = torch.autograd.grad(
                value, leaves, create_graph=True, allow_unused=True, materialize_grads=True
            )
        return leaves, slopes

    def _apply(self, block: Tensor) -> Tensor:
        decay = self._decay
        damped = (decay.unsqueeze(1) if isinstance(decay, Tensor) else decay) * block
        if self._risk.penalty is None:
            return damped
        leaves, slopes = self._graph
        parts = pull_back(slopes, leaves, self._risk.layout.split_block(block))
        return damped + torch.cat([flat_rows(part) for part in parts], dim=1).T


def regularisation_of(risk: EmpiricalRisk) -> tuple[float, LinearOperator | None]:
    """The multiple of the identity, and the matrix beside it: unequal weight decays, a penalty's Hessian.

    Args:
        risk: Empirical risk at the point of linearisation.
    """
    if isinstance(risk.weight_decay, Tensor) or risk.penalty is not None:
        return 0.0, Regularisation(risk)
    return risk.weight_decay, None


def positive_decay(risk: EmpiricalRisk) -> float | Tensor:
    """The decays with the smallest positive one in place of zeros: those of a positive definite stand-in."""
    decay = risk.weight_decay
    return torch.where(decay > 0, decay, decay[decay > 0].min()) if isinstance(decay, Tensor) else decay
