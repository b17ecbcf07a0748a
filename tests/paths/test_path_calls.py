"""Calls of a path that cannot be answered, and the options of its steps."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from solset import Move, Problem, follow_path
from solset.operators import InformativeRows
from solset.paths import PathOptions

MOVED = [4, 1]
DX = torch.linspace(-0.3, 0.3, 6, dtype=torch.float64).reshape(2, 3)


class TestBadCalls:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"max_error": 0.0}, "max_error"),
            ({"max_error": 1.0}, "max_error"),
            ({"max_gradients": 0.0}, "max_gradients"),
            ({"optimality": "gauss_newton"}, "optimality"),
            ({"points": [4, 4]}, "distinct"),
            ({"nearest": True, "rows": InformativeRows(tol=0.4)}, "nearest"),
        ],
    )
    def test_are_refused(self, fitted, options, says):
        change = Move(options.pop("points", MOVED), DX)
        with pytest.raises(ValueError, match=says):
            follow_path(fitted.problem(), change, **options)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_perturbations_must_be_finite_and_fit(self, fitted, bad):
        with pytest.raises(ValueError, match="finite"):
            follow_path(fitted.problem(), Move(MOVED, torch.full((2, 3), bad, dtype=torch.float64)))
        with pytest.raises(ValueError, match="shape"):
            follow_path(fitted.problem(), Move(MOVED, DX[:1]))


def inverse() -> Problem:
    """One weight with ``w = 2 / x`` at ``x = 1``."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    one = torch.ones(1, 1, dtype=torch.float64)
    return Problem(model, nn.MSELoss(), one, 2 * one)


def test_options_limit_the_first_step_and_its_growth():
    move = Move(None, torch.ones(1, 1, dtype=torch.float64))
    usual = follow_path(inverse(), move)
    short = follow_path(inverse(), move, options=PathOptions(first_step=0.01, max_growth=1.2))
    places = [station.place for station in short.stations]
    assert places[1] <= 0.01
    assert len(short.stations) > len(usual.stations)
    steps = [after - before for before, after in pairwise(places)]
    assert all(after <= (1.2 + 1e-9) * before for before, after in pairwise(steps))
    assert float(short.weights) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("options", [{"min_step": 2.0}, {"first_step": 0.0}, {"max_growth": 0.5}], ids=repr)
def test_options_that_cannot_be_met_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PathOptions(**options)
