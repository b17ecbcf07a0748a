"""Arrays and frames are taken wherever tensors are: the numbers are the same."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from solset import Move, Problem, Training, audit
from solset.goals import HeldOutLoss, PointLosses, Prediction

X, Y = torch.linspace(-1, 1, 6)[:, None], torch.linspace(0, 1, 6)[:, None]
TEST = (X[:3] + 0.1, Y[:3])
FORMS = {
    "arrays in float64": lambda one: one.numpy().astype(np.float64),
    "frames": lambda one: pd.DataFrame(one.numpy()),
}


@pytest.fixture(scope="module")
def maps() -> dict[str, object]:
    sgd = partial(torch.optim.SGD, lr=0.1)
    run = Training(lambda: nn.Linear(1, 1), nn.MSELoss(), X, Y, optimizer=sgd, steps=3).run(progress=False)
    problem = Problem(run.model, nn.MSELoss(), X, Y, gradient_tol=float("inf"))
    return {"problem": problem, "run": run}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("kind", ["problem", "run"])
def test_goals_changes_and_validation_data_may_be_arrays(maps, kind, form):
    asked, (x, y) = maps[kind], (form(part) for part in TEST)
    for goal, other in (
        (HeldOutLoss(x, y), HeldOutLoss(*TEST)),
        (PointLosses(x, y), PointLosses(*TEST)),
        (Prediction(x), Prediction(TEST[0])),
    ):
        torch.testing.assert_close(asked.attribute(goal).weights, asked.attribute(other).weights)
        assert goal.describe() == other.describe()
    validated = [audit(asked, validation=data).validation_slope for data in ((x, y), TEST)]
    torch.testing.assert_close(*validated)
    dx = 0.01 * torch.ones(2, 1)
    ends = []
    for change in (Move([1, 4], form(dx)), Move([1, 4], dx)):
        estimate = asked.estimate(change)
        ends.append(estimate.weights if kind == "run" else estimate.min_norm().weights)
    torch.testing.assert_close(*ends)


def test_goals_on_other_arrays_have_another_identity():
    first, second = (HeldOutLoss(TEST[0].numpy() + shift, TEST[1].numpy()).identity() for shift in (0, 1))
    assert first["points"] != second["points"]


@pytest.mark.parametrize("kind", ["problem", "run"])
def test_a_move_by_name_is_told_where_the_name_stands(maps, kind):
    with pytest.raises(TypeError, match=r"`dx` must be a tensor; got dict.*moves="):
        maps[kind].estimate(Move([1], {"num": torch.ones(1, 1)}))
