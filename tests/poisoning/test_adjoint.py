"""The adjoint gradient against real re-solving, dense algebra and influence functions."""

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, retrain
from solset.derivatives import Response
from solset.goals import HeldOutLoss, TargetWeights, WeightFunction
from solset.operators import InputJacobian, Jacobian
from solset.poisoning import adjoint_gradient, judge_poisoning
from solset.retraining import GradientDescent, LevenbergMarquardt, Newton
from solset.solvers import filters

POINTS = [4, 1]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def held_out(outputs: int) -> HeldOutLoss:
    return HeldOutLoss(draw(5, 3, seed=1), draw(5, outputs, seed=2))


def by_differences(problem: Problem, goal: HeldOutLoss, method, size: float = 1e-4) -> Tensor:
    """Central differences of the goal after real re-solving."""
    found = torch.zeros(2, 3, dtype=torch.float64)

    def solved(dx: Tensor) -> float:
        return goal.value(problem.risk(), retrain(problem, Move(POINTS, dx), method=method).weights)

    for place in range(6):
        dx = torch.zeros(6, dtype=torch.float64)
        dx[place] = size
        dx = dx.reshape(2, 3)
        found.view(-1)[place] = (solved(dx) - solved(-dx)) / (2 * size)
    return found


class TestAgainstReSolving:
    def check(self, problem, goal, method, element=None) -> None:
        truth = by_differences(problem, goal, method)
        found = adjoint_gradient(problem, goal, points=POINTS, element=element)
        assert float((found.gradient - truth).norm()) <= 1e-5 * float(truth.norm())
        assert found.value == goal.value(problem.risk(), problem.weights())

    def test_nearest_solution(self, fitted):
        self.check(fitted.problem(), held_out(2), LevenbergMarquardt(output_tol=1e-11, max_steps=40))

    @pytest.mark.parametrize("name", ["fitted", "fitted_sum"])
    def test_training_of_a_stated_duration(self, request, name):
        case = request.getfixturevalue(name)
        rate = 0.05 if name == "fitted" else 0.05 / 12
        element = filters.GradientFlow(50, rate)
        self.check(case.problem(), held_out(2), GradientDescent(50, rate), element)

    def test_isolated_solution(self, isolated_net):
        case, weight_decay = isolated_net
        self.check(case.problem(weight_decay=weight_decay), held_out(1), Newton(gradient_tol=1e-13))

    def test_logistic_regression(self, logistic):
        case, weight_decay = logistic
        goal = HeldOutLoss(draw(5, 3, seed=1), torch.tensor([0, 1, 1, 0, 1]))
        self.check(case.problem(weight_decay=weight_decay), goal, Newton(gradient_tol=1e-13))


ELEMENTS = [None, filters.MinimumNorm(), filters.GradientFlow(30, 0.05), filters.Tikhonov(0.1)]
MAPS = ["interpolating", "gauss_newton", "stationary"]


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
@pytest.mark.parametrize("optimality", MAPS)
def test_pull_is_the_adjoint_of_push(fitted, optimality, element):
    problem = fitted.problem()
    line = problem.derivative(points=POINTS, optimality=optimality).linearisation
    response, dx, q = Response(line, element), draw(2, 3, seed=3), draw(len(problem.weights()), seed=4)
    forward, backward = float(response.push(dx) @ q), float((response.pull(q)[0] * dx).sum())
    assert forward == pytest.approx(backward, rel=1e-9)


@pytest.mark.parametrize("element", ELEMENTS[2:], ids=str)
def test_push_is_the_element_of_the_estimate(fitted, element):
    derivative = fitted.problem().derivative(points=POINTS)
    dx = 0.01 * draw(2, 3, seed=3)
    found = Response(derivative.linearisation, element).push(dx)
    torch.testing.assert_close(found, derivative(dx).element(element).value, rtol=0, atol=1e-14)


def test_by_dense_algebra_with_the_part_outside_the_range(fitted):
    problem, goal = fitted.problem(), held_out(2)
    found = adjoint_gradient(problem, goal, points=POINTS)
    risk = problem.risk()
    J, J_x = Jacobian(risk).to_dense(), InputJacobian(risk, POINTS).to_dense()
    _, slope = goal.slope(problem.risk(), problem.weights())
    truth = -(J_x.T @ torch.linalg.pinv(J.T) @ slope).reshape(2, 3)
    torch.testing.assert_close(found.gradient, truth, rtol=1e-8, atol=1e-10)
    outside = slope - torch.linalg.pinv(J) @ (J @ slope)
    assert found.unbounded == pytest.approx(float(outside.norm() / slope.norm()), rel=1e-8)
    assert 0.1 < found.unbounded < 1
    assert found.weight_gradient == pytest.approx(float(slope.norm()))
    assert found.optimality == "interpolating"


