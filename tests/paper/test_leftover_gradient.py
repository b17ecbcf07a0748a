"""Section 5, leftover gradient: where training has not stopped, follow its tangent, not a frozen filter."""

import pytest
import torch
from torch import nn

from solset import Move, Problem, SolsetWarning, retrain
from solset.paper import digits
from solset.reports._directions import random_directions, step_of
from solset.retraining import GradientDescent, tangent_recursion
from solset.solvers import filters
from solset.zoo import DFCNN
from support.fitted_digits import SLOW_DIGITS

pytestmark = SLOW_DIGITS

RATE = 0.1


@pytest.fixture(scope="module")
def unfinished() -> Problem:
    """Cross-entropy on 100 digits without weight decay: every label right, the gradient not zero."""
    train = digits().part(0, 100)
    generator = torch.Generator().manual_seed(0)
    model = DFCNN([64, 128, 64, 10], activation=torch.tanh, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train.inputs), train.labels).backward()
        optimizer.step()
    model.zero_grad()
    assert bool((model(train.inputs).argmax(1) == train.labels).all())
    return Problem(model.eval(), nn.CrossEntropyLoss(), train.inputs, train.labels, gradient_tol=1.0)


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_the_tangent_recursion_predicts_the_moved_minus_clean_difference(
    unfinished: Problem, steps: int
) -> None:
    points = list(range(10))
    inputs, _ = unfinished.risk().points[points]
    directions = random_directions(inputs.shape, inputs, torch.Generator().manual_seed(1))
    dx = step_of(inputs, directions, 0.005)
    method = GradientDescent(steps, RATE)
    moved = retrain(unfinished, Move(points, dx), method=method).weights
    clean = retrain(unfinished, Move(points, torch.zeros_like(dx)), method=method).weights
    predicted = tangent_recursion(unfinished, Move(points, dx), steps=steps, learning_rate=RATE)
    error = float((predicted - (moved - clean)).norm() / (moved - clean).norm())
    print(f"{steps} steps: relative error {error:.4f}")
    assert error <= 0.1


def test_the_frozen_filter_warns(unfinished: Problem) -> None:
    dx = torch.full((1, 64), 1e-3, dtype=torch.float64)
    estimate = unfinished.estimate(Move([0], dx), optimality="gauss_newton")
    with pytest.warns(SolsetWarning, match="tangent_recursion"):
        estimate.element(filters.GradientFlow(100, RATE))
