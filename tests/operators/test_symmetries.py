"""Directions of symmetries are found from backward passes, at any weights, and verified by the Hessian."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from solset import Problem
from solset.operators import Hessian, find_symmetries

BUDGET = 2**28


class LowRank(nn.Module):
    """A held matrix plus ``B A`` of rank ``r``."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.held = nn.Buffer(torch.randn(9, 6) / 3)
        self.a, self.b = nn.Parameter(torch.randn(rank, 6) / 2), nn.Parameter(torch.randn(9, rank) / 2)
        self.head = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x @ (self.held + self.b @ self.a).T).tanh())


class Heads(nn.Module):
    """Attention with two heads of width 2 over three tokens, without biases of queries and keys."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(2, 4, bias=False) for _ in range(3))
        self.o, self.head = nn.Linear(4, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(len(x), 3, 2)
        q, k, v = (
            part(tokens).reshape(len(x), 3, self.heads, -1).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        mixed = ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(len(x), 3, 4)
        return self.head((tokens + self.o(mixed)).tanh().sum(1))


class Packed(nn.Module):
    """PyTorch's attention over three tokens, which packs queries, keys and values in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(2, 1, bias=False, batch_first=True)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(len(x), 3, 2)
        return self.head((tokens + self.mix(tokens, tokens, tokens)[0]).tanh().sum(1))


def directions_of(problem: Problem, budget: int = BUDGET) -> Tensor:
    """The verified directions, of which there may be none."""
    symmetries = find_symmetries(problem.risk(), problem.gradient(), budget)
    if symmetries is None:
        return problem.weights()[:, None][:, :0]
    assert symmetries.hold_for(Hessian(problem.risk(), memory_budget=budget), symmetries.image)
    return symmetries.directions


def layers(act: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), act(), nn.Linear(4, 3))


CASES = {  # model, number of directions with weight decay, and without
    "low rank 1": (lambda: LowRank(1), 0, 1),
    "low rank 2": (lambda: LowRank(2), 1, 4),
    "low rank 4": (lambda: LowRank(4), 6, 16),
    "one head": (lambda: Heads(1), 12, 24),
    "two heads": (lambda: Heads(2), 4, 16),
    "packed": (Packed, 2, 8),
    "linear layers": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 3)),
        12,
        32,
    ),
    "tanh": (lambda: layers(nn.Tanh), 0, 0),
    "relu": (lambda: layers(nn.ReLU), 0, 4),
}


def problem_of(build: str, decay: float, dtype: torch.dtype = torch.float64) -> Problem:
    torch.manual_seed(0)
    x, y = torch.randn(30, 6, dtype=dtype), torch.randint(0, 3, (30,))
    model = CASES[build][0]().to(dtype).eval()
    return Problem(model, nn.CrossEntropyLoss(), x, y, weight_decay=decay, gradient_tol=100.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_the_directions_of_symmetries_are_counted(name: str, dtype: torch.dtype) -> None:
    _, decayed, free = CASES[name]
    for decay, count in ((1e-2, decayed), (0.0, free)):
        directions = directions_of(problem_of(name, decay, dtype))
        assert directions.shape[1] == count
        assert directions.dtype == dtype
        eye = torch.eye(count, dtype=dtype)
        torch.testing.assert_close(directions.T @ directions, eye, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["low rank 4", "two heads", "linear layers"])
def test_no_change_of_the_data_pushes_along_them(name: str) -> None:
    problem = problem_of(name, 1e-2)
    directions = directions_of(problem)
    data = problem.derivative(optimality="stationary").linearisation.data
    pulled = data.T @ directions
    assert float(pulled.norm()) < 1e-12 * float((data.T @ torch.randn_like(directions)).norm())
    assert float((directions.T @ problem.gradient()).norm()) < 1e-14


def test_unequal_decays_break_a_symmetry() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.randint(0, 3, (30,))
    decays = {"a": 1e-2, "b": 3e-2, "*": 0.0}
    model = LowRank(4).double().eval()
    problem = Problem(model, nn.CrossEntropyLoss(), x, y, weight_decay=decays, gradient_tol=100.0)
    assert directions_of(problem).shape[1] == 6  # rotations keep both norms
    held = problem.restrict(parameters=["a", "head.*"])
    assert directions_of(held).shape[1] == 0


def test_a_penalty_that_knows_the_axes_breaks_a_symmetry() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.randint(0, 3, (30,))

    def penalty(weights: Mapping[str, Tensor]) -> Tensor:
        return 1e-2 * weights["a"].pow(4).sum()

    model = LowRank(4).double().eval()
    problem = Problem(model, nn.CrossEntropyLoss(), x, y, penalty=penalty, gradient_tol=100.0)
    assert directions_of(problem).shape[1] == 0


def test_directions_that_do_not_fit_the_budget_are_left_alone() -> None:
    assert directions_of(problem_of("low rank 4", 1e-2), budget=100).shape[1] == 0


def test_units_that_are_asleep_at_the_points_looked_at_are_no_symmetry() -> None:
    torch.manual_seed(0)
    x = torch.rand(200, 1, dtype=torch.float64)
    x[5] = -8.0  # the only point at which the first two units are active
    first = nn.Linear(1, 4)
    first.weight.data[:2], first.bias.data[:2] = -1.0, -2.0
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(4, 2)).double().eval()
    problem = Problem(
        model, nn.MSELoss(), x, torch.randn(200, 2).double(), weight_decay=1e-2, gradient_tol=9.0
    )
    symmetries = find_symmetries(problem.risk(), problem.gradient(), BUDGET)
    if symmetries is not None:
        assert not symmetries.hold_for(Hessian(problem.risk(), memory_budget=BUDGET), symmetries.image)
