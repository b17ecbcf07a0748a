"""Real retraining, the ground truth, against hand-written loops, SciPy and optimality conditions."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from solset import Move, retrain
from solset.errors import SolsetWarning, Status
from solset.operators import Hessian
from solset.retraining import LBFGS, GradientDescent, LevenbergMarquardt, Newton, tangent_recursion

POINTS = [4, 1]
METHODS = [
    GradientDescent(3, 0.1),
    LBFGS(max_gradients=5),
    Newton(max_steps=2),
    LevenbergMarquardt(max_steps=2),
]


def draw(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flat(model) -> Tensor:
    return torch.cat([value.detach().reshape(-1) for value in model.parameters()])


def moved_inputs(case, dx: Tensor) -> Tensor:
    return case.inputs.index_add(0, torch.tensor(POINTS), dx)


class TestGradientDescent:
    @pytest.mark.parametrize("name", ["fitted", "fitted_sum"])
    def test_is_the_loop_of_any_training_script(self, request, name):
        case, dx = request.getfixturevalue(name), 0.1 * draw(2, 3)
        model, rate = copy.deepcopy(case.model), 0.01
        optimizer, course = torch.optim.SGD(model.parameters(), lr=rate), []
        for _ in range(20):
            optimizer.zero_grad()
            case.loss(model(moved_inputs(case, dx)), case.targets).backward()
            optimizer.step()
            course.append(flat(model))
        method = GradientDescent(20, rate, record_at=(1, 7, 20))
        found = retrain(case.problem(), Move(POINTS, dx), method=method)
        assert list(found.course) == [1, 7, 20]
        for step, weights in found.course.items():
            torch.testing.assert_close(weights, course[step - 1], rtol=0, atol=1e-14)
        assert torch.equal(found.weights, found.course[20])
        assert (found.status, found.gradients) == (Status.CONVERGED, 20)

    def test_decays_the_weights_as_sgd_does(self, isolated_net):
        case, weight_decay = isolated_net
        dx, model = 0.1 * draw(2, 3), copy.deepcopy(case.model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=weight_decay)
        for _ in range(10):
            optimizer.zero_grad()
            case.loss(model(moved_inputs(case, dx)), case.targets).backward()
            optimizer.step()
        problem = case.problem(weight_decay=weight_decay)
        found = retrain(problem, Move(POINTS, dx), method=GradientDescent(10, 0.05))
        torch.testing.assert_close(found.weights, flat(model), rtol=0, atol=1e-14)

    def test_states_where_it_ended(self, fitted):
        problem, dx = fitted.problem(), 0.1 * draw(2, 3)
        found = retrain(problem, Move(POINTS, dx), method=GradientDescent(5, 0.05))
        end = problem.risk().move(POINTS, dx).at(found.weights)
        assert found.risk == end.value()
        assert found.gradient_norm == float(end.gradient().norm())
        assert torch.equal(found.change, found.weights - problem.weights())

    def test_that_runs_away_says_so(self, fitted_sum):
        with pytest.warns(SolsetWarning, match="status 'nonfinite'"):
            found = retrain(fitted_sum.problem(), Move(None, draw(6, 3)), method=GradientDescent(200, 1e3))
        assert found.status == "nonfinite"

    def test_of_no_steps_stays(self, fitted):
        found = retrain(fitted.problem(), Move(None, draw(6, 3)), method=GradientDescent(0, 0.1))
        assert torch.equal(found.change, torch.zeros_like(found.change))

    def test_refuses_steps_that_it_does_not_take(self):
        with pytest.raises(ValueError, match="`steps` must be at least 0; got -1"):
            GradientDescent(-1, 0.1)
        with pytest.raises(ValueError, match=r"`record_at` must be in 1\.\.5; got \(3, 6\)"):
            GradientDescent(5, 0.1, record_at=(3, 6))


class TestLBFGS:
    def test_reaches_its_tolerance(self, isolated_net):
        case, weight_decay = isolated_net
        problem, dx = case.problem(weight_decay=weight_decay), 0.03 * draw(2, 3)
        found = retrain(problem, Move(POINTS, dx), method=LBFGS(gradient_tol=1e-7, max_gradients=500))
        end = problem.risk().move(POINTS, dx).at(found.weights)
        assert float(end.gradient().abs().max()) <= 1e-7
        assert found.status == "converged"
        # It is Newton's minimum: to first order the distance is at most the gradient over the smallest
        # eigenvalue.
        newton = retrain(problem, Move(POINTS, dx), method=Newton())
        smallest = torch.linalg.eigvalsh(Hessian(end).to_dense())[0]
        assert smallest > 0
        assert (found.weights - newton.weights).norm() <= 1.1 * found.gradient_norm / smallest

    @pytest.mark.parametrize("budget", [1, 5, 12])
    @pytest.mark.filterwarnings("ignore:training ended with status")
    def test_keeps_its_budget_up_to_one_line_search(self, isolated_net, budget):
        # SciPy looks at the budget between iterations: the line search that exceeds it, at most 20
        # evaluations, is finished first.
        case, weight_decay = isolated_net
        problem = case.problem(weight_decay=weight_decay)
        method = LBFGS(gradient_tol=1e-14, max_gradients=budget)
        found = retrain(problem, Move(POINTS, draw(2, 3)), method=method)
        assert budget <= found.gradients <= budget + 20
        assert found.status == "max_steps"
        assert all(count <= found.gradients for count in found.course)

    @pytest.mark.filterwarnings("ignore:training ended with status")
    def test_lowers_the_risk_with_every_kept_iterate(self, isolated_net):
        case, weight_decay = isolated_net
        problem, dx = case.problem(weight_decay=weight_decay), draw(2, 3)
        found = retrain(problem, Move(POINTS, dx), method=LBFGS(max_gradients=20))
        start = problem.risk().move(POINTS, dx)
        risks = [start.value(), *(start.at(weights).value() for weights in found.course.values())]
        assert len(risks) > 3
        assert risks == sorted(risks, reverse=True)


class TestNewton:
    @pytest.mark.parametrize("name", ["logistic", "isolated_net"])
    def test_reaches_a_gradient_of_rounding(self, request, minimise, name):
        case, weight_decay = request.getfixturevalue(name)
        problem, dx = case.problem(weight_decay=weight_decay), 0.03 * draw(2, 3)
        found = retrain(problem, Move(POINTS, dx), method=Newton(gradient_tol=1e-10))
        assert found.status == "converged"
        assert found.gradient_norm <= 1e-10
        truth = minimise(problem.risk().move(POINTS, dx)).weights
        torch.testing.assert_close(found.weights, truth, rtol=0, atol=1e-8)

    def test_needs_one_step_where_the_gradient_is_linear(self, build_case):
        # For f linear in w and a squared loss the first step is exact, and is recognised as such.
        case = build_case("tanh-ce-mean")
        model = torch.nn.Linear(3, 2).double().eval()
        problem = type(case)("linear", model, torch.nn.MSELoss(), case.inputs, draw(6, 2)).problem()
        found = retrain(problem, Move(None, draw(6, 3)), method=Newton(max_steps=1))
        assert found.status == "converged"
        assert found.gradient_norm <= 1e-10

    def test_that_is_cut_short_says_so(self, logistic):
        case, weight_decay = logistic
        problem = case.problem(weight_decay=weight_decay)
        with pytest.warns(SolsetWarning, match="status 'max_steps' at gradient norm"):
            found = retrain(problem, Move(POINTS, draw(2, 3)), method=Newton(max_steps=1))
        assert found.status == "max_steps"
        assert found.gradient_norm > 1e-10


class TestLevenbergMarquardt:
    @pytest.fixture
    def dx(self) -> Tensor:
        return 0.03 * draw(2, 3)

    def test_keeps_the_outputs(self, fitted, dx):
        problem = fitted.problem()
        found = retrain(problem, Move(POINTS, dx), method=LevenbergMarquardt())
        outputs = problem.risk().move(POINTS, dx).at(found.weights).outputs()
        assert found.status == "converged"
        assert (outputs - problem.risk().outputs()).abs().max() <= 1e-10

    def test_that_does_not_settle_ends_on_the_set(self, fitted):
        problem, dx = fitted.problem(), 0.1 * draw(2, 3)
        with pytest.warns(SolsetWarning, match="status 'max_steps'"):
            found = retrain(problem, Move(POINTS, dx), method=LevenbergMarquardt())
        outputs = problem.risk().move(POINTS, dx).at(found.weights).outputs()
        assert found.status == "max_steps"
        assert (outputs - problem.risk().outputs()).abs().max() <= 1e-10
        settled = retrain(problem, Move(POINTS, dx), method=LevenbergMarquardt(max_steps=200))
        assert settled.status == "converged"
        assert settled.change.norm() < found.change.norm()

    def test_ends_where_the_change_is_normal_to_the_set(self, fitted, dx):
        # Lagrange: w - w̄ = Jᵀu at the moved data and the new weights.
        problem = fitted.problem()
        found = retrain(problem, Move(POINTS, dx), method=LevenbergMarquardt())
        risk = problem.risk().move(POINTS, dx)
        inputs, _ = risk.points[range(6)]
        J = torch.func.jacrev(lambda w: risk.forward(risk.layout.split(w), inputs).reshape(-1))(found.weights)
        along_the_set = found.change - torch.linalg.pinv(J) @ (J @ found.change)
        assert along_the_set.norm() <= 1e-8 * found.change.norm()

    def test_is_the_nearest_solution(self, fitted, dx):
        problem = fitted.problem()
        found = retrain(problem, Move(POINTS, dx), method=LevenbergMarquardt())
        risk, start = problem.risk().move(POINTS, dx), problem.weights()
        inputs, _ = risk.points[range(6)]

        def error(w: Tensor) -> Tensor:
            kept = problem.risk().outputs().reshape(-1)
            return risk.forward(risk.layout.split(w), inputs).reshape(-1) - kept

        constraint = {
            "type": "eq",
            "fun": lambda v: error(start + torch.from_numpy(v)).numpy(),
            "jac": lambda v: torch.func.jacrev(error)(start + torch.from_numpy(v)).numpy(),
        }
        rival = minimize(
            lambda v: (0.5 * v @ v, v),
            np.zeros(len(start)),
            jac=True,
            method="SLSQP",
            constraints=[constraint],
            options={"ftol": 1e-16, "maxiter": 200},
        )
        assert np.abs(constraint["fun"](rival.x)).max() <= 1e-8
        torch.testing.assert_close(found.change, torch.from_numpy(rival.x), rtol=0, atol=1e-6)

    def test_is_nearer_than_where_gauss_newton_steps_from_a_kick_end(self, fitted, dx):
        problem = fitted.problem()
        near = retrain(problem, Move(POINTS, dx), method=LevenbergMarquardt()).change.norm()
        risk = problem.risk().move(POINTS, dx)
        for seed in range(3):
            kicked = risk.at(problem.weights() + 0.1 * draw(len(problem.weights()), seed=seed))
            end = LevenbergMarquardt(max_steps=0).run(kicked, problem.risk().outputs).weights
            assert (risk.at(end).outputs() - problem.risk().outputs()).abs().max() <= 1e-10
            assert (end - problem.weights()).norm() > near

    def test_agrees_with_the_estimate_to_first_order(self, fitted):
        problem, errors, sizes = fitted.problem(), [], (0.04, 0.02, 0.01, 0.005)
        for size in sizes:
            dx = size * draw(2, 3)
            actual = retrain(problem, Move(POINTS, dx), method=LevenbergMarquardt()).weights
            errors.append(float((problem.estimate(Move(POINTS, dx)).min_norm().value - actual).norm()))
        slope = math.log(errors[0] / errors[-1]) / math.log(sizes[0] / sizes[-1])
        assert abs(slope - 2.0) <= 0.1

    def test_of_nothing_moved_stays(self, fitted):
        dx = torch.zeros(6, 3, dtype=torch.float64)
        found = retrain(fitted.problem(), Move(None, dx), method=LevenbergMarquardt())
        assert found.status == "converged"
        assert found.change.norm() == 0


class TestTangentRecursion:
    @pytest.mark.parametrize("name", ["tanh-ce-mean", "tied-mse-mean", "conv-ce-sum"])
    def test_is_the_slope_of_moved_minus_clean_training(self, build_case, name):
        # None of these is trained: the weights drift, and only the difference of two runs is small.
        case = build_case(name)
        problem, dx = case.problem(), draw(2, *case.inputs.shape[1:])
        method, sizes, errors = GradientDescent(15, 0.05), (4e-2, 2e-2, 1e-2, 5e-3), []
        slope = tangent_recursion(problem, Move(POINTS, dx), steps=15, learning_rate=0.05)
        clean = retrain(problem, Move(POINTS, 0 * dx), method=method).weights
        assert (clean - problem.weights()).norm() > 0.01
        for t in sizes:
            moved = retrain(problem, Move(POINTS, t * dx), method=method).weights
            errors.append(float((moved - clean - t * slope).norm()))
        power = math.log(errors[0] / errors[-1]) / math.log(sizes[0] / sizes[-1])
        assert abs(power - 2.0) <= 0.1

    def test_of_two_steps_is_the_formula(self, build_case):
        case = build_case("tanh-ce-mean")
        problem, dx, rate = case.problem(), draw(2, 3), 0.05
        risk = problem.risk()

        def gradient(w: Tensor, moved: Tensor) -> Tensor:
            x = case.inputs.index_copy(0, torch.tensor(POINTS), moved)
            return torch.func.grad(lambda v: risk.batch_value(risk.layout.split(v), x, case.targets))(w)

        change, w, x = torch.zeros_like(risk.weights), risk.weights, case.inputs[POINTS]
        for _ in range(2):
            H, B = torch.func.jacrev(gradient, argnums=(0, 1))(w, x)
            change = change - rate * (H @ change + B.flatten(1) @ dx.reshape(-1))
            w = w - rate * gradient(w, x)
        found = tangent_recursion(problem, Move(POINTS, dx), steps=2, learning_rate=rate)
        torch.testing.assert_close(found, change, rtol=0, atol=1e-13)

    def test_of_no_steps_is_nothing(self, fitted):
        found = tangent_recursion(fitted.problem(), Move(None, draw(6, 3)), steps=0, learning_rate=0.1)
        assert torch.equal(found, torch.zeros(74, dtype=torch.float64))

    def test_refuses_negative_steps(self, fitted):
        with pytest.raises(ValueError, match="`steps` must be at least 0; got -2"):
            tangent_recursion(fitted.problem(), Move(None, draw(6, 3)), steps=-2, learning_rate=0.1)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_perturbation_of_the_wrong_shape_is_refused(fitted, method):
    with pytest.raises(ValueError, match=r"`dx` must be of shape \(2, 3\)"):
        retrain(fitted.problem(), Move(POINTS, draw(3, 3)), method=method)


@pytest.mark.filterwarnings("ignore:training ended with status")
def test_the_model_and_the_random_state_stay_as_they_were(fitted):
    model, dx = copy.deepcopy(fitted.model), 0.1 * draw(2, 3)
    model[0].bias.requires_grad_(False)  # a wish of the user's that must survive
    model[2].bias.grad = draw(2)
    problem = replace(fitted, model=model).problem(parameters=["0.weight", "2.*"])
    before, random = copy.deepcopy(model), torch.get_rng_state()
    for method in METHODS:
        retrain(problem, Move(POINTS, dx), method=method)
    tangent_recursion(problem, Move(POINTS, dx), steps=2, learning_rate=0.1)
    for (name, now), then in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(now, then), name
        assert now.requires_grad == then.requires_grad
    assert [name for name, value in model.named_parameters() if value.grad is not None] == ["2.bias"]
    assert torch.equal(model[2].bias.grad, draw(2))
    assert not model.training
    assert torch.equal(torch.get_rng_state(), random)
