"""Estimates are right to first order: the gradient map vanishes along them like the square of the step."""

import pytest
import torch
from torch import Tensor

from solset.operators import Hessian, Mixed
from solset.testing import log_slope, optimality_errors

STEPS = (1e-2, 5e-3, 2.5e-3, 1.25e-3)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def test_isolated_minimum(isolated_net):
    case, weight_decay = isolated_net
    problem, points, dx = case.problem(weight_decay=weight_decay), [7, 0, 4], draw(3, 3)
    assert problem.gradient().norm() <= 1e-12
    v = problem.derivative(points=points)(dx).min_norm().value
    along = optimality_errors(problem, dx, v, points=points, scales=STEPS)
    assert abs(log_slope(STEPS, along) - 2.0) <= 0.1
    nothing = optimality_errors(problem, dx, torch.zeros_like(v), points=points, scales=STEPS)
    assert abs(log_slope(STEPS, nothing) - 1.0) <= 0.1


@pytest.mark.parametrize("optimality", ["interpolating", "gauss_newton", "stationary"])
@pytest.mark.parametrize("kind", ["fitted", "fitted_sum"])
def test_fitted_overparameterised(request, kind, optimality):
    problem, points, dx = request.getfixturevalue(kind).problem(), [5, 1], draw(2, 3)
    assert problem.gradient().norm() <= 1e-12
    derivative = problem.derivative(points=points, optimality=optimality)(dx)
    for choice in (derivative.min_norm(), *derivative.sample(2, radius=1.0, generator=torch.Generator())):
        assert choice.residual <= 1e-8
        along = optimality_errors(problem, dx, choice.value, points=points, scales=STEPS)
        assert abs(log_slope(STEPS, along) - 2.0) <= 0.1


def test_logistic_regression_is_the_implicit_function_theorem(logistic):
    case, weight_decay = logistic
    problem, points, dx = case.problem(weight_decay=weight_decay), [3, 11], draw(2, 3)
    risk = problem.risk()
    B = Mixed(risk, points).to_dense()
    expected = -torch.linalg.solve(Hessian(risk).to_dense(), B @ dx.reshape(-1))
    found = problem.derivative(points=points)(dx).min_norm().value
    assert (found - expected).norm() <= 1e-8 * expected.norm()


@pytest.mark.parametrize("name", ["logistic", "isolated_net"])
def test_retraining_confirms_with_an_error_linear_in_the_step(request, minimise, name):
    case, weight_decay = request.getfixturevalue(name)
    problem, points, dx = case.problem(weight_decay=weight_decay), [3, 11], draw(2, 3)
    v = problem.derivative(points=points, optimality="stationary")(dx).min_norm().value
    errors = []
    for t in STEPS:
        retrained = minimise(problem.risk().move(points, t * dx), tol=1e-12)
        truth = retrained.weights - problem.weights()
        errors.append(float((t * v - truth).norm() / truth.norm()))
    assert abs(log_slope(STEPS, errors) - 1.0) <= 0.1
    assert errors[-1] <= 0.05
