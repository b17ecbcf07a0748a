"""Budgets of targets and of factors: against closed forms of linear models with squared loss."""

import pytest
import torch
from torch import Tensor, nn

from solset import Problem, Relabel, Reweight, design_poisoning
from solset.goals import WeightFunction
from solset.poisoning import Ascent, Budget, judge_poisoning
from solset.retraining import Newton

DECAY = 0.1
DOUBLE = torch.float64


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


X, Y = drawn(8, 3, seed=0), drawn(8, 1, seed=1)
TOTAL = WeightFunction(lambda w: w.sum(), name="sum of the weights")


def ridge_weights(y: Tensor, factors: Tensor) -> Tensor:
    matrix = 2 / factors.sum() * (factors.unsqueeze(1) * X).T @ X + DECAY * torch.eye(3, dtype=DOUBLE)
    return torch.linalg.solve(matrix, 2 / factors.sum() * (factors.unsqueeze(1) * X).T @ y).flatten()


def linear(weights: Tensor) -> nn.Linear:
    model = nn.Linear(len(weights), 1, bias=False, dtype=DOUBLE)
    with torch.no_grad():
        model.weight.copy_(weights.unsqueeze(0))
    return model


@pytest.fixture
def ridge() -> Problem:
    weights = ridge_weights(Y, torch.ones(8, dtype=DOUBLE))
    return Problem(linear(weights), nn.MSELoss(), X, Y, weight_decay=DECAY)


def test_targets_go_along_their_gradient_to_the_end_of_the_budget(ridge: Problem) -> None:
    budget = Budget([0, 3, 5], 0.5, scope="total", of="targets")
    poisoning = design_poisoning(ridge, TOTAL, budget)
    matrix = 2 / 8 * X.T @ X + DECAY * torch.eye(3, dtype=DOUBLE)
    slope = (2 / 8 * X @ torch.linalg.solve(matrix, torch.ones(3, dtype=DOUBLE)))[[0, 3, 5]]
    torch.testing.assert_close(poisoning.adjoint.gradient, slope.unsqueeze(1), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(poisoning.dx, 0.5 * (slope / slope.norm()).unsqueeze(1), rtol=1e-3, atol=1e-4)
    y = Y.clone()
    y[[0, 3, 5]] += poisoning.dx
    expected = ridge_weights(y, torch.ones(8, dtype=DOUBLE))
    torch.testing.assert_close(poisoning.weights, expected, rtol=1e-7, atol=1e-9)
    assert poisoning.real == pytest.approx(float(expected.sum()), rel=1e-7)
    assert isinstance(poisoning.change, Relabel)
    judged = judge_poisoning(ridge, TOTAL, poisoning, methods={"Newton": Newton()})
    assert judged.verdicts[0].poisoned == pytest.approx(float(expected.sum()), rel=1e-7)


def test_targets_stay_within_their_range(ridge: Problem) -> None:
    poisoning = design_poisoning(ridge, TOTAL, Budget([1, 2], 5.0, lower=-1.0, upper=1.0, of="targets"))
    after = Y[[1, 2]] + poisoning.dx
    assert bool(((after >= -1) & (after <= 1)).all())
    assert bool((after.abs() > 0.999).all())  # a linear function is largest at a corner


def test_factors_move_within_their_budget_and_are_solved_for(ridge: Problem) -> None:
    poisoning = design_poisoning(ridge, TOTAL, Budget([0, 2, 6], 0.4, norm="linf", of="factors"))
    factors = torch.ones(8, dtype=DOUBLE)
    factors[[0, 2, 6]] += poisoning.dx
    expected = ridge_weights(Y, factors)
    torch.testing.assert_close(poisoning.weights, expected, rtol=1e-7, atol=1e-9)
    assert isinstance(poisoning.change, Reweight)
    corners = torch.cartesian_prod(*[torch.tensor([-0.4, 0.4], dtype=DOUBLE)] * 3)
    values = []
    for corner in corners:
        factors = torch.ones(8, dtype=DOUBLE)
        factors[[0, 2, 6]] += corner
        values.append(float(ridge_weights(Y, factors).sum()))
    assert poisoning.real == pytest.approx(max(values), rel=1e-6)


def test_targets_of_a_fitted_set_move_the_nearest_solution() -> None:
    x, w = drawn(2, 4, seed=3), drawn(4, seed=4)
    problem = Problem(linear(w), nn.MSELoss(), x, x @ w.unsqueeze(1))
    poisoning = design_poisoning(problem, TOTAL, Budget([0, 1], 0.3, norm="linf", of="targets"))
    slope = torch.linalg.pinv(x).T @ torch.ones(4, dtype=DOUBLE)
    torch.testing.assert_close(poisoning.dx, 0.3 * slope.sign().unsqueeze(1), rtol=1e-6, atol=1e-8)
    expected = w + torch.linalg.pinv(x) @ poisoning.dx.flatten()
    torch.testing.assert_close(poisoning.weights, expected, rtol=1e-6, atol=1e-8)


def test_what_such_a_budget_does_not_mean_is_refused(ridge: Problem) -> None:
    with pytest.raises(ValueError, match="`of` must be one of"):
        Budget([0], 1.0, of="labels")  # type: ignore[arg-type]
    model = nn.Linear(3, 2, dtype=DOUBLE)
    labels = Problem(model, nn.CrossEntropyLoss(), X, (Y > 0).long().flatten(), gradient_tol=10.0)
    with pytest.raises(ValueError, match="Flips"):
        design_poisoning(labels, TOTAL, Budget([0], 1.0, of="targets"), ascent=Ascent(max_rounds=1))
    with pytest.raises(ValueError, match="budget"):
        Budget([0], 1.0, of="factors").require_features()
