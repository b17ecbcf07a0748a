"""Retraining with an optimiser of PyTorch, against hand-written loops and gradient descent."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from solset import Move, retrain
from solset.errors import SolsetWarning, Status
from solset.retraining import GradientDescent, WithOptimizer

POINTS = [4, 1]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def sgd(rate: float, **options: float) -> Callable[[Sequence[Tensor]], torch.optim.Optimizer]:
    return lambda leaves: torch.optim.SGD(leaves, lr=rate, **options)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("epochs", [1, 3])
def test_full_batches_without_momentum_are_gradient_descent(case, epochs, weight_decay):
    problem, dx = case.problem(weight_decay=weight_decay), 0.1 * draw(2, *case.inputs.shape[1:])
    truth = retrain(problem, Move(POINTS, dx), method=GradientDescent(epochs, 0.05))
    found = retrain(problem, Move(POINTS, dx), method=WithOptimizer(sgd(0.05), epochs))
    assert truth.change.norm() > 1e-3
    torch.testing.assert_close(found.weights, truth.weights, rtol=0, atol=1e-12)
    assert found.risk == pytest.approx(truth.risk, rel=1e-12)
    assert found.gradient_norm == pytest.approx(truth.gradient_norm, rel=1e-10)
    assert (found.gradients, found.status) == (epochs, Status.CONVERGED)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_mini_batches_are_the_loop_of_any_training_script(case, batch_size, weight_decay):
    # A sum over a batch is scaled up to all points, as a mean is by itself, so one rate fits every size.
    dx, n = 0.1 * draw(2, *case.inputs.shape[1:]), len(case.inputs)
    model, generator = copy.deepcopy(case.model), torch.Generator().manual_seed(3)
    inputs = case.inputs.index_add(0, torch.tensor(POINTS), dx)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=weight_decay)
    for _ in range(2):
        for batch in torch.randperm(n, generator=generator).split(batch_size):
            optimizer.zero_grad()
            loss = case.loss(model(inputs[batch]), case.targets[batch])
            (loss if case.loss.reduction == "mean" else n / len(batch) * loss).backward()
            optimizer.step()
    expected = torch.cat([value.detach().reshape(-1) for value in model.parameters()])
    method = WithOptimizer(sgd(0.05, momentum=0.9), 2, batch_size, seed=3)
    found = retrain(case.problem(weight_decay=weight_decay), Move(POINTS, dx), method=method)
    torch.testing.assert_close(found.weights, expected, rtol=0, atol=1e-12)


def test_the_course_has_the_weights_after_every_epoch(build_case):
    problem, dx = build_case("tanh-ce-mean").problem(), draw(2, 3)
    longest = retrain(problem, Move(POINTS, dx), method=WithOptimizer(sgd(0.1), 4, 2))
    assert list(longest.course) == [1, 2, 3, 4]
    for epochs, weights in longest.course.items():
        shorter = retrain(problem, Move(POINTS, dx), method=WithOptimizer(sgd(0.1), epochs, 2))
        assert torch.equal(shorter.weights, weights)
    assert len({float(weights.norm()) for weights in longest.course.values()}) == 4
    assert torch.equal(longest.weights, longest.course[4])


def test_states_where_it_ended(build_case):
    problem, dx = build_case("conv-ce-sum").problem(), draw(2, 1, 3, 3)
    method = WithOptimizer(lambda leaves: torch.optim.Adam(leaves, lr=1e-2), 3, 2)
    found = retrain(problem, Move(POINTS, dx), method=method)
    end = problem.risk().move(POINTS, dx).at(found.weights)
    assert found.risk == end.value() < problem.risk().move(POINTS, dx).value()
    assert found.gradient_norm == float(end.gradient().norm())
    assert torch.equal(found.change, found.weights - problem.weights())
    assert found.gradients == 3


def test_the_seed_orders_the_points(build_case):
    problem, dx = build_case("tanh-ce-mean").problem(), draw(2, 3)

    def end(seed: int) -> Tensor:
        return retrain(problem, Move(POINTS, dx), method=WithOptimizer(sgd(0.1), 2, 2, seed)).weights

    assert torch.equal(end(0), end(0))
    assert not torch.equal(end(0), end(1))


def test_each_epoch_has_its_own_order(build_case):
    # Had the second epoch the order of the first, two epochs would be two runs of one epoch.
    problem, method = build_case("tanh-ce-mean").problem(), WithOptimizer(sgd(0.1), 1, 2)
    risk = problem.risk()
    once = method.run(risk, risk.outputs)
    again = method.run(risk.at(once.weights), risk.outputs)
    twice = replace(method, epochs=2).run(risk, risk.outputs)
    assert torch.equal(twice.course[1], once.weights)
    assert not torch.equal(twice.weights, again.weights)


@pytest.mark.parametrize("name", ["tanh-ce-mean", "conv-ce-sum"])
def test_the_model_and_the_random_state_stay_as_they_were(build_case, name):
    case = build_case(name)
    (_, first), *others = case.model.named_parameters()
    first.requires_grad_(False)  # a wish of the user's that must survive
    others[0][1].grad = torch.ones_like(others[0][1])
    problem, dx = case.problem(parameters=[other for other, _ in others]), draw(2, *case.inputs.shape[1:])
    before, random = copy.deepcopy(case.model.state_dict()), torch.get_rng_state()
    weights, data = problem.weights().clone(), case.inputs.clone()
    found = retrain(problem, Move(POINTS, dx), method=WithOptimizer(sgd(0.1), 2, 4))
    assert found.change.norm() > 0
    for key, value in case.model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not first.requires_grad
    assert [value.grad is None for value in case.model.parameters()] == [True, False] + [True] * (
        len(others) - 1
    )
    assert torch.equal(others[0][1].grad, torch.ones_like(others[0][1]))
    assert not case.model.training
    assert torch.equal(problem.weights(), weights)
    assert torch.equal(case.inputs, data)
    assert torch.equal(torch.get_rng_state(), random)


def test_only_the_chosen_parameters_move(build_case):
    case = build_case("tanh-ce-mean")
    method = WithOptimizer(sgd(0.1), 1)
    found = retrain(case.problem(parameters=["2.*"]), Move(POINTS, draw(2, 3)), method=method)
    inputs = case.inputs.index_add(0, torch.tensor(POINTS), draw(2, 3))
    last = list(case.model[2].parameters())
    steps = torch.autograd.grad(case.loss(case.model(inputs), case.targets), last)
    expected = -0.1 * torch.cat([step.reshape(-1) for step in steps])
    torch.testing.assert_close(found.change, expected, rtol=0, atol=1e-12)


def test_a_run_that_runs_away_says_so(fitted_sum):
    with pytest.warns(SolsetWarning, match="status 'nonfinite'"):
        found = retrain(fitted_sum.problem(), Move(None, draw(6, 3)), method=WithOptimizer(sgd(1e3), 60))
    assert found.status is Status.NONFINITE
    assert not bool(torch.isfinite(found.weights).all())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1; got 0"),
        ({"epochs": -1}, "`epochs` must be at least 1; got -1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1; got 0"),
    ],
)
def test_bad_arguments_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        WithOptimizer(sgd(0.1), **{"epochs": 1, **change})


def test_an_optimiser_that_needs_a_closure_is_refused_with_the_one_to_use(fitted):
    with pytest.raises(
        ValueError, match=r"needs no closure; got torch\.optim\.LBFGS\. Use solset\.retraining\.LBFGS"
    ):
        retrain(fitted.problem(), Move(None, draw(6, 3)), method=WithOptimizer(torch.optim.LBFGS, 1))


def test_a_perturbation_of_the_wrong_shape_is_refused(fitted):
    with pytest.raises(ValueError, match=r"`dx` must be of shape \(2, 3\)"):
        retrain(fitted.problem(), Move(POINTS, draw(3, 3)), method=WithOptimizer(sgd(0.1), 1))


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_value_and_gradient_are_value_and_gradient(case, batch_size, weight_decay):
    risk = case.risk(batch_size=batch_size, weight_decay=weight_decay)
    value, gradient = risk.value_and_gradient()
    assert value == pytest.approx(risk.value(), rel=1e-14, abs=0)
    assert torch.equal(gradient, risk.gradient())
