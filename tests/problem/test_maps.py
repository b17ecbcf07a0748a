"""Which optimality map a problem takes, and when different maps give the same element."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, SolsetWarning, lipschitz_modulus
from solset.linalg import Product
from solset.operators import Jacobian
from solset.problem import Stationary
from solset.solvers import LSMR


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


def one_hot_fit() -> Problem:
    """Outputs that sum to one everywhere: fitted, but a row of J is lost at every point."""
    model = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 2)).double().eval()
    with torch.no_grad():
        for i, part in enumerate(model.parameters()):
            part.copy_(0.5 * draw(*part.shape, seed=i))
        model[2].weight[1] = -model[2].weight[0]
        model[2].bias[1] = 1.0 - model[2].bias[0]
    inputs = draw(3, 3)
    targets = model(inputs).detach()
    return Problem(Summing(model), nn.MSELoss(), inputs, targets)


class Summing(nn.Module):
    """Outputs ``(f, 1 - f)``."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        first = self.inner(x)[:, :1]
        return torch.cat([first, 1.0 - first], dim=1)


def test_fitted_with_independent_rows_is_interpolating(fitted):
    derivative = fitted.problem().derivative()
    assert derivative.optimality == "interpolating"
    assert derivative.reason == (
        "interpolating because the training set is fitted and the 12 rows of J are independent"
    )
    assert derivative.qualification.is_verified is True


def test_fitted_with_dependent_rows_is_stationary():
    derivative = one_hot_fit().derivative()
    assert derivative.optimality == "stationary"
    assert derivative.reason == "stationary because the 6 rows of J have numerical rank 3"


def test_fitted_with_duplicates_is_stationary(fitted):
    twice = [0, 1, 2, 3, 4, 5, 2]
    case = dataclasses.replace(fitted, inputs=fitted.inputs[twice], targets=fitted.targets[twice])
    derivative = case.problem().derivative(points=[2])
    assert derivative.optimality == "stationary"
    assert derivative.reason == "stationary because the 14 rows of J have numerical rank 12"


def test_weight_decay_is_stationary(isolated_net):
    case, weight_decay = isolated_net
    derivative = case.problem(weight_decay=weight_decay).derivative()
    assert derivative.optimality == "stationary"
    assert derivative.reason.startswith("stationary because of weight decay 0.01")


def test_not_fitted_is_stationary(build_case):
    derivative = build_case("tied-mse-mean").problem().derivative()
    assert derivative.optimality == "stationary"
    assert "not fitted" in derivative.reason


def test_a_rank_that_cannot_be_seen_is_stationary(fitted):
    derivative = fitted.problem().derivative(solver=LSMR())
    assert derivative.optimality == "stationary"
    assert derivative.reason == "stationary because the solver given cannot verify the rank of J"


@pytest.mark.parametrize("optimality", ["interpolating", "gauss_newton", "stationary"])
def test_a_map_asked_for_is_taken(fitted, optimality):
    derivative = fitted.problem().derivative(optimality=optimality)
    assert (derivative.optimality, derivative.reason) == (optimality, f"{optimality}, as asked for")


def test_on_an_exact_fit_all_maps_have_the_same_smallest_element(fitted):
    problem, dx = fitted.problem(), draw(*fitted.inputs.shape)
    first, second, third = (
        problem.derivative(optimality=optimality)(dx).min_norm().value
        for optimality in ("interpolating", "gauss_newton", "stationary")
    )
    assert error(second, first) <= 1e-8
    assert error(third, first) <= 1e-8


def test_interpolating_keeps_the_outputs_to_first_order(fitted):
    problem, dx = fitted.problem(), draw(*fitted.inputs.shape)
    v = problem.derivative(optimality="interpolating")(dx).min_norm().value
    risk = problem.risk()

    def outputs(t: float) -> Tensor:
        return risk.at(risk.weights + t * v).move(range(6), t * dx).outputs()

    slope = (outputs(1e-5) - outputs(-1e-5)) / 2e-5
    unmoved = (risk.move(range(6), 1e-5 * dx).outputs() - risk.move(range(6), -1e-5 * dx).outputs()) / 2e-5
    assert slope.norm() <= 1e-8 * unmoved.norm()


