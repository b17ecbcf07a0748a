"""Certificates that hold where numbers are close to rounding, and are withheld where they do not."""

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, lipschitz_modulus
from solset.modulus import Certainty
from solset.operators import InputJacobian, Jacobian


def twins(distance: float, dtype: torch.dtype = torch.float64, **options) -> Problem:
    """A fitted problem in which two points are at a small distance."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
    inputs = torch.randn(5, 3, generator=generator, dtype=torch.float64).to(dtype)
    inputs[3] = inputs[0]
    inputs[3, 1] += distance
    return Problem(model, nn.MSELoss(), inputs, model(inputs).detach(), **options)


def modulus_by_rows(problem: Problem) -> float:
    """``‖J⁺ J_x‖₂`` by an orthogonal triangularisation of ``Jᵀ``, in float64."""
    risk = problem.risk()
    rows = Jacobian(risk).to_dense().double()
    features = InputJacobian(risk, range(len(risk.points))).to_dense().double()
    _, factor = torch.linalg.qr(rows.T)
    return float(torch.linalg.matrix_norm(torch.linalg.solve(factor.T, features), 2))


@pytest.mark.parametrize("distance", [1e-4, 1e-5, 1e-6, 3e-7, 1e-7, 1e-8, 1e-9])
def test_near_duplicates_are_resolved_by_the_rows_and_not_by_their_squares(distance: float):
    problem = twins(distance)
    found = lipschitz_modulus(problem)
    assert found.certificate.certainty is Certainty.EXACT
    assert found.optimality == "interpolating"
    assert found.value == pytest.approx(modulus_by_rows(problem), rel=1e-6)


@pytest.mark.parametrize("distance", [1e-5, 1e-6, 1e-7])
def test_an_estimate_with_near_duplicates_meets_its_equations(distance: float):
    problem = twins(distance)
    generator = torch.Generator().manual_seed(1)
    dx = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    estimate = problem.estimate(Move(None, dx))
    solution = estimate.min_norm()
    assert solution.status == "converged"
    assert estimate.dimension == len(problem.weights()) - 5
    risk = problem.risk()
    change = solution.value - problem.weights()
    pushed = InputJacobian(risk, range(5)) @ dx.flatten()
    assert float((Jacobian(risk) @ change + pushed).norm()) <= 1e-7 * float(pushed.norm())


def test_independent_rows_are_never_called_contradictory():
    problem = twins(1e-9)
    estimate = problem.estimate(Move([0], torch.ones(1, 3, dtype=torch.float64)))
    assert estimate.min_norm().status == "max_steps"


def test_duplicates_are_infinite_by_default():
    found = lipschitz_modulus(twins(0.0))
    assert found.certificate.certainty is Certainty.INFINITE
    assert found.optimality == "interpolating"
    assert {carrier.point for carrier in found.certificate.carriers} == {0, 3}


def as_tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
