"""Leave-one-out: the formula of the hat matrix for ridge regression, and real retraining for the others."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from solset import Problem, Remove, SolsetWarning
from solset.problem import Order, Proximal
from solset.removal import leave_one_out
from solset.solvers import MINRES, Dense
from support.logistic import cancer, logistic_minimum


def regression(n: int = 60, d: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    return x, x @ torch.ones(d, 1, dtype=torch.float64) + torch.randn(
        n, 1, dtype=torch.float64, generator=generator
    )


def ridge(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """The minimum of ``Σ (x_i w - y_i)² + penalty ‖w‖²``."""
    return torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)


def hat_residuals(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """``e_i / (1 - h_i)`` and ``h_i`` of ridge regression."""
    inverse = torch.linalg.inv(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype))
    hats = torch.einsum("ni,ij,nj->n", x, inverse, x)
    return (y - x @ ridge(x, y, penalty)).flatten() / (1 - hats), hats


def linear(x: Tensor, weights: Tensor) -> nn.Linear:
    model = nn.Linear(x.shape[1], 1, bias=False, dtype=torch.float64)
    model.weight.data = weights.T.clone()
    return model


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_residuals_of_ridge_are_those_of_the_hat_matrix_with_one_decomposition(reduction, monkeypatch):
    x, y = regression(500)
    n, decay = len(x), 0.3 if reduction == "mean" else 20.0
    alone = decay * (n - 1) / 2 if reduction == "mean" else decay / 2  # beside a sum over the other points
    whole = decay * n / 2 if reduction == "mean" else decay / 2
    problem = Problem(
        linear(x, ridge(x, y, whole)), nn.MSELoss(reduction=reduction), x, y, weight_decay=decay
    )
    decompositions, prepare = [], Dense.prepare
    monkeypatch.setattr(Dense, "prepare", lambda self, a: (decompositions.append(a), prepare(self, a))[1])
    result = leave_one_out(problem)
    expected, hats = hat_residuals(x, y, alone)
    assert result.residuals is not None
    torch.testing.assert_close(result.residuals.flatten(), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.leverages, hats, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.losses, expected**2, rtol=1e-9, atol=1e-12)
    assert len(decompositions) == 1
    assert result.status == "converged"
    assert len(result.to_dataframe()) == 500
    assert "500 points" in repr(result)


def test_with_the_divisor_before_the_formula_is_that_of_the_problem_itself():
    x, y = regression(30)
    problem = Problem(linear(x, ridge(x, y, 0.15 * 30)), nn.MSELoss(), x, y, weight_decay=0.3)
    for solver in (None, MINRES(tol=1e-13)):
        result = leave_one_out(problem, divisor="before", solver=solver)
        assert result.residuals is not None
        expected, _ = hat_residuals(x, y, 0.15 * 30)
        torch.testing.assert_close(result.residuals.flatten(), expected, rtol=1e-9, atol=1e-10)


def test_last_point_of_a_binary_class_is_named_for_a_loss_without_a_minimum():
    x, y = regression(30, 2)
    labels = torch.zeros(30, 1, dtype=torch.float64)
    labels[4] = 1.0
    model = nn.Linear(2, 1, dtype=torch.float64)
    logistic = Problem(model, nn.BCEWithLogitsLoss(), x, labels, gradient_tol=float("inf"))
    with pytest.warns(SolsetWarning, match="no point with target 1 is left"):
        logistic.estimate(Remove([4]))
    with pytest.warns(SolsetWarning, match="point 4"):
        assert 4 in leave_one_out(logistic).unanswered
    squared = Problem(linear(x, ridge(x, labels, 0.0)), nn.MSELoss(), x, labels)
    assert leave_one_out(squared).unanswered == []


def test_some_points_and_points_by_another_solver_have_the_same_answers():
    x, y = regression(20)
    problem = Problem(linear(x, ridge(x, y, 1.0)), nn.MSELoss(), x, y, weight_decay=0.1)
    every, some = leave_one_out(problem), leave_one_out(problem, [3, 17], solver=MINRES(tol=1e-12))
    torch.testing.assert_close(some.outputs, every.outputs[[3, 17]], rtol=1e-8, atol=1e-9)
    assert some.points == [3, 17]


def test_newton_steps_of_a_nonlinear_network_are_those_of_single_removals():
    x, y = regression(12, 3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    problem = Problem(model, nn.MSELoss(), x, 0.1 * y, weight_decay=2.0, gradient_tol=float("inf"))
    for optimality in ("stationary", "gauss_newton"):
        result = leave_one_out(problem, [2, 5], optimality=optimality)
        for k, i in enumerate([2, 5]):
            weights = problem.estimate(Remove([i]), optimality=optimality).min_norm().value
            expected = problem.risk().at(weights).select([i]).outputs()[0]
            torch.testing.assert_close(result.outputs[k], expected)


def test_a_step_that_is_longer_than_the_weights_is_in_doubt():
    x, y = regression(12, 3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    problem = Problem(model, nn.MSELoss(), x, 100 * y, weight_decay=1e-3, gradient_tol=float("inf"))
    with pytest.warns(SolsetWarning, match="the step is in doubt for 2 points"):
        result = leave_one_out(problem, [2, 5], optimality="gauss_newton")
    assert "larger than the weights" in result.doubts[2]
    assert result.status == "doubtful"


def test_point_without_a_finite_answer_is_named_and_has_no_number():
    x, y = regression(20)
    x[:, 4] = 0.0
    x[7, 4] = 1.0
    problem = Problem(linear(x, torch.linalg.lstsq(x, y).solution), nn.MSELoss(), x, y)
    with pytest.warns(SolsetWarning, match="without point 7 there is no finite answer"):
        result = leave_one_out(problem)
    assert result.unanswered == [7]
    assert result.status == "indefinite"
    assert bool(torch.isnan(result.losses[7]))
    assert int(torch.isfinite(result.losses).sum()) == 19
    assert result.leverages[7] == pytest.approx(1.0)


@pytest.mark.parametrize(("decay", "names"), [(0.0, True), (0.1, False)])
def test_last_point_of_a_class_is_named_unless_weights_decay(decay, names):
    x, y = regression(30, 2)
    labels = (y.flatten() > 0).long()
    labels[4] = 2
    model = nn.Linear(2, 3, dtype=torch.float64)
    options: dict[str, Any] = {"weight_decay": decay, "gradient_tol": float("inf")}
    problem = Problem(model, nn.CrossEntropyLoss(), x, labels, **options)
    if not names:
        assert leave_one_out(problem).unanswered == []
        return
    with pytest.warns(SolsetWarning, match="point 4"):
        assert 4 in leave_one_out(problem).unanswered


def test_what_is_left_out_must_leave_something():
    x, y = regression(1, 1)
    problem = Problem(linear(x, y / x), nn.MSELoss(), x, y)
    with pytest.raises(ValueError, match="two points or more"):
        leave_one_out(problem)
    x, y = regression(4, 2)
    problem = Problem(linear(x, ridge(x, y, 1.0)), nn.MSELoss(), x, y, gradient_tol=float("inf"))
    with pytest.raises(ValueError, match="`optimality` must be 'stationary', 'gauss_newton' or"):
        leave_one_out(problem, optimality="interpolating")
    with pytest.raises(ValueError, match=r"0\.\.3"):
        leave_one_out(problem, [4])


@pytest.mark.slow
def test_newton_steps_of_logistic_regression_come_close_to_real_retraining():
    problem, x, y = cancer(decay := 0.1)
    assert float(problem.gradient().norm()) < 1e-10
    errors: dict[Order, list[float]] = {"newton": [], "first": []}
    for i in torch.randperm(569, generator=torch.Generator().manual_seed(0))[:100].tolist():
        stays = torch.arange(569) != i
        truth = logistic_minimum(x[stays], y[stays], decay, problem.weights()) - problem.weights()
        for order, listed in errors.items():
            value = problem.estimate(Remove([i]), order=order).min_norm().value - problem.weights()
            listed.append(float((value - truth).norm() / truth.norm()))
    newton, first = (float(torch.tensor(listed).median()) for listed in errors.values())
    assert newton <= 1e-3
    assert newton <= first / 10


def test_losses_after_a_tenth_leaves_are_predicted():
    problem, x, y = cancer(decay := 0.1)
    stays = torch.ones(569, dtype=torch.bool)
    removed = torch.randperm(569, generator=torch.Generator().manual_seed(1))[:57]
    stays[removed] = False
    truth = logistic_minimum(x[stays], y[stays], decay, problem.weights())
    value = problem.estimate(Remove(removed.tolist())).min_norm().value
    loss = nn.BCEWithLogitsLoss(reduction="none")
    start, actual, predicted = (loss(x @ w, y)[removed] for w in (problem.weights(), truth, value))
    changes = torch.stack([actual - start, predicted - start])
    assert float(torch.corrcoef(changes)[0, 1]) >= 0.999


def test_weights_that_are_not_stationary_are_answered_by_the_proximal_map():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double().eval()
    x = torch.randn(8, 3, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem = Problem(model, nn.MSELoss(), x, x[:, :1])
        chosen = leave_one_out(problem, [2, 5], progress=False)
        asked = leave_one_out(problem, [2, 5], optimality=Proximal(), progress=False)
    assert torch.equal(chosen.outputs, asked.outputs)
    assert "leverage" not in repr(chosen)
