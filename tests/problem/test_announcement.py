"""A solve that will take long says so before it starts, by the solver's own statement."""

import logging

import pytest
import torch
from torch import nn

from solset import Problem
from solset.linalg import DenseOperator
from solset.operators import Hessian
from solset.problem._announcement import announce
from solset.risk import Sweep
from solset.solvers import MINRES, Dense


@pytest.fixture
def hessian() -> Hessian:
    x = torch.ones(3, 40, dtype=torch.float64)
    model = nn.Linear(40, 2, dtype=torch.float64)
    options = {"gradient_tol": float("inf"), "verify_derivatives": False}
    return Hessian(Problem(model, nn.MSELoss(), x, torch.zeros_like(x[:, :2]), **options).risk())


def sweep(seconds: float) -> Sweep:
    nothing = torch.zeros(1)
    return Sweep(0.0, nothing, nothing, nothing, seconds)


def said(caplog, *arguments) -> str:
    with caplog.at_level(logging.WARNING, logger="solset"):
        announce(*arguments)
    return caplog.text


def test_a_dense_solve_tells_its_gradients_and_its_time(hessian, caplog):
    gradients = (82 + 1) * hessian.cost.each.gradients  # one product for each weight, and one for the answer
    text = said(caplog, hessian, Dense(), sweep(1.0), 2)
    assert f"of Dense takes {gradients:.0f} gradients, at most about {gradients:.0f} s" in text
    assert "solset.plan(problem)" in text


def test_an_iterative_solve_tells_the_least_and_the_most(hessian, caplog):
    each = hessian.cost.each.gradients
    text = said(caplog, hessian, MINRES(max_steps=500), sweep(1.0), 2)
    assert f"takes {2 * each:.0f} to {502 * each:.0f} gradients" in text


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_a_short_solve_says_nothing(hessian, caplog, seconds):
    assert not said(caplog, hessian, Dense(), sweep(seconds), 2)


def test_a_matrix_that_does_not_know_its_cost_says_nothing(caplog):
    operator = DenseOperator(torch.eye(500, dtype=torch.float64))
    assert not said(caplog, operator, Dense(), sweep(10.0), 2)


def test_a_sweep_knows_its_time():
    model = nn.Linear(1, 1)
    problem = Problem(model, nn.MSELoss(), torch.zeros(2, 1), torch.zeros(2, 1), gradient_tol=float("inf"))
    assert problem.risk().sweep().seconds > 0
