"""What counts as fitted, stationary and small does not depend on the units of targets and loss."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, Remove, SolsetWarning
from solset.errors import Status

UNITS = (1e-4, 1e-2, 1.0, 1e3)


def small(unit: float) -> tuple[nn.Module, Tensor, Tensor]:
    """An untrained network with outputs and targets of one unit."""
    torch.manual_seed(0)
    x = torch.randn(12, 3, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).double().eval()
    with torch.no_grad():
        model[2].weight.mul_(unit)
        model[2].bias.mul_(unit)
    return model, x, unit * torch.sin(3 * x[:, :1])


@pytest.mark.parametrize("unit", UNITS)
def test_an_untrained_network_is_neither_fitted_nor_stationary(unit: float) -> None:
    model, x, y = small(unit)
    with pytest.warns(SolsetWarning, match="the weights are not stationary"):
        problem = Problem(model, nn.MSELoss(), x, y)
    assert not problem.is_fitted
    assert problem.misfit == pytest.approx(Problem(*_of(small(1.0)), gradient_tol=1e9).misfit)


@pytest.mark.parametrize("factor", UNITS)
def test_nor_where_the_loss_is_scaled(factor: float) -> None:
    model, x, y = small(1.0)
    with pytest.warns(SolsetWarning, match="the weights are not stationary"):
        problem = Problem(model, lambda out, target: factor * nn.functional.mse_loss(out, target), x, y)
    assert not problem.is_fitted


@pytest.mark.parametrize("unit", UNITS)
def test_a_fitted_network_is_fitted_in_every_unit(unit: float) -> None:
    model, x, _ = small(unit)
    with torch.no_grad():
        y = model(x)
    noise = 1e-6 * unit * torch.randn(12, 1, dtype=torch.float64)
    problem = Problem(model, nn.MSELoss(), x, y + noise)
    assert problem.is_fitted
    assert problem.misfit < 1e-4


@pytest.mark.parametrize("count", [1, 4])
def test_targets_that_are_all_the_same_have_a_scale(count: int) -> None:
    model = nn.Linear(1, 1, bias=False).double().eval()
    x = torch.ones(count, 1, dtype=torch.float64)
    nn.init.constant_(model.weight, 2.0)
    assert Problem(model, nn.MSELoss(), x, 2.001 * x).is_fitted
    assert not Problem(model, nn.MSELoss(), x, 3.0 * x, gradient_tol=10.0).is_fitted


def _of(parts: tuple[nn.Module, Tensor, Tensor]) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    return parts[0], nn.MSELoss(), parts[1], parts[2]


def regression(off: float) -> tuple[Problem, Tensor, Tensor]:
    """Ridge regression at weights off the solution, with the way back and the Hessian."""
    torch.manual_seed(0)
    x = torch.randn(20, 3, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.01], dtype=torch.float64)
    y, decay = torch.randn(20, 1, dtype=torch.float64), 1e-3
    hessian = 2 * x.T @ x / 20 + decay * torch.eye(3, dtype=torch.float64)
    solution = torch.linalg.solve(hessian, 2 * x.T @ y / 20).flatten()
    away = off * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_((solution + away).reshape(1, 3))
    return Problem(model, nn.MSELoss(), x, y, weight_decay=decay), away, x


@pytest.mark.parametrize("off", [1e-9, 0.2])
def test_every_answer_says_how_far_the_leftover_gradient_moves_the_weights(off: float) -> None:
    problem, away, x = regression(off)
    estimate = problem.estimate(Move([0, 1], 0.01 * x[:2]), optimality="stationary")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        answer = estimate.min_norm()
    change = answer.value - problem.weights()
    assert answer.drift == pytest.approx(float(away.norm() / change.norm()), rel=1e-6)
    is_told = any("leftover gradient" in str(one.message) for one in said)
    assert is_told == (answer.drift > 0.1) == (off > 0.1)
    assert ("leftover gradient" in answer.message) == is_told


def test_a_change_of_nothing_has_no_drift() -> None:
    problem, _, x = regression(0.2)
    assert problem.estimate(Move([0], 0 * x[:1])).min_norm().drift == 0.0


def test_a_change_larger_than_the_weights_is_said() -> None:
    problem, _, x = regression(0.0)
    estimate = problem.estimate(Move([0], 1e4 * x[:1]))
    with pytest.warns(SolsetWarning, match="is larger than the weights"):
        answer = estimate.min_norm()
    assert "larger than the weights" in answer.message


def test_an_element_that_goes_uphill_is_said() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double().eval()
    for part in model.parameters():
        nn.init.zeros_(part)
    x = torch.ones(1, 1, dtype=torch.float64)
    problem = Problem(model, nn.MSELoss(), x, 3 * x)  # a saddle: w₁ = w₂ = 0
    line = problem.derivative(optimality="stationary").linearisation
    with pytest.warns(SolsetWarning, match="raises the quadratic model of the risk"):
        answer = line.answers(torch.tensor([1.0, 1.0], dtype=torch.float64)).min_norm()
    assert answer.status is Status.CONVERGED


def test_no_least_squares_residual_exceeds_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 8)
    y = torch.randint(0, 4, (60,))
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 4)).eval()
    problem = Problem(model, nn.CrossEntropyLoss(), x, y, gradient_tol=10.0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        answer = problem.estimate(Move([0, 1], 0.1 * x[:2]), optimality="gauss_newton").min_norm()
    assert answer.status is not Status.INCONSISTENT or answer.residual <= 1.0
    if answer.status is Status.DIVERGED:
        assert any("diverged" in str(one.message) for one in said)


def test_a_removal_has_a_drift_as_well() -> None:
    problem, _, _ = regression(0.2)
    with pytest.warns(SolsetWarning, match="leftover gradient"):
        assert problem.estimate(Remove([3])).min_norm().drift > 0.1
