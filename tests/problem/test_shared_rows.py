"""Rows of ``J`` that were computed for one change serve the next ones, and the answers are the same."""

import gc

import pytest
import torch
from torch import nn

from solset import Add, Move, Problem, Remove
from solset.operators import InformativeRows
from solset.problem._informative import InformativeSelection
from support.fitted import direction, net

ROWS = InformativeRows(tol=1e-2)
OPTIONS = {"optimality": "interpolating", "rows": ROWS}


@pytest.mark.parametrize("verify", [True, False])
def test_further_changes_are_answered_as_the_first_ones_of_a_new_problem(verify):
    fit = net("connected")
    problem, dx = fit.problem(), direction(0)
    changes = [Move([3], dx[:1]), Move([5, 9], dx), Remove([4]), Remove([3]) + Move([7], dx[1:])]
    for change in changes:
        further = problem.estimate(change, verify=verify, **OPTIONS).min_norm()
        first = fit.problem().estimate(change, verify=verify, **OPTIONS).min_norm()
        assert further.status is first.status
        assert further.message == first.message
        assert float((further.value - first.value).norm()) <= 1e-9 * float(first.value.norm())


def test_they_compute_the_rows_of_their_own_points_alone(counted):
    problem, dx = net("connected").problem(), direction(0)
    problem.estimate(Move([3], dx[:1]), verify=False, **OPTIONS).min_norm()
    first = sum(counted)
    counted.clear()
    problem.estimate(Move([5], dx[:1]), verify=False, **OPTIONS).min_norm()
    assert 0 < sum(counted) <= 10 < first
    counted.clear()
    problem.estimate(Remove([8]), verify=False, **OPTIONS).min_norm()
    assert sum(counted) <= 2  # another trace, of which the same share may be left out


def test_rows_of_changes_that_were_answered_are_not_kept():
    problem, dx = net("connected").problem(), direction(0)
    for point in range(6):
        problem.estimate(Move([point], dx[:1]), verify=False, **OPTIONS).min_norm()
    gc.collect()
    alive = [each for each in gc.get_objects() if type(each) is InformativeSelection]
    assert sum(each.point is problem.point for each in alive) <= 2


def test_points_that_join_keep_the_rows_of_the_others(counted):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(3, 30), nn.Tanh(), nn.Linear(30, 2)).double().eval()
    with torch.no_grad():
        y = model(x)
    more = x[:1] + 0.1, y[:1] + 0.01

    def problem():
        return Problem(model, nn.MSELoss(), x, y)

    settings = {"optimality": "interpolating", "rows": InformativeRows(tol=0.01)}
    used = problem()
    used.estimate(Move([1], 0.01 * x[:1]), **settings).min_norm()
    counted.clear()
    further = used.estimate(Add(*more), **settings).min_norm()
    assert sum(counted) == 2
    first = problem().estimate(Add(*more), **settings).min_norm()
    assert float((further.value - first.value).norm()) <= 1e-9 * float(first.value.norm())


def test_an_element_that_was_not_asked_says_that_rows_were_not_either():
    problem = net("connected").problem()
    answer = problem.estimate(Move([3], direction(0)[:1]), verify=False, **OPTIONS).min_norm()
    assert "nor whether the rows in use suffice (verify=False)" in answer.message
