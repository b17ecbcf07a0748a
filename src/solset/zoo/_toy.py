"""The paper's toy model: one product of two weights (section 5.1)."""

import torch
from torch import Tensor, nn


class ProductModel(nn.Module):
    """``f(x) = w₁ w₂ x``, whose solutions are the branches of a hyperbola.

    Args:
        weights: Initial weights ``(w₁, w₂)``; (1, 2) by default.
    """

    def __init__(self, weights: tuple[float, float] = (1.0, 2.0)) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of the same shape as the inputs."""
        return self.weights[0] * self.weights[1] * inputs


class HalfSquaredError(nn.Module):
    """``½ Σ (y - f)²``, a sum over points."""

    reduction = "sum"

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar loss."""
        return 0.5 * ((targets - outputs) ** 2).sum()
