"""Small nets fitted to a few digits, and planted cases of Theorem 3."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from solset import Problem
from solset.paper import digits
from solset.paper._training import fit_exactly
from solset.zoo import DFCNN

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted net with its data."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor

    def problem(self, **options) -> Problem:
        return Problem(self.model, nn.MSELoss(), self.inputs, self.targets, **options)


@cache
def fitted(
    activation: str = "tanh", seed: int = 0, count: int = 12, widths: tuple[int, ...] = (64, 16, 12, 3)
) -> Fit:
    """The first digits with random targets, fitted to rounding: a net cannot reach those by being off."""
    part = digits().part(0, count)
    g = torch.Generator().manual_seed(100 + seed)
    targets = torch.randn(count, widths[-1], generator=g, dtype=torch.float64)
    net = DFCNN(
        list(widths),
        activation=ACTIVATIONS[activation],
        generator=torch.Generator().manual_seed(seed),
    ).eval()
    error = fit_exactly(net, part.inputs, targets)
    assert error <= 1e-12
    return Fit(net, part.inputs, targets)


def rows(problem: Problem, moved: list[int] | None = None) -> tuple[Tensor, Tensor]:
    """``J`` and ``J_x`` by plain torch, ``(n·c, p)`` and ``(n·c, |K|·d)``."""
    risk = problem.risk()
    inputs, _ = risk.points[list(range(problem.point_count))]
    chosen = list(range(len(inputs))) if moved is None else moved

    def outputs(w: Tensor, x: Tensor) -> Tensor:
        return risk.forward(risk.layout.split(w), x).flatten()

    J = torch.func.jacrev(outputs)(risk.weights, inputs)
    Jx = torch.func.jacrev(lambda x: outputs(risk.weights, x))(inputs)
    return J.detach(), Jx[:, chosen].flatten(1).detach()


def brute_modulus(J: Tensor, Jx: Tensor) -> float:
    """``‖J⁺ J_x‖₂`` by a pseudo-inverse."""
    return float(torch.linalg.matrix_norm(torch.linalg.pinv(J, rtol=1e-13) @ Jx, 2))
