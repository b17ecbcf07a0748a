"""What a problem knows about its trained point."""

import pytest
import torch
from torch import Tensor

from solset import Move
from solset.operators import Hessian


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


def test_it_counts_points_outputs_and_weights(case):
    problem = case.problem()
    assert problem.point_count == 6
    assert problem.output_count == case.model(case.inputs)[0].numel()
    assert problem.input_shape == case.inputs.shape[1:]
    assert len(problem.weights()) == sum(value.numel() for value in case.model.parameters())


def test_it_prints_its_sizes_and_its_gradient(fitted):
    assert repr(fitted.problem()).startswith("Problem(Sequential, n=6, p=74, c=2, gradient norm ")


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_the_fit_is_the_mean_slope_of_the_loss_in_the_outputs(case, batch_size):
    outputs = case.model(case.inputs).detach()
    slopes = []
    for i in range(6):
        leaf = outputs[i : i + 1].clone().requires_grad_()
        (slope,) = torch.autograd.grad(case.loss(leaf, case.targets[i : i + 1]), leaf)
        slopes.append(slope.norm())
    fit = torch.tensor(case.problem(batch_size=batch_size).fit, dtype=torch.float64)
    assert error(fit, torch.stack(slopes).mean()) <= 1e-13


def test_a_fitted_point_has_no_gradient_and_no_residual(fitted):
    problem = fitted.problem()
    assert problem.fit <= 1e-12
    assert problem.gradient().norm() <= 1e-12


def test_only_the_parameters_named_move(fitted):
    problem = fitted.problem(parameters=["2.*"])
    dx = torch.ones(1, 3, dtype=torch.float64)
    changed = problem.estimate(Move([0], dx)).min_norm().apply_to(fitted.model)
    assert torch.equal(changed[0].weight, fitted.model[0].weight)
    assert not torch.equal(changed[2].weight, fitted.model[2].weight)


def test_a_small_memory_budget_changes_no_result(isolated_net):
    case, weight_decay = isolated_net
    dx = torch.ones(1, 3, dtype=torch.float64)
    found, roomy = (
        case.problem(weight_decay=weight_decay, memory_budget=budget).estimate(Move([2], dx)).min_norm()
        for budget in (12_000, 2**30)
    )
    assert error(found.value, roomy.value) <= 1e-12


def test_the_risk_of_the_problem_is_where_it_was_built(isolated_net):
    case, weight_decay = isolated_net
    problem = case.problem(weight_decay=weight_decay)
    assert torch.equal(problem.risk().gradient(), problem.gradient())
    assert torch.linalg.eigvalsh(Hessian(problem.risk()).to_dense()).min() > 1e-4
