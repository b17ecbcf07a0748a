"""Fully connected networks, among them the paper's DFCNN."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class DFCNN(nn.Module):
    """The paper's deep fully connected network: ``f(x) = aᵀ σ(W_H … σ(W_1 x))``, without biases.

    Args:
        widths: Input size, hidden widths, number of outputs.
        activation: Function ``σ`` of each hidden layer; ReLU as in the paper by default.
        has_fixed_output: Whether the output layer ``a`` is a constant, as in Theorem 2, and not trained.
        generator: Source of randomness for the initial weights.
        dtype: Floating-point type of the weights.

    Example:
        >>> net = DFCNN([64, 32, 10], generator=torch.Generator().manual_seed(0))
        >>> net(torch.zeros(5, 64, dtype=torch.float64)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        has_fixed_output: bool = False,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.activation = activation
        sizes = list(zip(widths[:-1], widths[1:], strict=True))
        self.layers = nn.ParameterList()
        for fan_in, fan_out in sizes[:-1]:
            self.layers.append(nn.Parameter(_kaiming(fan_in, fan_out, generator, dtype)))
        output = _kaiming(*sizes[-1], generator, dtype)
        if has_fixed_output:
            self.register_buffer("output", output)
        else:
            self.output = nn.Parameter(output)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``(b, c)`` of inputs ``(b, *input)``, flattened."""
        hidden = inputs.flatten(1)
        for weight in self.layers:
            hidden = self.activation(hidden @ weight.T)
        return hidden @ self.output.T


def _kaiming(fan_in: int, fan_out: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    scale = (2.0 / fan_in) ** 0.5
    return scale * torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64).to(dtype)
