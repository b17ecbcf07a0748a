"""Influence functions, the case of an isolated solution: dense formulas and real retraining."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, Remove
from solset.goals import PointLosses

POINTS = [3, 11]


def draw(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Truth:
    """Regularised logistic regression in a few lines of torch, which can be trained again."""

    def __init__(self, case, weight_decay: float) -> None:
        self.case, self.decay = case, weight_decay
        self.start = torch.cat([value.detach().reshape(-1) for value in case.model.parameters()])

    def losses(self, w: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(inputs @ w[:6].reshape(2, 3).T + w[6:], targets, reduction="none")

    def energy(self, w: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
        losses = self.losses(w, inputs, self.case.targets)
        return (weights * losses).sum() / weights.sum() + 0.5 * self.decay * w @ w

    def hessian(self) -> Tensor:
        ones = torch.ones(20, dtype=torch.float64)
        return torch.func.jacrev(torch.func.grad(self.energy))(self.start, self.case.inputs, ones)

    def retrained(
        self, *, factors: Mapping[int, float] | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        """Newton's method; the risk is strongly convex."""
        weights = torch.ones(20, dtype=torch.float64)
        for point, factor in (factors or {}).items():
            weights[point] += factor
        data, w = self.case.inputs if inputs is None else inputs, self.start
        for _ in range(30):
            gradient = torch.func.grad(self.energy)(w, data, weights)
            if gradient.norm() <= 1e-14:
                break
            w = w - torch.linalg.solve(
                torch.func.jacrev(torch.func.grad(self.energy))(w, data, weights), gradient
            )
        assert gradient.norm() <= 1e-13
        return w


@pytest.fixture
def truth(logistic) -> Truth:
    return Truth(*logistic)


@pytest.fixture
def problem(logistic) -> Problem:
    case, weight_decay = logistic
    return case.problem(weight_decay=weight_decay)


@pytest.fixture
def tests() -> tuple[Tensor, Tensor]:
    return draw(2, 3, seed=1), torch.tensor([0, 1])


def reweighted(problem: Problem, points: list[int], factor: float) -> Tensor:
    """The change of the weights to first order, for points that count ``1 + factor`` times."""
    change = Remove(points)
    return problem.derivative(change)(-factor * change.direction(problem.risk())).min_norm().value


def test_of_moved_features_is_minus_h_inverse_b_dx(problem, truth):
    dx, inputs = draw(2, 3), truth.case.inputs

    def slope(moved: Tensor) -> Tensor:
        ones = torch.ones(20, dtype=torch.float64)
        x = inputs.index_copy(0, torch.tensor(POINTS), moved)
        return torch.func.grad(truth.energy)(truth.start, x, ones)

    B = torch.func.jacrev(slope)(inputs[POINTS]).flatten(1)
    expected = -torch.linalg.solve(truth.hessian(), B @ dx.reshape(-1))
    change = problem.estimate(Move(POINTS, dx)).min_norm().value - problem.weights()
    torch.testing.assert_close(change, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [-1.0, 0.3, 2.0])
