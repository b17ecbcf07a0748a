"""The second derivative of what a risk adds to the losses of its points."""

import torch
from torch import Tensor

from solset.linalg import LinearOperator
from solset.risk import EmpiricalRisk


class Regularisation(LinearOperator):
    """The diagonal matrix of the weight decays, ``(p, p)``.

    Args:
        risk: Empirical risk at the point of linearisation.
    """

    is_symmetric = True

    def __init__(self, risk: EmpiricalRisk) -> None:
        p = risk.layout.size
        super().__init__((p, p), risk.weights.dtype, risk.weights.device)
        self._decay = risk.weight_decay

    def _apply(self, block: Tensor) -> Tensor:
        decay = self._decay
        return (decay.unsqueeze(1) if isinstance(decay, Tensor) else decay) * block

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._apply(block)


def regularisation_of(risk: EmpiricalRisk) -> tuple[float, LinearOperator | None]:
    """The multiple of the identity, and the matrix beside it where weights decay unequally.

    Args:
        risk: Empirical risk at the point of linearisation.
    """
    if isinstance(risk.weight_decay, Tensor):
        return 0.0, Regularisation(risk)
    return risk.weight_decay, None


def positive_decay(risk: EmpiricalRisk) -> float | Tensor:
    """The decays with the smallest positive one in place of zeros: those of a positive definite stand-in.

    Args:
        risk: Empirical risk of which some weights decay.
    """
    decay = risk.weight_decay
    return torch.where(decay > 0, decay, decay[decay > 0].min()) if isinstance(decay, Tensor) else decay
