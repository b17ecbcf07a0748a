"""Damping that float32 hardly tells from zero: nothing of it is cut, and what rounding makes is told."""

import warnings
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, Relabel, SolsetWarning, filters
from solset.changes import _labels
from solset.linalg import DenseOperator, NormalOperator
from solset.problem import GaussNewton, Proximal
from solset.solvers import MINRES, Dense, Dual


def damped(dtype: torch.dtype) -> tuple[NormalOperator, Tensor]:
    """Two rows of length one in four dimensions with a damping of 1e-7, and a right-hand side."""
    rows = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]], dtype=dtype)
    return NormalOperator(DenseOperator(rows), 1e-7), torch.tensor([1.0, 1, 1, 1], dtype=dtype)


def test_a_damping_below_the_rounding_of_float32_is_not_cut():
    operator, rhs = damped(torch.float32)
    solution = Dense().prepare(operator).solve(rhs)
    expected = torch.tensor([1.0, 1.0, 1e7, 1e7])
    assert float(((solution.value - expected) / expected).abs().max()) <= 1e-6
    assert Dense().prepare(operator).rank == 4
    assert Dense(rank_tolerance=1e-5).prepare(operator).rank == 2  # a cut that is asked for stays


@pytest.fixture(scope="module")
def uneven() -> tuple[nn.Sequential, Tensor, Tensor, filters.Recipe]:
    """A network trained by AdamW on features one of which is tiny, so that its weights are damped little."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    x[:, 3] *= 1e-7
    y = torch.sin(2 * x.sum(1, keepdim=True))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)).double().eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return model, x, y, filters.Recipe.of(optimizer, model, steps=60)


@pytest.mark.filterwarnings("ignore:the change of the weights")
def test_a_dense_solver_of_the_users_keeps_what_a_recipe_hardly_damps(uneven):
    model, x, y, recipe = uneven
    change = {}
    for dtype in (torch.float64, torch.float32):
        problem = Problem(model.to(dtype), nn.MSELoss(), x.to(dtype), y.to(dtype), gradient_tol=float("inf"))
        ask = partial(problem.estimate, optimality=Proximal(recipe=recipe))
        move = Move([1], torch.full((1, 4), 0.1, dtype=dtype))
        change[dtype] = ask(move, solver=Dense()).min_norm().value.double()
        if dtype == torch.float32:
            with pytest.warns(SolsetWarning, match="ended with status"):
                ask(move, solver=MINRES()).min_norm()
    model.double()
    gap = change[torch.float32] - change[torch.float64]
    assert float(gap.norm() / change[torch.float64].norm()) <= 1e-5


@pytest.mark.parametrize("solver", [Dual(), Dense()])
def test_what_rounding_makes_of_a_tiny_decay_is_told(solver):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 60, generator=generator, dtype=torch.float64)
    y = torch.randn(20, 1, generator=generator, dtype=torch.float64)
    hessian = 2 * x.T @ x / 20 + 1e-6 * torch.eye(60, dtype=torch.float64)
    model = nn.Linear(60, 1, bias=False).eval()
    weights = torch.linalg.solve(hessian, 2 * x.T @ y / 20)
    dx = 1e-3 * torch.randn(1, 60, generator=generator, dtype=torch.float64)
    slope = 2 / 20 * (dx.T * (x[1] @ weights - y[1]) + x[1:2].T * (dx @ weights))
    exact = -torch.linalg.solve(hessian, slope).squeeze(1)
    for dtype in (torch.float64, torch.float32):
        with torch.no_grad():
            model.to(dtype).weight.copy_(weights.T)
        problem = Problem(
            model, nn.MSELoss(), x.to(dtype), y.to(dtype), weight_decay=1e-6, gradient_tol=float("inf")
        )
        derivative = problem.derivative(points=[1], optimality=GaussNewton(), solver=solver)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            change = derivative(dx.to(dtype)).min_norm().value.double()
        error = float((change - exact).norm() / exact.norm())
        is_told = any("the rounding of float32 alone" in str(one.message) for one in told)
        assert is_told == (dtype == torch.float32)
        assert error <= 1e-7 or is_told


def test_a_new_label_is_weighed_once(monkeypatch):
    calls, compute = [], _labels.new_factors
    monkeypatch.setattr(_labels, "new_factors", lambda *given: calls.append(1) or compute(*given))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 3, generator=generator, dtype=torch.float64), torch.arange(12) % 3
    model = nn.Linear(3, 3).double().eval()
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    problem = Problem(model, loss, x, y, weight_decay=0.1, gradient_tol=float("inf"))
    labels = torch.tensor([2])
    change = Relabel([0], labels)
    first = change.applied_to(problem.risk()).value()
    change.direction(problem.risk())
    assert len(calls) == 1
    labels[0] = 1  # targets that were changed in place are other targets
    assert change.applied_to(problem.risk()).value() != first
    assert len(calls) == 2
