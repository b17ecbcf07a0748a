"""Networks with rotations of inner spaces that change neither an output nor the norm of the weights."""

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """A held matrix plus ``B A`` of rank ``r``: ``(B Qᵀ, Q A)`` is as good for every rotation ``Q``."""

    def __init__(self, rank: int, inputs: int = 6, width: int = 9) -> None:
        super().__init__()
        self.held = nn.Buffer(torch.randn(width, inputs) / 3)
        self.a, self.b = (
            nn.Parameter(torch.randn(rank, inputs) / 2),
            nn.Parameter(torch.randn(width, rank) / 2),
        )
        self.head = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(n, 6)``."""
        return self.head((x @ (self.held + self.b @ self.a).T).tanh())


class Attention(nn.Module):
    """One head over tokens of three numbers: rotations of queries with keys, and of values with outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Parameter(torch.randn(2, 3)) for _ in range(4))
        self.head = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(n, 6)``."""
        tokens = x.reshape(len(x), -1, 3)
        scores = (tokens @ self.q.T) @ (tokens @ self.k.T).mT
        return self.head((tokens + scores.softmax(-1) @ (tokens @ self.v.T) @ self.o).tanh().sum(1))


def embedding(inputs: int = 6) -> nn.Module:
    """Two linear layers without an activation between them, then a tanh network."""
    return nn.Sequential(nn.Linear(inputs, 3, bias=False), nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 6))


def three_layers(inputs: int = 6) -> nn.Module:
    """Three linear layers in a row."""
    return nn.Sequential(nn.Linear(inputs, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 6))
