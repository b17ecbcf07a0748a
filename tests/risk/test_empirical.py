"""The empirical risk: a mean or a sum of losses plus weight decay, as a function of weights and data."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from solset import Problem

INF = float("inf")
ROUNDING = 1e-13


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


def autograd(case) -> tuple[float, torch.Tensor]:
    """Value and gradient as torch alone computes them."""
    loss = case.loss(case.model(case.inputs), case.targets)
    parts = torch.autograd.grad(loss, list(case.model.parameters()))
    return float(loss.detach()), torch.cat([part.reshape(-1) for part in parts])


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_value_and_gradient_in_batches_of_any_size(case, batch_size):
    value, gradient = autograd(case)
    risk = case.risk(batch_size=batch_size)
    assert math.isclose(risk.value(), value, rel_tol=ROUNDING)
    assert error(risk.gradient(), gradient) <= ROUNDING


def test_weight_decay_adds_half_its_square(case):
    plain, decayed = case.risk(), case.risk(weight_decay=0.3)
    w = plain.weights
    assert math.isclose(decayed.value(), plain.value() + 0.15 * float(w @ w), rel_tol=ROUNDING)
    assert error(decayed.gradient(), plain.gradient() + 0.3 * w) <= ROUNDING


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.MSELoss])
def test_a_sum_is_n_times_a_mean(build_case, kind):
    case = build_case("tanh-ce-mean")
    targets = case.targets if kind is nn.CrossEntropyLoss else case.model(case.inputs).detach() + 1.0
    mean, total = (
        Problem(case.model, kind(reduction=r), case.inputs, targets, batch_size=4, gradient_tol=INF).risk()
        for r in ("mean", "sum")
    )
    count = len(targets) if kind is nn.CrossEntropyLoss else targets.numel()
    assert math.isclose(total.value(), count * mean.value(), rel_tol=ROUNDING)
    assert error(total.gradient(), count * mean.gradient()) <= ROUNDING


def test_a_loss_without_a_name_is_found_to_be_a_mean_or_a_sum(build_case):
    case = build_case("tied-mse-mean")
    for reduction in ("mean", "sum"):
        unnamed = partial(nn.functional.mse_loss, reduction=reduction)
        problem = Problem(case.model, unnamed, case.inputs, case.targets, gradient_tol=INF)
        assert problem.risk().reduction == reduction


def test_at_other_weights_it_is_the_risk_there(case):
    risk = case.risk(weight_decay=0.1)
    w, v = risk.weights, torch.randn(risk.layout.size, generator=torch.Generator().manual_seed(0)).double()
    t = 1e-5
    slope = (risk.at(w + t * v).value() - risk.at(w - t * v).value()) / (2 * t)
    assert math.isclose(slope, float(risk.gradient() @ v), rel_tol=1e-7)
    assert torch.equal(risk.weights, w)


def test_moving_all_points_is_the_risk_of_other_data(case):
    dx = 0.1 * torch.ones_like(case.inputs)
    other = Problem(case.model, case.loss, case.inputs + dx, case.targets, gradient_tol=INF).risk()
    assert torch.equal(case.risk().move(range(6), dx).gradient(), other.gradient())


def test_the_parts_of_a_selection_add_up_to_the_whole(case):
    risk = case.risk(weight_decay=0.3)
    parts = risk.select([0, 5]), risk.select([1, 2, 3, 4])
    total = sum(part.gradient() for part in parts) + 0.3 * risk.weights
    assert error(total, risk.gradient()) <= ROUNDING


def test_losses_are_those_of_each_point_by_itself(case):
    outputs = case.model(case.inputs).detach()
    alone = [case.loss(outputs[i : i + 1], case.targets[i : i + 1]) for i in range(len(outputs))]
    assert error(case.risk(batch_size=4).losses(), torch.stack(alone)) <= ROUNDING


def test_losses_are_one_number_a_point_even_if_the_loss_keeps_a_dimension(case):
    problem = Problem(
        case.model, lambda f, y: case.loss(f, y).reshape(1), case.inputs, case.targets, gradient_tol=INF
    )
    assert problem.risk().losses().shape == (6,)


def test_outputs_are_flattened_by_point(case):
    outputs = case.model(case.inputs).detach().flatten(1)
    assert error(case.risk(batch_size=4).outputs(), outputs) <= ROUNDING


def test_input_gradients_are_those_of_each_point_by_itself(case):
    found = case.risk(batch_size=4).input_gradients()
    assert found.shape == case.inputs.shape
    for i in range(len(case.inputs)):
        leaf = case.inputs[i : i + 1].clone().requires_grad_()
        (expected,) = torch.autograd.grad(case.loss(case.model(leaf), case.targets[i : i + 1]), leaf)
        assert error(found[i : i + 1], expected) <= ROUNDING


def test_derivatives_do_not_need_grad_mode(case):
    risk = case.risk()
    with torch.no_grad():
        inside = case.problem()
        assert torch.equal(inside.gradient(), risk.gradient())
        assert torch.equal(inside.risk().input_gradients(), risk.input_gradients())
        assert inside.fit == case.problem().fit
