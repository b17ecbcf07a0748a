"""Symmetric networks: the dimension and the change of the weights, at any size of the leftover gradient.

Each network has rotations of inner spaces that cost nothing under weight decay. It is trained until the
gradient norm is small, moved off by random weights until the norm is as stated, and asked for the change as
one point moves. The truth is real retraining by L-BFGS.
"""

from collections.abc import Callable

import torch
from tests.support.symmetric import Attention, LowRank, embedding, three_layers
from torch import nn

from benchmarks.tables import table
from solset import Move, Problem, retrain
from solset.retraining import LBFGS

DECAY, SIZES, STEP = 4e-3, (1e-5, 1e-7, 1e-9), 1e-3


NETS: dict[str, Callable[[], nn.Module]] = {
    "LoRA of rank 2": lambda: LowRank(2, 9, 12),
    "LoRA of rank 4": lambda: LowRank(4, 9, 12),
    "LoRA of rank 8": lambda: LowRank(8, 9, 12),
    "attention": Attention,
    "embedding": lambda: embedding(9),
    "three linear layers": lambda: three_layers(9),
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