def test_gauss_newton_is_the_hessian_where_outputs_are_linear_in_the_weights():
    model, inputs, targets = nn.Linear(4, 2).double().eval(), draw(9, 4), draw(9, 2, seed=1)
    solution = torch.linalg.lstsq(torch.cat([inputs, torch.ones(9, 1)], dim=1), targets).solution
    with torch.no_grad():
        model.weight.copy_(solution[:4].T)
        model.bias.copy_(solution[4])
    problem = Problem(model, nn.MSELoss(), inputs, targets)
    dx = draw(2, 4, seed=2)
    options = {"points": [7, 3]}
    exact = problem.derivative(optimality="stationary", **options)(dx).min_norm().value
    found = problem.derivative(optimality="gauss_newton", **options)(dx).min_norm().value
    assert error(found, exact) <= 1e-10


@pytest.mark.parametrize("optimality", ["interpolating", "gauss_newton", "stationary"])
def test_coderivative_and_graphical_derivative_are_dual(fitted, optimality):
    problem, points, dx = fitted.problem(), [4, 1], draw(2, 3)
    D = problem.derivative(points=points, optimality=optimality)
    Dstar = problem.coderivative(points=points, optimality=optimality)
    v = D(dx).min_norm().value
    q = D(draw(2, 3, seed=3)).min_norm().value  # in range Aᵀ, so that the coderivative is not empty
    p = Dstar(q).min_norm()
    assert p.residual <= 1e-8
    assert torch.isclose(q @ v, p.value @ dx.reshape(-1), rtol=1e-7, atol=0.0)


class Refusing(Stationary):
    """A map that applies nowhere."""

    name = "refusing"

    def refusal(self, point):
        return "a point that it never likes"


class Squared(Stationary):
    """``JᵀJ`` written as a product, which does not say that it is symmetric."""

    name = "squared"

    def operator(self, point):
        rows = Jacobian(point.risk, memory_budget=point.memory_budget)
        return Product(rows.T, rows)


class TestMapsOfOnesOwn:
    def test_a_refusal_is_asked(self):
        with pytest.raises(ValueError, match="got a point that it never likes"):
            one_hot_fit().derivative(optimality=Refusing())

    def test_a_square_operator_has_to_say_that_it_is_symmetric(self):
        with pytest.raises(TypeError, match="NormalOperator"):
            one_hot_fit().derivative(optimality=Squared())


def test_outputs_beyond_a_margin_are_not_kept():
    """A hinge loss that is zero with room to spare: moving a point a little calls for no change at all."""
    x = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [3.0, -1.0]], dtype=torch.float64)
    model = nn.Linear(2, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 0.1]]))
        model.bias.zero_()
    targets = torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64)
    problem = Problem(model, lambda o, t: (1 - o * t).clamp(min=0).square().mean(), x, targets)
    estimate = problem.estimate(Move([0], torch.full((1, 2), 0.01, dtype=torch.float64)))
    assert "flat in the outputs of 3 points" in problem.derivative(points=[0]).linearisation.reason
    assert estimate.dimension == 3
    assert torch.equal(estimate.min_norm().value, problem.weights())


def test_duplicates_that_move_apart_are_a_compromise_and_say_how_much_is_given_up():
    source = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=source, dtype=torch.float64)
    x[1] = x[0]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 1)).double().eval()
    problem = Problem(model, nn.MSELoss(), x, model(x).detach())
    apart, together = (Move(range(k), 1e-4 * torch.ones(k, 3, dtype=torch.float64)) for k in (1, 2))
    with pytest.warns(SolsetWarning, match=r"cannot undo 0\.71 of the change of its outputs: the 6 rows"):
        assert "duplicates" in problem.estimate(apart).min_norm().message  # one of two equal rows: 1/√2
    assert not problem.estimate(together).notes
    assert lipschitz_modulus(problem, points=[0]).value == float("inf")
