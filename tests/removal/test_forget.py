"""Points that are forgotten: the gradient of what is left, real retraining, and points that cannot be."""

from dataclasses import replace

import pytest
import torch
from tests.removal.test_leave_one_out import linear, regression, ridge
from torch import nn

from solset import Problem, SolsetWarning
from solset.removal import forget
from solset.retraining import Newton


def logistic(decay: float = 0.05) -> tuple[Problem, nn.Module]:
    x, y = regression(40, 3)
    model = nn.Linear(3, 1, dtype=torch.float64)
    labels = (y > 0).double()
    start = Problem(model, nn.BCEWithLogitsLoss(), x, labels, weight_decay=decay, gradient_tol=float("inf"))
    trained = Newton(gradient_tol=1e-13).run(start.risk(), start.risk().outputs).apply_to(model)
    return start.with_model(trained), trained


def test_a_quadratic_risk_is_forgotten_to_rounding():
    x, y = regression(30)
    problem = Problem(linear(x, ridge(x, y, 3.0)), nn.MSELoss(reduction="sum"), x, y, weight_decay=6.0)
    result = forget(problem, [1, 5, 8], retrain=True)
    rest = [i for i in range(30) if i not in {1, 5, 8}]
    torch.testing.assert_close(result.weights, ridge(x[rest], y[rest], 3.0).flatten(), rtol=1e-10, atol=1e-12)
    assert result.gradient_before > 1e-2
    assert result.gradient_after < 1e-12 * result.gradient_before + 1e-11
    assert result.status == "converged"
    assert result.message == ""
    assert result.distance_after is not None
    assert result.distance_before is not None
    assert result.distance_after < 1e-9 < result.distance_before


def test_gradient_of_what_is_left_falls_and_the_model_is_a_copy():
    problem, model = logistic()
    before = model.get_parameter("weight").clone()
    result = forget(problem, [0, 3])
    assert result.gradient_after < 0.05 * result.gradient_before
    assert result.distance_after is None
    changed = result.apply_to(model)
    torch.testing.assert_close(changed.get_parameter("weight").flatten(), result.weights[:3])
    torch.testing.assert_close(model.get_parameter("weight"), before, rtol=0, atol=0)
    assert "gradient" in repr(result)
    assert result.to_dict()["points"] == [0, 3]


def test_a_step_that_is_too_short_is_named():
    problem, _ = logistic(decay=1e-4)
    positive = [i for i in range(40) if float(problem.risk().points[[i]][1]) == 1.0]
    with pytest.warns(SolsetWarning):
        result = forget(problem, positive[1:])
    assert result.status != "converged"
    assert "is left: the minimum without these points is farther" in result.message


def test_a_step_from_weights_that_are_not_stationary_is_judged_by_what_the_removal_adds():
    """The gradient that training left is larger than that of the points, and must not hide theirs."""
    x, y = regression(40, 3)
    model, labels = nn.Linear(3, 1, dtype=torch.float64), (y > 0).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -1.5, 0.9]]))
        model.bias.zero_()
    with pytest.warns(SolsetWarning, match="not stationary"):
        problem = Problem(model, nn.BCEWithLogitsLoss(), x, labels)
    with pytest.warns(SolsetWarning, match=r"of the gradient that the removal adds is left"):
        result = forget(problem, list(range(10)))
    rest = list(range(10, 40))
    slopes = []
    for weights in (problem.weights(), result.weights):
        w = weights.clone().requires_grad_()
        for rows in (range(40), rest):
            out = x[list(rows)] @ w[:3] + w[3]
            loss = nn.functional.binary_cross_entropy_with_logits(out, labels[list(rows)].flatten())
            slopes.append(torch.autograd.grad(loss, w)[0])
    share = float((slopes[3] - slopes[0]).norm() / (slopes[1] - slopes[0]).norm())
    assert result.share_left == pytest.approx(share, rel=1e-8)
    assert share > 1 > result.gradient_after / result.gradient_before
    assert result.status == "diverged"


def test_where_the_data_are_fitted_nothing_is_forgotten_and_it_is_said():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, dtype=torch.float64, generator=generator)
    model = nn.Linear(6, 1, dtype=torch.float64)
    with torch.no_grad():
        problem = Problem(model, nn.MSELoss(), x, model(x))
    with pytest.warns(SolsetWarning, match="nothing was forgotten"):
        result = forget(problem, [1])
    torch.testing.assert_close(result.weights, problem.weights(), rtol=0, atol=0)
    assert "stay a solution" in result.message
    assert result.status == "doubtful"


def test_what_speaks_against_the_step_is_in_the_status():
    problem, _ = logistic()
    result = forget(problem, [0])
    assert result.status == "converged"
    doubted = replace(result, solution=replace(result.solution, notes=("the step stands on a kink",)))
    assert doubted.status == "doubtful"
    assert "doubtful, 1 point" in repr(doubted)


@pytest.mark.parametrize(
    ("points", "words"), [([0, 0], "distinct"), ([40], r"0\.\.39"), (range(40), "fewer")]
)
def test_points_that_cannot_be_forgotten_are_refused(points: list[int], words: str):
    problem, _ = logistic()
    with pytest.raises(ValueError, match=f"`points`.*{words}"):
        forget(problem, list(points))
