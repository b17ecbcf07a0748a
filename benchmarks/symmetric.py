"""Symmetric networks: the dimension and the change of the weights, at any size of the leftover gradient.

Each network has rotations of inner spaces that cost nothing under weight decay. It is trained until the
gradient norm is small, moved off by random weights until the norm is as stated, and asked for the change as
one point moves. The truth is real retraining by L-BFGS.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.tables import table
from solset import Move, Problem, retrain
from solset.retraining import LBFGS

DECAY, SIZES, STEP = 4e-3, (1e-5, 1e-7, 1e-9), 1e-3


class LowRank(nn.Module):
    """A held matrix plus ``B A`` of rank ``r``."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.held = nn.Buffer(torch.randn(12, 9) / 3)
        self.a, self.b = nn.Parameter(torch.randn(rank, 9) / 2), nn.Parameter(torch.randn(12, rank) / 2)
        self.head = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(n, 6)``."""
        return self.head((x @ (self.held + self.b @ self.a).T).tanh())


class Attention(nn.Module):
    """One head over three tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Parameter(torch.randn(2, 3)) for _ in range(4))
        self.head = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(n, 6)``."""
        tokens = x.reshape(len(x), 3, 3)
        scores = (tokens @ self.q.T) @ (tokens @ self.k.T).mT
        return self.head((tokens + scores.softmax(-1) @ (tokens @ self.v.T) @ self.o).tanh().sum(1))


NETS: dict[str, Callable[[], nn.Module]] = {
    "LoRA of rank 2": lambda: LowRank(2),
    "LoRA of rank 4": lambda: LowRank(4),
    "LoRA of rank 8": lambda: LowRank(8),
    "attention": Attention,
    "embedding": lambda: nn.Sequential(
        nn.Linear(9, 3, bias=False), nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 6)
    ),
    "three linear layers": lambda: nn.Sequential(
        nn.Linear(9, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 6)
    ),
}


def run() -> list[dict[str, object]]:
    """Prints a row for each network and size of the gradient, and returns the rows."""
    rows = [row for name in NETS for row in rows_of(name)]
    heads = ("network", "gradient", "dimension", "change", "retrained", "error")
    cells = [
        [
            str(row["network"]),
            f"{row['gradient']:.1e}",
            str(row["dimension"]),
            f"{row['change']:.4g}",
            f"{row['retrained']:.4g}",
            f"{row['error']:.2%}",
        ]
        for row in rows
    ]
    print(table(heads, cells))
    return rows


def rows_of(name: str) -> list[dict[str, object]]:
    """The numbers of one network, a row for each size of the gradient.

    Args:
        name: Name of the network.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 9, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(9, 6, generator=generator, dtype=torch.float64)).sin()
    torch.manual_seed(2)
    model = NETS[name]().double().eval()
    nothing = Move([0], torch.zeros(1, 9, dtype=torch.float64))
    method = LBFGS(gradient_tol=1e-11, max_gradients=5000, memory=60)
    start = Problem(model, nn.MSELoss(), x, y, weight_decay=DECAY, gradient_tol=float("inf"))
    trained = retrain(start, nothing, method=method).apply_to(model).eval()
    solution = Problem(trained, nn.MSELoss(), x, y, weight_decay=DECAY)
    change = Move([3], STEP * torch.randn(1, 9, generator=generator, dtype=torch.float64))
    real = retrain(solution, change, method=method).weights - solution.weights()
    draw = torch.randn(len(real), generator=generator, dtype=torch.float64)
    rows = []
    for size in SIZES:
        problem = solution.moved_to(nothing, solution.weights() + size * draw)
        slope = float(problem.gradient().norm()) / size
        problem = solution.moved_to(nothing, solution.weights() + size / slope * draw)
        estimate = problem.estimate(change, optimality="stationary")
        answer = estimate.min_norm().value - problem.weights()
        rows.append(
            {
                "network": name,
                "gradient": float(problem.gradient().norm()),
                "dimension": estimate.dimension,
                "change": float(answer.norm()),
                "retrained": float(real.norm()),
                "error": float((answer - real).norm() / real.norm()),
            }
        )
    return rows
