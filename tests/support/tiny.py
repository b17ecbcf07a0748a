"""A problem that costs milliseconds: four points, fitted to rounding."""

from functools import cache

import torch
from torch import Tensor, nn

from solset import Problem


def tiny_model() -> tuple[nn.Module, Tensor, Tensor]:
    """A tanh net whose last layer is solved for its targets, with its data."""
    g = torch.Generator().manual_seed(3)
    inputs = torch.randn(4, 3, generator=g, dtype=torch.float64)
    targets = torch.randn(4, 2, generator=g, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double().eval()
    with torch.no_grad():
        hidden = torch.cat([model[:2](inputs), torch.ones(4, 1, dtype=torch.float64)], dim=1)
        solved = torch.linalg.pinv(hidden) @ targets
        model[2].weight.copy_(solved[:-1].T)
        model[2].bias.copy_(solved[-1])
    return model, inputs, targets


@cache
def tiny_problem() -> Problem:
    """The trained point."""
    model, inputs, targets = tiny_model()
    return Problem(model, nn.MSELoss(), inputs, targets)
