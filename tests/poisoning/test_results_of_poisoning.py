"""Results of poisoning print as one line, have rows, and give their weights to a copy of the model."""

import pytest
import torch
from torch import nn

from solset import Problem, design_poisoning
from solset.errors import Status
from solset.goals import WeightFunction
from solset.poisoning import Ascent, Budget, MarginReason, adjoint_gradient, judge_poisoning, stability_margin
from solset.retraining import GradientDescent

POINTS = [1, 4]
GOAL = WeightFunction(lambda weights: weights.square().sum(), name="square")


@pytest.fixture
def poisoning(fitted):
    return design_poisoning(
        fitted.problem(), GOAL, Budget(POINTS, 0.05), ascent=Ascent(max_rounds=2, max_steps=1)
    )


def test_a_poisoning(fitted, poisoning):
    assert repr(poisoning).startswith("Poisoning(goal ")
    assert repr(poisoning).endswith(f"{poisoning.reason})")
    assert poisoning.status in {Status.CONVERGED, Status.MAX_STEPS}
    assert [row["number"] for row in poisoning.rows()] == [one.number for one in poisoning.course]
    changed = poisoning.apply_to(fitted.model)
    assert torch.equal(torch.cat([w.flatten() for w in changed.parameters()]), poisoning.weights)


def test_an_adjoint_gradient(fitted):
    adjoint = adjoint_gradient(fitted.problem(), GOAL, points=POINTS)
    first, size = adjoint.ranking()[0]
    assert repr(adjoint).startswith(f"AdjointGradient({adjoint.status}, goal ")
    assert f"point {first} changes it most" in repr(adjoint)
    assert adjoint.rows()[0] == {"point": first, "size": size}


def test_a_judgement(fitted, poisoning):
    judged = judge_poisoning(
        fitted.problem(), GOAL, poisoning, methods={"descent": GradientDescent(20, 0.05)}
    )
    word = "confirmed by 1" if judged.is_confirmed else "not confirmed by 0"
    assert repr(judged).startswith(f"Judgement({word} of 1 retrainings; ")
    (row,) = judged.rows()
    assert (row["name"], row["change"]) == ("descent", judged.verdicts[0].change)


def test_a_margin():
    model, eye = nn.Linear(2, 2, bias=False).double().eval(), torch.eye(2, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(eye)
    problem = Problem(model, nn.MSELoss(), eye, eye, target_moves=False)
    margin = stability_margin(problem, eye[0] + 0.5 * eye[1], Budget([0], 1e-3), ascent=None)
    assert repr(margin).startswith(f"PredictionMargin(class {margin.label} → {margin.rival} at radius ")
    assert margin.reason is MarginReason.TOO_SMALL
    assert margin.message in repr(margin)
    assert len(margin.rows()) == len(margin.trials)