def test_of_a_weight_is_minus_h_inverse_gradient(problem, truth, factor):
    def energy(factors: Tensor, w: Tensor) -> Tensor:
        return truth.energy(w, truth.case.inputs, factors)

    ones = torch.ones(20, dtype=torch.float64)
    slopes = torch.func.jacrev(torch.func.grad(energy, argnums=1))(ones, truth.start)
    expected = -factor * torch.linalg.solve(truth.hessian(), slopes[:, POINTS].sum(dim=1))
    torch.testing.assert_close(reweighted(problem, POINTS, factor), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_real_reweighting_differs_by_the_square_of_the_weight(problem, truth, sign):
    sizes = (0.08, 0.04, 0.02, 0.01)
    errors = []
    for size in sizes:
        actual = truth.retrained(factors=dict.fromkeys(POINTS, sign * size))
        predicted = problem.weights() + reweighted(problem, POINTS, sign * size)
        errors.append(float((predicted - actual).norm()))
    slope = math.log(errors[0] / errors[-1]) / math.log(sizes[0] / sizes[-1])
    assert abs(slope - 2.0) <= 0.1


def test_real_feature_moves_differ_by_the_square_of_the_step(problem, truth):
    sizes, dx, errors = (0.04, 0.02, 0.01, 0.005), draw(2, 3), []
    for size in sizes:
        moved = truth.case.inputs.index_add(0, torch.tensor(POINTS), size * dx)
        predicted = problem.estimate(Move(POINTS, size * dx)).min_norm().value
        errors.append(float((predicted - truth.retrained(inputs=moved)).norm()))
    slope = math.log(errors[0] / errors[-1]) / math.log(sizes[0] / sizes[-1])
    assert abs(slope - 2.0) <= 0.1


@pytest.mark.parametrize("factor", [-1.0, -0.5, 3.0])
def test_for_a_quadratic_risk_the_error_is_the_leverage(factor):
    # H δ + ε (L_i'(w̄) + 2 x xᵀ δ) = 0 has the solution (first order) / (1 + ε h), h = 2 xᵀH⁻¹x.
    inputs, targets, weight_decay, i = draw(8, 3), draw(8, 1, seed=2), 0.8, 5
    H = 2 * inputs.T @ inputs + weight_decay * torch.eye(3, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.solve(H, 2 * inputs.T @ targets).T)
    problem = Problem(model, nn.MSELoss(reduction="sum"), inputs, targets, weight_decay=weight_decay)
    x, y = inputs[i], targets[i]
    again = H + factor * 2 * torch.outer(x, x)
    actual = torch.linalg.solve(again, (2 * (inputs.T @ targets)[:, 0] + factor * 2 * y * x))
    leverage = 2 * x @ torch.linalg.solve(H, x)
    predicted, change = reweighted(problem, [i], factor), actual - problem.weights()
    torch.testing.assert_close(predicted / (1 + factor * leverage), change, rtol=0, atol=1e-12)


def test_removal_finds_the_points_whose_leaving_out_matters_most(problem, truth):
    predicted = [reweighted(problem, [i], -1.0) for i in range(20)]
    actual = [truth.retrained(factors={i: -1.0}) - truth.start for i in range(20)]
    lengths = torch.stack([torch.stack(changes).norm(dim=1) for changes in (predicted, actual)])
    guess, truth_of_it = (set(row.topk(5).indices.tolist()) for row in lengths)
    assert guess == truth_of_it
    assert torch.corrcoef(lengths)[0, 1] > 0.99


def test_the_worth_of_points_is_the_dense_formula(problem, truth, tests):
    test_gradients = torch.func.jacrev(truth.losses)(truth.start, *tests)
    each = torch.func.jacrev(truth.losses)(truth.start, truth.case.inputs, truth.case.targets)
    gradients = (each - each.mean(dim=0)) / 20  # the mean is over the others
    expected = test_gradients @ torch.linalg.solve(truth.hessian(), gradients.T)
    torch.testing.assert_close(-problem.attribute(PointLosses(*tests)).weights, expected, rtol=0, atol=1e-12)


def test_the_worth_of_points_is_the_slope_of_real_retraining(problem, truth, tests):
    step, worth = 1e-4, problem.attribute(PointLosses(*tests)).weights
    for i in (0, 11):
        less, more = (truth.losses(truth.retrained(factors={i: s * step}), *tests) for s in (-1.0, 1.0))
        torch.testing.assert_close(worth[:, i], (more - less) / (2 * step), rtol=1e-6, atol=1e-9)


def test_the_worth_of_features_is_the_dense_formula(problem, truth, tests):
    ones = torch.ones(20, dtype=torch.float64)
    B = torch.func.jacrev(torch.func.grad(truth.energy), argnums=1)(truth.start, truth.case.inputs, ones)
    adjoints = torch.linalg.solve(truth.hessian(), torch.func.jacrev(truth.losses)(truth.start, *tests).T)
    expected = -torch.einsum("pnd,pt->tnd", B, adjoints)
    features = problem.attribute(PointLosses(*tests)).features
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)


def test_the_worth_of_features_is_the_slope_of_real_retraining(problem, truth, tests):
    step, direction = 1e-4, draw(20, 3, seed=9)
    less, more = (
        truth.losses(truth.retrained(inputs=truth.case.inputs + s * step * direction), *tests)
        for s in (-1.0, 1.0)
    )
    slope = torch.einsum("tnd,nd->t", problem.attribute(PointLosses(*tests)).features, direction)
    torch.testing.assert_close(slope, (more - less) / (2 * step), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("inputs", "targets", "says"),
    [
        (draw(2, 3), torch.tensor([0]), r"`targets` must be one per input \(2\); got 1"),
        (draw(0, 3), torch.tensor([], dtype=torch.long), "`inputs` must be one point or more"),
        (draw(1, 4), torch.tensor([0]), r"`inputs` must be of shape \(1, 3\).*; got shape \(1, 4\)"),
        (draw(1, 3).float(), torch.tensor([0]), "`inputs` must be torch.float64 on cpu; got torch.float32"),
        (draw(1, 3) / 0, torch.tensor([0]), "`inputs` must be finite; got NaN or infinite"),
    ],
)
def test_bad_test_points_are_refused(problem, inputs, targets, says):
    with pytest.raises(ValueError, match=says):
        problem.attribute(PointLosses(inputs, targets))
