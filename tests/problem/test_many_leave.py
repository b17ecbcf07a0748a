"""Removal of more points than there are weights, where those that stay do not decide all of the weights."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from solset import Problem, Remove, Reweight, SolsetWarning

N = 100
MAPS = ["stationary", "gauss_newton"]


def least_squares(x: Tensor, y: Tensor) -> tuple[Problem, Tensor]:
    """The regression without an intercept at its minimum, and its weights."""
    weights = torch.linalg.lstsq(x, y).solution
    model = nn.Linear(x.shape[1], 1, bias=False, dtype=torch.float64)
    model.weight.data = weights.T.clone()
    return Problem(model, nn.MSELoss(), x, y), weights


def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 5, generator=generator, dtype=torch.float64)
    return x, torch.randn(N, 1, generator=generator, dtype=torch.float64) + 100 * x.sum(1, keepdim=True)


@pytest.mark.parametrize("optimality", MAPS)
@pytest.mark.parametrize("stay", [2, 4, 5, 20])
def test_few_points_that_stay_decide_as_many_directions(stay, optimality):
    x, y = drawn()
    problem, weights = least_squares(x, y)
    for change in (Remove(list(range(stay, N))), Reweight(list(range(stay, N)), -1.0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SolsetWarning)  # of long steps
            estimate = problem.estimate(change, optimality=optimality, order="newton")
            step = estimate.min_norm().value - weights.flatten()
        true = torch.linalg.pinv(x[:stay]) @ (y[:stay] - x[:stay] @ weights)
        assert float((step - true.flatten()).norm()) <= 1e-9 * float(true.norm())
        if optimality == "stationary":  # the other one works by products here, and refuses to say
            assert estimate.dimension == max(5 - stay, 0)


@pytest.mark.parametrize("optimality", MAPS)
@pytest.mark.parametrize("leave", [3, 30])
def test_a_category_that_leaves_decides_nothing_any_more(leave, optimality):
    """With few points by the update, with more than there are weights by the changed data."""
    x, y = drawn()
    x[:, 4] = (torch.arange(N) < leave).double()
    problem, weights = least_squares(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolsetWarning)
        estimate = problem.estimate(Remove(list(range(leave))), optimality=optimality)
        step = estimate.min_norm().value - weights.flatten()
    true = torch.linalg.pinv(x[leave:]) @ (y[leave:] - x[leave:] @ weights)
    assert float((step - true.flatten()).norm()) <= 1e-9 * float(true.norm())
    if optimality == "stationary":
        assert estimate.dimension == 1


def test_factors_that_change_both_ways_by_products_are_those_of_dense_algebra():
    """Of more points than there are weights; a loss that counts less takes its curvature with it."""
    x, y = drawn()
    problem, weights = least_squares(x, y)
    steps = torch.linspace(-0.9, 1.5, 40, dtype=torch.float64)
    after = torch.ones(N, 1, dtype=torch.float64)
    after[:40, 0] += steps
    root = after.sqrt()
    true = torch.linalg.lstsq(root * x, root * y).solution.flatten()
    for optimality in MAPS:
        change = Reweight(list(range(40)), steps)
        step = problem.estimate(change, optimality=optimality, order="newton").min_norm().value
        assert float((step - true).norm()) <= 1e-9 * float((true - weights.flatten()).norm())
    nothing = problem.estimate(Reweight([3], 0.0), order="newton").min_norm().value
    assert float((nothing - weights.flatten()).norm()) <= 1e-12
