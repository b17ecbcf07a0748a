"""The derivative of goals in all data at once: against closed forms, estimates, and dense algebra."""

import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, Remove, SolsetWarning, filters
from solset.goals import (
    HeldOutLoss,
    Margin,
    PointLosses,
    Prediction,
    SmoothedAUROC,
    WeightFunction,
)
from solset.poisoning import adjoint_gradient
from solset.solvers import CG, LSMR, MINRES, Dense


def draw(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


N, D = 9, 3
TESTS = draw(4, D, seed=1), draw(4, 1, seed=2)


@dataclass
class Ridge:
    """Ridge regression by its normal equations, as a function of everything that it takes from the data."""

    reduction: str = "mean"
    sample_weights: Tensor | None = None
    decay: float = 0.3

    def __post_init__(self) -> None:
        self.inputs, self.targets = draw(N, D), draw(N, 1, seed=3)

    def weights(self, x: Tensor, y: Tensor, factors: Tensor, decay: Tensor) -> Tensor:
        shares = factors if self.sample_weights is None else factors * self.sample_weights
        if self.reduction == "mean":
            shares = shares / shares.sum()
        hessian = 2 * x.T @ (shares.unsqueeze(1) * x) + decay * torch.eye(D, dtype=torch.float64)
        return torch.linalg.solve(hessian, 2 * x.T @ (shares.unsqueeze(1) * y)).squeeze(1)

    def truth(self, goal) -> tuple[Tensor, ...]:
        data = (
            self.inputs,
            self.targets,
            torch.ones(N, dtype=torch.float64),
            torch.tensor(self.decay, dtype=torch.float64),
        )
        leaves = [part.clone().requires_grad_() for part in data]
        return torch.autograd.grad(goal(self.weights(*leaves)), leaves)

    def problem(self) -> Problem:
        model = nn.Linear(D, 1, bias=False).double().eval()
        ones, decay = torch.ones(N, dtype=torch.float64), torch.tensor(self.decay, dtype=torch.float64)
        with torch.no_grad():
            model.weight.copy_(self.weights(self.inputs, self.targets, ones, decay).unsqueeze(0))
        return Problem(
            model,
            nn.MSELoss(reduction=self.reduction),
            self.inputs,
            self.targets,
            weight_decay=self.decay,
            sample_weights=self.sample_weights,
        )


def held_out(w: Tensor) -> Tensor:
    return (TESTS[0] @ w.unsqueeze(1) - TESTS[1]).square().mean()


@pytest.mark.parametrize("solver", [None, Dense(), CG(tol=1e-14), MINRES(tol=1e-14)], ids=repr)
@pytest.mark.parametrize("optimality", ["stationary", "gauss_newton"])
@pytest.mark.parametrize(
    "ridge",
    [Ridge(), Ridge("sum"), Ridge(sample_weights=draw(N, seed=5).abs()), Ridge("sum", draw(N, seed=5).abs())],
    ids=["mean", "sum", "weighted mean", "weighted sum"],
)
def test_of_ridge_regression_is_the_derivative_of_its_closed_form(ridge, optimality, solver):
    goal = HeldOutLoss(*TESTS, loss=nn.MSELoss())
    worth = ridge.problem().attribute(goal, optimality=optimality, solver=solver)
    features, targets, weights, decay = ridge.truth(held_out)
    torch.testing.assert_close(worth.features, features, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(worth.targets, targets, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(worth.weights, weights, rtol=1e-10, atol=1e-10)
    assert worth.decay == pytest.approx(float(decay), rel=1e-10)
    assert worth.status == "converged"
    assert worth.message == ""


def test_of_least_squares_of_minimum_norm_is_the_derivative_of_the_pseudo_inverse():
    inputs, targets = draw(3, 5), draw(3, 1, seed=3)
    model = nn.Linear(5, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_((torch.linalg.pinv(inputs) @ targets).T)
    tests = draw(4, 5, seed=1)
    leaves = [inputs.clone().requires_grad_(), targets.clone().requires_grad_()]
    truth = torch.autograd.grad((tests @ torch.linalg.pinv(leaves[0]) @ leaves[1]).square().mean(), leaves)
    goal = HeldOutLoss(tests, torch.zeros(4, 1, dtype=torch.float64))
    problem = Problem(model, nn.MSELoss(), inputs, targets)
    for solver in (None, LSMR(tol=1e-13)):
        optimality = "auto" if solver is None else "interpolating"
        worth = problem.attribute(goal, optimality=optimality, solver=solver)
        # The pseudo-inverse stays in the span of the rows, which turns; the nearest solution does not.
        kernel = torch.eye(5, dtype=torch.float64) - torch.linalg.pinv(inputs) @ inputs
        span = torch.eye(5, dtype=torch.float64) - kernel
        torch.testing.assert_close(worth.features @ span, truth[0] @ span, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(worth.targets, truth[1], rtol=1e-8, atol=1e-10)
        assert not worth.weights.any()
        assert worth.decay is None
        assert "stay a solution whatever each point counts" in worth.message
        assert "solutions differ in the goal to first order" in worth.message


@pytest.mark.parametrize("name", ["tanh-ce-mean", "conv-ce-sum", "tied-mse-mean", "grid-mse-sum"])
def test_is_the_adjoint_of_estimates(build_case, minimise, name):
    case = build_case(name)
    risk = minimise(case.risk(weight_decay=0.3))
    case.model.load_state_dict(
        {
            **case.model.state_dict(),
            **dict(zip(risk.layout.shapes, risk.layout.split(risk.weights), strict=True)),
        }
    )
    problem = case.problem(weight_decay=0.3)
    goal = HeldOutLoss(case.inputs[:3] + 0.1, case.targets[:3])
    worth = problem.attribute(goal, optimality="stationary")
    _, slope = goal.slope(problem.risk(), problem.weights())

    def along(change) -> float:
        element = problem.estimate(change, optimality="stationary", order="first").min_norm()
        return float(slope @ (element.value - problem.weights()))

    dx = draw(*case.inputs.shape)
    assert float((worth.features * dx).sum()) == pytest.approx(along(Move(None, dx)), rel=1e-9, abs=1e-10)
    removals = torch.tensor([along(Remove([i])) for i in range(len(case.inputs))], dtype=torch.float64)
    torch.testing.assert_close(-worth.weights, removals, rtol=1e-9, atol=1e-10)


@pytest.fixture
def linear(logistic) -> Problem:
    case, weight_decay = logistic
    return case.problem(weight_decay=weight_decay)


LABELS = torch.tensor([0, 1, 1, 0])
GOALS = {
    "losses": PointLosses(TESTS[0], LABELS),
    "predictions": Prediction(TESTS[0], output=[0, 1, 1, 0]),
    "margins": Margin(TESTS[0], LABELS),
}


@pytest.mark.parametrize("name", GOALS)
def test_a_block_is_its_goals_one_by_one(linear, name):
    block = linear.attribute(GOALS[name])
    values, bias = linear.weights()[:6].reshape(2, 3), linear.weights()[6:]
    outputs = TESTS[0] @ values.T + bias
    of_outputs = {
        "losses": lambda f: nn.functional.cross_entropy(f, LABELS, reduction="none"),
        "predictions": lambda f: f.gather(1, LABELS.unsqueeze(1)).squeeze(1),
        "margins": lambda f: f.log_softmax(1).exp().gather(1, LABELS.unsqueeze(1)).squeeze(1).logit(),
    }[name]
    torch.testing.assert_close(block.value, of_outputs(outputs))
    for i in range(4):
        one = linear.attribute(lambda model, i=i: of_outputs(model(TESTS[0]))[i])
        torch.testing.assert_close(block.weights[i], one.weights, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(block.features[i], one.features, rtol=1e-9, atol=1e-12)
        assert float(block.decay[i]) == pytest.approx(one.decay, rel=1e-9)
    several = linear.attribute([GOALS[name], lambda model: of_outputs(model(TESTS[0])).mean()])
    torch.testing.assert_close(several.weights[:4], block.weights)
    torch.testing.assert_close(several.weights[4], block.weights.mean(dim=0), rtol=1e-9, atol=1e-12)


def test_a_mean_over_a_test_set_is_one_solve(linear):
    counted = []

    class Counting(Dense):
        def prepare(self, operator):
            prepared = super().prepare(operator)
            solve = prepared.solve
            prepared.solve = lambda rhs: counted.append(rhs.shape) or solve(rhs)
            return prepared

    linear.attribute(HeldOutLoss(TESTS[0], LABELS), solver=Counting(), optimality="stationary")
    assert counted.count((8, 1)) == 1
    linear.attribute(PointLosses(TESTS[0], LABELS), solver=Counting(), optimality="stationary")
    assert counted.count((8, 4)) == 1


def test_a_smoothed_area_under_the_curve_orders_pairs(linear):
    is_positive = torch.tensor([True, False, True, False])
    goal = SmoothedAUROC(TESTS[0], is_positive, output=1, temperature=1e-3)
    scores = linear.risk().model(TESTS[0])[:, 1].detach()
    pairs = scores[is_positive].unsqueeze(1) > scores[~is_positive]
    assert goal.value(linear.risk(), linear.weights()) == pytest.approx(
        float(pairs.double().mean()), abs=1e-3
    )
    smooth = SmoothedAUROC(TESTS[0], is_positive, output=1)
    worth = linear.attribute(smooth)

    def by_hand(model: nn.Module) -> Tensor:
        scores = model(TESTS[0])[:, 1]
        return torch.sigmoid(scores[is_positive].unsqueeze(1) - scores[~is_positive]).mean()

    torch.testing.assert_close(worth.weights, linear.attribute(by_hand).weights, rtol=1e-9, atol=1e-12)


def test_a_fairness_gap_is_a_function_of_the_model(linear):
    groups = torch.tensor([True, False, True, False])

    def gap(model: nn.Module) -> Tensor:
        chances = model(TESTS[0]).softmax(1)[:, 1]
        return chances[groups].mean() - chances[~groups].mean()

    def of_weights(w: Tensor) -> Tensor:
        chances = (TESTS[0] @ w[:6].reshape(2, 3).T + w[6:]).softmax(1)[:, 1]
        return chances[groups].mean() - chances[~groups].mean()

    first, second = linear.attribute(gap), linear.attribute(WeightFunction(of_weights))
    torch.testing.assert_close(first.features, second.features, rtol=1e-10, atol=1e-12)
    assert first.value == pytest.approx(second.value)
    torch.testing.assert_close(first.features, adjoint_gradient(linear, WeightFunction(of_weights)).gradient)


@pytest.mark.parametrize("element", [filters.GradientFlow(30, 0.05), filters.Tikhonov(0.1)], ids=str)
@pytest.mark.parametrize("optimality", ["interpolating", "gauss_newton", "stationary"])
def test_of_an_element_is_the_adjoint_gradient(fitted, element, optimality):
    problem, goal = fitted.problem(), HeldOutLoss(TESTS[0], draw(4, 2, seed=2))
    worth = problem.attribute(goal, element=element, optimality=optimality)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth = adjoint_gradient(problem, goal, element=element, optimality=optimality)
    torch.testing.assert_close(worth.features, truth.gradient, rtol=1e-9, atol=1e-12)
    assert worth.status == "converged"


def test_where_solutions_differ_in_the_goal_it_is_said(fitted):
    problem, goal = fitted.problem(), HeldOutLoss(TESTS[0], draw(4, 2, seed=2))
    worth = problem.attribute(goal)
    truth = adjoint_gradient(problem, goal)
    torch.testing.assert_close(worth.features, truth.gradient, rtol=1e-9, atol=1e-12)
    assert worth.status == "inconsistent"
    assert f"share {truth.unbounded:.2g} of its gradient" in worth.message
    with pytest.warns(SolsetWarning, match=r"rank 12 of 74 solutions differ in the goal to first order"):
        problem.attribute(goal, optimality="stationary")


def test_weights_that_are_not_stationary_are_told_with_a_number(linear):
    case_model = nn.Linear(3, 2).double().eval()
    nn.utils.vector_to_parameters(linear.weights() + 0.02 * draw(8), case_model.parameters())
    x, y = linear.risk().points[range(linear.point_count)]
    with pytest.warns(SolsetWarning, match="not stationary"):
        far = Problem(case_model, nn.CrossEntropyLoss(), x, y, weight_decay=linear.risk().weight_decay)
    with pytest.warns(SolsetWarning, match=r"would change the goal .* times as much as the removal"):
        worth = far.attribute(HeldOutLoss(TESTS[0], LABELS))
    assert "train further" in worth.message


class OfTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids).mean(1))


def test_token_ids_have_no_features_and_labels_no_targets():
    torch.manual_seed(0)
    ids, labels = torch.randint(0, 5, (6, 4)), torch.tensor([0, 1, 0, 1, 1, 0])
    model = OfTokens().double().eval()
    problem = Problem(
        model, nn.CrossEntropyLoss(), {"ids": ids}, labels, weight_decay=0.1, gradient_tol=float("inf")
    )
    worth = problem.attribute(PointLosses({"ids": ids[:2]}, labels[:2]), names=list("abcdef"))
    assert worth.features is None
    assert "no derivative in features: the inputs are whole numbers" in worth.message
    assert worth.targets is None
    assert "no derivative in targets: targets are class labels" in worth.message
    assert worth.weights.shape == (2, 6)
    table = worth.to_dataframe()
    assert list(table.columns) == ["goal", "point", "name", "label", "score", "rank"]
    assert len(table) == 12
    assert sorted(table["rank"][:6]) == [1, 2, 3, 4, 5, 6]
    assert repr(worth).startswith("Attribution(converged, 2 goals by 6 points")


def per_positive(outputs: Tensor, targets: Tensor) -> Tensor:
    terms = nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return terms.sum() / (targets == 1).sum().clamp(min=1)


def weighed_by_targets(outputs: Tensor, targets: Tensor) -> Tensor:
    return (targets.exp() * (outputs - targets).square()).sum() / targets.exp().sum()


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (per_positive, "no derivative in the points' weights: `loss` must be a weighted mean"),
        (weighed_by_targets, "targets: the weights that the loss takes from targets would change with them"),
    ],
)
def test_what_a_loss_does_not_say_of_single_points_is_missing_with_its_reason(loss, says):
    targets = (draw(8, 1, seed=4) > 0).double()
    model = nn.Linear(3, 1).double().eval()
    problem = Problem(model, loss, draw(8, 3), targets, weight_decay=0.3, gradient_tol=float("inf"))
    worth = problem.attribute(Prediction(TESTS[0]))
    assert (worth.weights is None) == (loss is per_positive)
    assert worth.targets is None
    assert says in worth.message
    assert worth.features.shape == (4, 8, 3)


def test_features_of_many_goals_beyond_the_budget_are_refused_by_name(linear):
    problem = linear.restrict(points=range(20))
    problem.memory_budget = 1000
    worth = problem.attribute(PointLosses(TESTS[0], LABELS), solver=Dense(), optimality="stationary")
    assert worth.features is None
    assert "more than the memory budget" in worth.message
    assert linear.attribute(PointLosses(TESTS[0], LABELS), features=False).features is None


@pytest.mark.parametrize(
    ("goal", "error", "says"),
    [
        (3.0, TypeError, "`goal` must be"),
        ([], ValueError, "`goal` must be at least one"),
        (lambda: torch.ones(()), TypeError, "Take the model as the only argument"),
        (lambda model: model(TESTS[0][:, :2]).sum(), TypeError, "got RuntimeError: mat1 and mat2"),
        (nn.Linear(3, 1), TypeError, "`goal` must be a goal or a function"),
        (lambda _: torch.ones(()), ValueError, "differentiable in the weights"),
        (lambda model: model(TESTS[0]), ValueError, "one number, or a vector of them"),
        (lambda model: model(TESTS[0]).sum() / 0, ValueError, "finite"),
        (Prediction(TESTS[0]), ValueError, "`output` must be one of the 2 outputs"),
        (Prediction(TESTS[0], output=2), ValueError, r"`output` must be in 0\.\.1"),
        (Prediction(TESTS[0], output=[0, 1]), ValueError, "an index, or 4 of them"),
        (Prediction(TESTS[0][:, :2], output=0), ValueError, r"`inputs` must be of shape"),
        (Margin(TESTS[0], torch.tensor([0, 1])), ValueError, "`labels` must be of shape"),
        (Margin(TESTS[0], torch.tensor([0, 1, 2, 0])), ValueError, r"`labels` must be in 0\.\.1"),
        (PointLosses(TESTS[0], torch.tensor([0])), ValueError, r"one per input \(4\)"),
        (SmoothedAUROC(TESTS[0], LABELS == 2, output=0), ValueError, "points of both kinds"),
    ],
)
def test_bad_goals_are_refused(linear, goal, error, says):
    with pytest.raises(error, match=says):
        linear.attribute(goal)


def test_gradients_that_are_switched_off_outside_are_no_obstacle(linear):
    for goal in (HeldOutLoss(TESTS[0], LABELS), PointLosses(TESTS[0], LABELS), lambda m: m(TESTS[0]).mean()):
        with torch.no_grad():
            off = linear.attribute(goal)
        torch.testing.assert_close(off.features, linear.attribute(goal).features)


def test_names_are_one_for_each_point(linear):
    with pytest.raises(ValueError, match="`names` must be 20 of them; got 1"):
        linear.attribute(HeldOutLoss(TESTS[0], LABELS), names=["a"])


def test_soft_labels_of_a_fitted_classifier_move_its_outputs():
    # softmax(f) = y has the solutions log y + any constant; the nearest change of f sums to zero.
    inputs, chances = draw(3, 6), draw(3, 4, seed=3).softmax(1)
    model = nn.Linear(6, 4, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_((torch.linalg.pinv(inputs) @ chances.log()).T)
    problem = Problem(model, nn.CrossEntropyLoss(), inputs, chances)
    worth = problem.attribute(lambda model: model(draw(1, 6, seed=1))[0, 0], optimality="interpolating")

    def prediction(y: Tensor) -> Tensor:
        logits = y.log() - y.log().mean(dim=1, keepdim=True)
        return (draw(1, 6, seed=1) @ torch.linalg.pinv(inputs) @ logits)[0, 0]

    leaf = chances.clone().requires_grad_()
    (truth,) = torch.autograd.grad(prediction(leaf), leaf)
    within = truth - truth.mean(dim=1, keepdim=True)  # changes of a row that keep its sum
    got = worth.targets - worth.targets.mean(dim=1, keepdim=True)
    torch.testing.assert_close(got, within, rtol=1e-7, atol=1e-9)
