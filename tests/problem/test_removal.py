"""Points that are left out at a stationary point: the derivative of reweighting, and real retraining."""

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, Remove, Reweight, retrain
from solset.changes import Change
from solset.linalg import LinearOperator
from solset.operators import PointGradients
from solset.retraining import Newton
from solset.risk import EmpiricalRisk


def ridge(decay: float = 0.1) -> tuple[Tensor, Tensor, nn.Linear]:
    """Ridge regression at its closed-form minimum."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(15, 4, dtype=torch.float64, generator=generator)
    y = torch.randn(15, 1, dtype=torch.float64, generator=generator)
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    model.weight.data = minimum(x, y, torch.ones(15, dtype=torch.float64), decay)[None]
    return x, y, model


def minimum(x: Tensor, y: Tensor, factors: Tensor, decay: float) -> Tensor:
    """The minimum of ``Σ a_i (x_i w - y_i)² / Σ a_i + decay/2 ‖w‖²``."""
    weighted = factors[:, None] * x / factors.sum()
    return torch.linalg.solve(2 * weighted.T @ x + decay * torch.eye(4), 2 * weighted.T @ y).flatten()


def without(points: list[int], step: float) -> Tensor:
    factors = torch.ones(15, dtype=torch.float64)
    factors[points] -= step
    return factors


@pytest.mark.parametrize("optimality", ["stationary", "gauss_newton"])
def test_removal_is_the_derivative_of_reweighting(optimality):
    x, y, model = ridge()
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=0.1)
    points, step = [2, 9], 1e-5
    estimate = problem.estimate(Remove(points), optimality=optimality, order="first")
    predicted = estimate.min_norm().value - problem.weights()
    ends = [minimum(x, y, without(points, sign * step), 0.1) for sign in (1, -1)]
    torch.testing.assert_close(predicted, (ends[0] - ends[1]) / (2 * step), rtol=1e-8, atol=1e-10)


def test_retraining_without_points_ends_at_the_minimum_of_the_others():
    x, y, model = ridge()
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=0.1)
    rest = [i for i in range(15) if i not in {2, 9}]
    expected = minimum(x[rest], y[rest], torch.ones(13, dtype=torch.float64), 0.1)
    torch.testing.assert_close(
        retrain(problem, Remove([2, 9]), method=Newton()).weights, expected, rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_point_gradients_are_those_of_single_losses(reduction):
    x, y, model = ridge()
    problem = Problem(model, nn.MSELoss(reduction=reduction), x, y, gradient_tol=float("inf"))
    operator: LinearOperator = PointGradients(problem.risk(), problem.risk().select([3, 7]))
    single = torch.stack([2 * (x[k] @ model.weight[0] - y[k, 0]) * x[k] for k in range(15)], dim=1)
    expected = (
        single[:, [3, 7]] if reduction == "sum" else (single[:, [3, 7]] - single.mean(dim=1)[:, None]) / 15
    )
    torch.testing.assert_close(operator @ torch.eye(2, dtype=torch.float64), expected.detach())
    torch.testing.assert_close(operator.T @ torch.eye(4, dtype=torch.float64), expected.detach().T)


@pytest.mark.parametrize("optimality", ["auto", "interpolating"])
def test_at_a_fitted_point_the_weights_stay_a_solution_and_the_set_grows(optimality):
    x, _, model = ridge()
    with torch.no_grad():
        problem = Problem(model, nn.MSELoss(), x[:3], model(x[:3]))
    before = problem.estimate(Move([1], torch.zeros(1, 4, dtype=torch.float64)), optimality=optimality)
    estimate = problem.estimate(Remove([1]), optimality=optimality)
    assert estimate.distance(problem.weights()) == 0.0
    assert estimate.dimension == before.dimension + 1 == 2
    answer = estimate.min_norm()
    assert "stay a solution, at distance 0" in answer.message
    assert "1 dimensions" in answer.message
    torch.testing.assert_close(answer.value, problem.weights(), rtol=0, atol=0)
    direction = estimate.directions(torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(x[[0, 2]] @ direction, torch.zeros(2, 4, dtype=torch.float64))
    assert int(torch.linalg.matrix_rank(direction)) == 2


def test_rows_that_leave_are_dropped_and_no_other_is_computed_again(monkeypatch):
    x, _, model = ridge()
    with torch.no_grad():
        problem = Problem(model, nn.MSELoss(), x[:3], model(x[:3]))
    problem.estimate(Remove([1])).min_norm()
    passes, returned = [], EmpiricalRisk.returned
    monkeypatch.setattr(
        EmpiricalRisk, "returned", lambda self, w, x: (passes.append(len(x)), returned(self, w, x))[1]
    )
    for point in (0, 2):
        assert problem.estimate(Remove([point])).dimension == 2
    assert not passes


def test_removal_names_its_points():
    assert repr(Remove([7])) == "Remove(points 7)"
    assert isinstance(Remove([7]), Change)
    x, y, model = ridge()
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=0.1)
    for points, words in ((range(15), "fewer than all"), ([15], r"0\.\.14"), ([1, 1], "distinct")):
        with pytest.raises(ValueError, match=f"`points`.*{words}"):
            problem.estimate(Remove(points))


def test_a_factor_of_minus_one_is_a_removal() -> None:
    x, y, model = ridge()
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=0.1)
    weighed, removed = (problem.estimate(one).min_norm().value for one in (Reweight([3], -1.0), Remove([3])))
    torch.testing.assert_close(weighed, removed, rtol=1e-10, atol=1e-12)