def test_a_function_of_what_training_fixes_is_bounded(fitted):
    # The sum of the training outputs is a function of what the interpolating set keeps.
    problem = fitted.problem()
    goal = WeightFunction(
        lambda w: problem.risk().forward(problem.risk().layout.split(w), fitted.inputs).sum()
    )
    found = adjoint_gradient(problem, goal, points=POINTS)
    assert found.unbounded <= 1e-8
    assert found.status == "converged"


def test_is_the_influence_of_features_where_the_solution_is_isolated(isolated_net):
    case, weight_decay = isolated_net
    problem, goal = case.problem(weight_decay=weight_decay), held_out(1)
    one = HeldOutLoss(goal.inputs[:1], goal.targets[:1])
    truth = problem.attribute(one, optimality="stationary").features
    torch.testing.assert_close(adjoint_gradient(problem, one).gradient, truth, rtol=1e-9, atol=1e-12)


def test_ranks_points_by_what_a_unit_move_of_each_does(fitted):
    found = adjoint_gradient(fitted.problem(), held_out(2))
    ranking = found.ranking()
    assert sorted(point for point, _ in ranking) == list(range(6))
    sizes = [size for _, size in ranking]
    assert sizes == sorted(sizes, reverse=True)
    best, size = ranking[0]
    assert size == pytest.approx(float(found.gradient[best].norm()))


def test_targets_by_name_are_the_flat_ones(fitted):
    problem = fitted.problem()
    wanted = problem.weights() + 0.1 * draw(74, seed=5)
    layout = problem.risk().layout
    named = dict(zip(layout.shapes, layout.split(wanted), strict=True))
    flat, by_name = (adjoint_gradient(problem, TargetWeights(w), points=POINTS) for w in (wanted, named))
    assert torch.equal(flat.gradient, by_name.gradient)
    assert flat.value == pytest.approx(float((wanted - problem.weights()).norm()))
    taken = WeightFunction(lambda w: sum(part.square().sum() for part in w.values()), takes="named")
    both = WeightFunction(lambda w: w.square().sum())
    one, other = (adjoint_gradient(problem, goal, points=POINTS).gradient for goal in (taken, both))
    torch.testing.assert_close(one, other)


class TestBadGoals:
    @pytest.mark.parametrize(
        ("goal", "error", "says"),
        [
            (WeightFunction(lambda w: w.detach().sum()), ValueError, "differentiable in the weights; got a"),
            (WeightFunction(lambda _: torch.ones(())), ValueError, "differentiable in the weights; got a"),
            (WeightFunction(lambda w: (w > 0).double().sum()), ValueError, "differentiable in the weights"),
            (
                WeightFunction(lambda _: torch.ones((), dtype=torch.float64).requires_grad_()),
                ValueError,
                "differentiable in the weights",
            ),
            (WeightFunction(lambda w: w), ValueError, r"`goal` must be one number; got shape \(74,\)"),
            (
                WeightFunction(lambda w: float(w.detach().sum())),
                TypeError,
                "`goal` must be a tensor as its value",
            ),
            (WeightFunction(lambda w: w.sum() * torch.nan), ValueError, "finite, with a finite gradient"),
            (WeightFunction(lambda w: (0 * w).sum().sqrt()), ValueError, "finite, with a finite gradient"),
            (TargetWeights(draw(3)), ValueError, r"`weights` must be of shape \(74,\)"),
            (TargetWeights(draw(74).float()), ValueError, "`weights` must be torch.float64"),
            (TargetWeights({"bias": draw(3)}), ValueError, "Name every weight that may move"),
            (HeldOutLoss(draw(2, 4), draw(2, 2)), ValueError, r"`inputs` must be of shape \(2, 3\)"),
            (
                HeldOutLoss(draw(2, 3), draw(3, 2)),
                ValueError,
                r"`targets` must be one per input \(2\); got 3",
            ),
            (HeldOutLoss(draw(0, 3), draw(0, 2)), ValueError, "`inputs` must be one point or more; got none"),
        ],
    )
    def test_are_refused(self, fitted, goal, error, says):
        with pytest.raises(error, match=says):
            adjoint_gradient(fitted.problem(), goal, points=POINTS)

    def test_of_the_wrong_kind_are_refused_when_they_are_made(self):
        with pytest.raises(TypeError, match="`function` must be a callable; got int"):
            WeightFunction(3)
        with pytest.raises(ValueError, match="`takes` must be 'flat' or 'named'"):
            WeightFunction(torch.sum, takes="both")

    def test_a_rank_cut_is_a_matter_of_the_solver(self, fitted):
        with pytest.raises(
            ValueError, match="`element` must be None, MinimumNorm, GradientFlow, Recipe or Tikhonov"
        ):
            adjoint_gradient(fitted.problem(), held_out(2), element=filters.RankCut(1e-3))


