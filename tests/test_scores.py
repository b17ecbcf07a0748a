"""Influence functions: the non-singular special case, against dense formulas and real retraining."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from solset import Problem, SolsetWarning
from solset.scores import Moved, Reweighted, feature_scores, influence, removal_scores, removed

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
        return (weights * losses).sum() / len(losses) + 0.5 * self.decay * w @ w

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


def test_of_moved_features_is_minus_h_inverse_b_dx(problem, truth):
    dx, inputs = draw(2, 3), truth.case.inputs

    def slope(moved: Tensor) -> Tensor:
        ones = torch.ones(20, dtype=torch.float64)
        x = inputs.index_copy(0, torch.tensor(POINTS), moved)
        return torch.func.grad(truth.energy)(truth.start, x, ones)

    B = torch.func.jacrev(slope)(inputs[POINTS]).flatten(1)
    expected = -torch.linalg.solve(truth.hessian(), B @ dx.reshape(-1))
    found = influence(problem, Moved(POINTS, dx)).value - problem.weights()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [-1.0, 0.3, 2.0])
def test_of_a_weight_is_minus_h_inverse_gradient(problem, truth, factor):
    def chosen(w: Tensor) -> Tensor:
        return truth.losses(w, truth.case.inputs[POINTS], truth.case.targets[POINTS]).sum() / 20

    expected = -factor * torch.linalg.solve(truth.hessian(), torch.func.grad(chosen)(truth.start))
    found = influence(problem, Reweighted(POINTS, factor)).value - problem.weights()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_removal_is_a_weight_of_nothing():
    assert removed(POINTS) == Reweighted(POINTS, -1.0)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_real_reweighting_differs_by_the_square_of_the_weight(problem, truth, sign):
    sizes = (0.08, 0.04, 0.02, 0.01)
    errors = []
    for size in sizes:
        actual = truth.retrained(factors=dict.fromkeys(POINTS, sign * size))
        predicted = influence(problem, Reweighted(POINTS, sign * size)).value
        errors.append(float((predicted - actual).norm()))
    slope = math.log(errors[0] / errors[-1]) / math.log(sizes[0] / sizes[-1])
    assert abs(slope - 2.0) <= 0.1


def test_real_feature_moves_differ_by_the_square_of_the_step(problem, truth):
    sizes, dx, errors = (0.04, 0.02, 0.01, 0.005), draw(2, 3), []
    for size in sizes:
        moved = truth.case.inputs.index_add(0, torch.tensor(POINTS), size * dx)
        predicted = influence(problem, Moved(POINTS, size * dx)).value
        errors.append(float((predicted - truth.retrained(inputs=moved)).norm()))
    slope = math.log(errors[0] / errors[-1]) / math.log(sizes[0] / sizes[-1])
    assert abs(slope - 2.0) <= 0.1


@pytest.mark.parametrize("factor", [-1.0, -0.5, 3.0])
def test_for_a_quadratic_risk_the_error_is_the_leverage(factor):
    # H δ + ε α (L_i'(w̄) + 2 x xᵀ δ) = 0 has the solution (first order) / (1 + ε h), h = 2α xᵀH⁻¹x.
    inputs, targets, weight_decay, i = draw(8, 3), draw(8, 1, seed=2), 0.1, 5
    H = 2 / 8 * inputs.T @ inputs + weight_decay * torch.eye(3, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.solve(H, 2 / 8 * inputs.T @ targets).T)
    problem = Problem(model, nn.MSELoss(), inputs, targets, weight_decay=weight_decay)
    predicted = influence(problem, Reweighted([i], factor)).value - problem.weights()
    x, y = inputs[i], targets[i]
    again = H + factor * 2 / 8 * torch.outer(x, x)
    actual = torch.linalg.solve(again, (2 / 8 * (inputs.T @ targets)[:, 0] + factor * 2 / 8 * y * x))
    leverage = 2 / 8 * x @ torch.linalg.solve(H, x)
    change = actual - problem.weights()
    torch.testing.assert_close(predicted / (1 + factor * leverage), change, rtol=0, atol=1e-12)


def test_removal_finds_the_points_whose_leaving_out_matters_most(problem, truth):
    predicted = [influence(problem, removed([i])).value - problem.weights() for i in range(20)]
    actual = [truth.retrained(factors={i: -1.0}) - truth.start for i in range(20)]
    lengths = torch.stack([torch.stack(found).norm(dim=1) for found in (predicted, actual)])
    guess, truth_of_it = (set(row.topk(5).indices.tolist()) for row in lengths)
    assert guess == truth_of_it
    assert torch.corrcoef(lengths)[0, 1] > 0.99


def test_scores_of_removal_are_the_dense_formula(problem, truth, tests):
    test_gradients = torch.func.jacrev(truth.losses)(truth.start, *tests)
    gradients = torch.func.jacrev(truth.losses)(truth.start, truth.case.inputs, truth.case.targets) / 20
    expected = test_gradients @ torch.linalg.solve(truth.hessian(), gradients.T)
    torch.testing.assert_close(removal_scores(problem, *tests), expected, rtol=0, atol=1e-12)


def test_scores_of_removal_are_slopes_of_real_retraining(problem, truth, tests):
    step = 1e-4
    for i in (0, 11):
        less, more = (truth.losses(truth.retrained(factors={i: s * step}), *tests) for s in (-1.0, 1.0))
        slope = (less - more) / (2 * step)  # its weight falls: the direction of a removal
        torch.testing.assert_close(removal_scores(problem, *tests)[:, i], slope, rtol=1e-6, atol=1e-9)


def test_scores_of_features_are_the_dense_formula(problem, truth, tests):
    ones = torch.ones(20, dtype=torch.float64)
    B = torch.func.jacrev(torch.func.grad(truth.energy), argnums=1)(truth.start, truth.case.inputs, ones)
    adjoints = torch.linalg.solve(truth.hessian(), torch.func.jacrev(truth.losses)(truth.start, *tests).T)
    expected = -torch.einsum("pnd,pt->tnd", B, adjoints)
    found = feature_scores(problem, *tests)
    assert found.shape == (2, 20, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_scores_of_features_are_slopes_of_real_retraining(problem, truth, tests):
    step, direction = 1e-4, draw(20, 3, seed=9)
    less, more = (
        truth.losses(truth.retrained(inputs=truth.case.inputs + s * step * direction), *tests)
        for s in (-1.0, 1.0)
    )
    slope = torch.einsum("tnd,nd->t", feature_scores(problem, *tests), direction)
    torch.testing.assert_close(slope, (more - less) / (2 * step), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_scores_agree_with_the_influence_of_each_point(build_case, minimise, reduction):
    # Several outputs, a mean or a sum: the score is ∇ℓ_t · (weights without the point - weights).
    case = build_case("tanh-ce-mean" if reduction == "mean" else "conv-ce-sum")
    risk = minimise(case.risk(weight_decay=0.3))
    named = dict(zip(risk.layout.shapes, risk.layout.split(risk.weights), strict=True))
    case.model.load_state_dict({**case.model.state_dict(), **named})
    problem = case.problem(weight_decay=0.3)
    test_inputs, test_targets = case.inputs[:1] + 0.1, case.targets[:1]

    def loss(w: Tensor) -> Tensor:
        return case.loss(risk.forward(risk.layout.split(w), test_inputs), test_targets)

    slope = torch.func.grad(loss)(problem.weights())
    expected = [slope @ (influence(problem, removed([i])).value - problem.weights()) for i in range(6)]
    found = removal_scores(problem, test_inputs, test_targets)
    torch.testing.assert_close(found[0], torch.stack(expected), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("change", [Moved([0], torch.ones(1, 3, dtype=torch.float64)), removed([0])])
def test_a_singular_hessian_warns_even_where_the_system_has_a_solution(fitted, change):
    problem = fitted.problem()  # 12 rows, 74 weights
    with pytest.warns(SolsetWarning, match="'converged'.*rank 12 of 74.*one element of a set"):
        found = influence(problem, change)
    assert found.status == "converged"


def test_a_test_loss_that_varies_on_the_set_warns(fitted):
    with pytest.warns(SolsetWarning, match="'inconsistent'.*rank 12 of 74.*or none"):
        removal_scores(fitted.problem(), draw(1, 3), draw(1, 2))


@pytest.mark.parametrize("scores", [removal_scores, feature_scores])
@pytest.mark.parametrize(
    ("inputs", "targets", "says"),
    [
        (draw(2, 3), torch.tensor([0]), "one target per test input; got 2 inputs, 1 targets"),
        (draw(0, 3), torch.tensor([], dtype=torch.long), "one target per test input; got 0 inputs"),
        (draw(1, 4), torch.tensor([0]), r"of shape \(1, 3\).*; got shape \(1, 4\)"),
        (draw(1, 3).float(), torch.tensor([0]), "torch.float64 on cpu; got torch.float32"),
        (draw(1, 3) / 0, torch.tensor([0]), "finite; got NaN or infinite"),
    ],
)
def test_bad_test_points_are_refused(problem, scores, inputs, targets, says):
    with pytest.raises(ValueError, match=f"`inputs` must be {says}"):
        scores(problem, inputs, targets)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (removed([20]), r"`points` must be in 0\.\.19; got \[20\]"),
        (removed([]), "`points` must be at least one index"),
        (Reweighted([1, 1], 0.5), r"`points` must be distinct; got \[1\] repeated"),
        (Moved([1], draw(2, 3)), r"`dx` must be of shape \(1, 3\)"),
    ],
)
def test_bad_changes_are_refused(problem, change, says):
    with pytest.raises(ValueError, match=says):
        influence(problem, change)
