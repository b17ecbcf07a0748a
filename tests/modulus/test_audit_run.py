"""The audit of a run ranks points by their effect on the validation loss, as real reruns have it."""

from functools import partial

import pytest
import torch
from torch import nn

from solset import Move, Relabel, Remove, Training, audit

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(10, 3, generator=GENERATOR, dtype=torch.float64)
TESTS = torch.randn(4, 3, generator=GENERATOR, dtype=torch.float64)
VALIDATION = (TESTS, TESTS[:, :1] * TESTS[:, 1:2])


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


@pytest.fixture(scope="module")
def run():
    sgd = partial(torch.optim.SGD, lr=0.1)
    y = X[:, :1] * X[:, 1:2]
    return Training(net, nn.MSELoss(), X, y, optimizer=sgd, epochs=3, batch_size=5).run()


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return float(nn.functional.mse_loss(model(VALIDATION[0]), VALIDATION[1]))


def test_the_worst_unit_move_changes_the_validation_loss_at_its_slope(run):
    result = audit(run, points=[2, 7], validation=VALIDATION)
    assert repr(result).startswith("Audit(largest effect on the validation loss")
    for place, point in enumerate(result.points):
        ends = [
            loss(run.retrain(Move([point], step * result.directions[place : place + 1])).model)
            for step in (1e-4, -1e-4)
        ]
        assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(float(result.validation_slope[place]), rel=1e-5)
    assert result.points[result.order[0]] == result.points[int(result.validation_slope.argmax())]
    assert result.rows()[0]["modulus"] is None
    assert "no modulus" in result.message


def test_a_removal_has_its_sign(run):
    result = audit(run, Remove, validation=VALIDATION)
    step = 1e-4
    ends = [loss(run.retrain(Remove([3]), scale=scale).model) for scale in (step, -step)]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(result.validation_change[3]), rel=1e-5)
    expected = nn.functional.mse_loss(run.model(X), X[:, :1] * X[:, 1:2], reduction="none")[:, 0]
    torch.testing.assert_close(result.loss, expected.detach())


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, ValueError, "`validation`.*for a run"),
        (
            {"validation": VALIDATION, "optimality": "stationary"},
            ValueError,
            "`optimality`.*left out for a run",
        ),
        ({"validation": VALIDATION, "kind": Relabel}, TypeError, "`kind`.*Move or Remove"),
        ({"validation": VALIDATION, "points": [12]}, ValueError, "`points`.*in 0..9"),
        ({"validation": (TESTS[:, :2], VALIDATION[1])}, ValueError, "`inputs`.*shape"),
    ],
    ids=["none", "map", "kind", "points", "width"],
)
def test_what_a_run_does_not_know_is_refused(run, given, error, words):
    with pytest.raises(error, match=words):
        audit(run, **given)
