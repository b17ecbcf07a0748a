"""Functions with a first derivative only: products are right by another route, and say so."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from solset import Problem, SolsetWarning
from solset.operators import GaussNewton, Hessian, InputJacobian, Jacobian, Mixed, loss_curvature


class Distances(nn.Module):
    """Distances to learned centres, by ``torch.cdist``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.centres = nn.Linear(3, 4), nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(torch.tanh(self.first(x)), self.centres)


def hard() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Hardsigmoid(), nn.Linear(4, 2))


def smooth() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


CASES = {
    "hardsigmoid": (hard, nn.MSELoss(), True),
    "cdist": (Distances, nn.MSELoss(), True),
    "hinge": (smooth, nn.MultiMarginLoss(), False),
}


def problem(name: str, dtype: torch.dtype = torch.float64) -> Problem:
    make, loss, is_regression = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = make().double(), torch.randn(5, 3).double()
        y = torch.randn(5, 2).double() if is_regression else torch.tensor([0, 1, 1, 0, 1])
    x, y = x.to(dtype), y.to(dtype) if is_regression else y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolsetWarning)
        return Problem(model.to(dtype).eval(), loss, x, y, weight_decay=0.05, gradient_tol=float("inf"))


def differences(function, z: Tensor, step: float = 1e-5) -> Tensor:
    """The Jacobian by central differences of a function of a flat vector."""
    eye = step * torch.eye(len(z), dtype=z.dtype)
    return torch.stack([(function(z + e) - function(z - e)) / (2 * step) for e in eye], dim=1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::solset.SolsetWarning")
def test_second_derivatives_are_those_of_differences(name):
    risk = problem(name).risk()
    x, _ = risk.points[range(5)]
    H = differences(lambda w: risk.at(w).gradient(), risk.weights)
    B = differences(lambda z: risk.move(range(5), z.reshape(x.shape) - x).gradient(), x.reshape(-1))
    assert torch.allclose(Hessian(risk).to_dense(), H, atol=1e-7)
    assert torch.allclose(Mixed(risk, range(5)).to_dense(), B, atol=1e-7)
    assert torch.allclose(Mixed(risk, range(5)).T.to_dense(), B.T, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("error")
def test_first_derivatives_are_exact_and_need_no_warning(name):
    risk = problem(name).risk()
    x, _ = risk.points[range(5)]
    J = differences(lambda w: risk.at(w).outputs().reshape(-1), risk.weights)
    J_x = differences(
        lambda z: risk.move(range(5), z.reshape(x.shape) - x).outputs().reshape(-1), x.reshape(-1)
    )
    G = J.T @ torch.block_diag(*loss_curvature(risk)) @ J
    for budget in (0, 2**30):
        assert torch.allclose(Jacobian(risk, memory_budget=budget).to_dense(), J, atol=1e-8)
        assert torch.allclose(Jacobian(risk, memory_budget=budget).T.to_dense(), J.T, atol=1e-8)
        assert torch.allclose(InputJacobian(risk, range(5), memory_budget=budget).to_dense(), J_x, atol=1e-8)
        gauss_newton = GaussNewton(risk, memory_budget=budget).to_dense()
        assert torch.allclose(gauss_newton, G + 0.05 * torch.eye(len(J.T)).double(), atol=1e-8)


def test_the_warning_says_why_and_how_exact():
    risk = problem("hardsigmoid").risk()
    with pytest.warns(SolsetWarning, match=r"differences of the gradient.*1e-9.*Hardsigmoid"):
        _ = Hessian(risk) @ torch.ones_like(risk.weights)


@pytest.mark.filterwarnings("ignore::solset.SolsetWarning")
def test_of_a_model_in_float32_differences_are_taken_in_float64():
    exact, rough = (problem("hardsigmoid", dtype).risk() for dtype in (torch.float64, torch.float32))
    H, rounded = Hessian(exact).to_dense(), Hessian(rough).to_dense()
    assert rounded.dtype == torch.float32
    assert torch.allclose(rounded.double(), H, atol=1e-5)