ONE_HOT = torch.eye(2, dtype=torch.float64)[[0, 1, 1]]


class TestHeldOutTargets:
    """Targets that do not fit are refused: broadcast against the outputs they would give another number."""

    @pytest.mark.parametrize(
        ("targets", "error", "says"),
        [
            (draw(5), ValueError, r"`targets` must be .*; got shape \(5,\) .*beside outputs \(5, 1\)"),
            (draw(5, 1).float() * torch.nan, ValueError, "`targets` must be .*finite"),
            ([0.0, 1.0, 2.0, 3.0, 4.0], TypeError, "`targets` must be a tensor; got list"),
            (torch.tensor(1.0), ValueError, r"`targets` must be one per input \(5\); got none"),
        ],
    )
    @pytest.mark.parametrize(
        "loss", [None, lambda f, y: (f - y).square().mean(), lambda f, y: (f - y).abs().mean()]
    )
    def test_of_a_regression(self, isolated_net, targets, error, says, loss):
        case, weight_decay = isolated_net
        goal = HeldOutLoss(draw(5, 3), targets, loss=loss)
        with pytest.raises(error, match=says):
            adjoint_gradient(case.problem(weight_decay=weight_decay), goal, points=POINTS)

    def test_that_broadcast_point_by_point_are_refused_by_the_losses_of_torch(self, isolated_net):
        case, weight_decay = isolated_net
        with pytest.raises(ValueError, match=r"got shape \(5, 2\) .*beside outputs \(5, 1\): Using a target"):
            HeldOutLoss(draw(5, 3), draw(5, 2)).check(case.problem(weight_decay=weight_decay).risk())

    @pytest.mark.parametrize(
        ("targets", "says"),
        [
            (torch.tensor([0, 1, 2]), "Target 2 is out of bounds"),
            (torch.tensor([0, -1, 1]), "Target -1 is out of bounds"),
            (torch.tensor([0.0, 1.0, 0.0]), r"beside outputs \(3, 2\)"),
            (torch.tensor([[0], [1], [0]]), r"got shape \(3, 1\)"),
        ],
    )
    def test_of_a_classifier(self, logistic, targets, says):
        case, weight_decay = logistic
        goal = HeldOutLoss(draw(3, 3), targets)
        with pytest.raises(ValueError, match="`targets` must be") as refused:
            adjoint_gradient(case.problem(weight_decay=weight_decay), goal, points=[0])
        assert refused.match(says)

    def test_a_judge_refuses_them_too(self, isolated_net):
        case, weight_decay = isolated_net
        goal, moved = HeldOutLoss(draw(5, 3), draw(5)), Move(POINTS, 0.1 * draw(2, 3))
        with pytest.raises(ValueError, match="`targets` must be"):
            judge_poisoning(
                case.problem(weight_decay=weight_decay), goal, moved, methods={"newton": Newton()}
            )

    @pytest.mark.parametrize("targets", [torch.tensor([0, 1, 1]), ONE_HOT])
    def test_labels_and_probabilities_are_taken(self, logistic, targets):
        case, weight_decay = logistic
        problem, inputs = case.problem(weight_decay=weight_decay), draw(3, 3)
        truth = nn.functional.cross_entropy(case.model(inputs), targets)
        found = adjoint_gradient(problem, HeldOutLoss(inputs, targets), points=[0])
        assert found.value == pytest.approx(truth.item())

    def test_a_sum_over_points_is_taken(self, isolated_net):
        case, weight_decay = isolated_net
        goal = HeldOutLoss(draw(5, 3), draw(5), loss=lambda f, y: (f.squeeze(1) - y).square().sum())
        found = adjoint_gradient(case.problem(weight_decay=weight_decay), goal, points=POINTS)
        truth = (case.model(goal.inputs).squeeze(1) - goal.targets).square().sum()
        assert found.value == pytest.approx(truth.item())


def test_another_loss_for_the_held_out_points(fitted):
    problem, goal = fitted.problem(), held_out(2)
    labels = torch.tensor([0, 1, 1, 0, 1])
    softmax = HeldOutLoss(goal.inputs, labels, is_raised=False, loss=nn.CrossEntropyLoss())
    with torch.no_grad():
        truth = nn.functional.cross_entropy(fitted.model(goal.inputs), labels)
    assert softmax.value(problem.risk(), problem.weights()) == pytest.approx(float(truth))
    assert (softmax.sign, goal.sign) == (-1.0, 1.0)
