"""Elements of the estimated set: minimum norm, gradient flow, Tikhonov, rank cut, samples."""

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem
from solset.operators import CurvatureRoot, Jacobian, Mixed
from solset.solvers.filters import GradientFlow, RankCut, Tikhonov

DX = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MOVED = [5, 2]


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


class Affine(nn.Module):
    """``W u + s`` of the input ``(u, s)``: linear in the weights, whatever s is."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer.in_features
        return self.layer(x[:, :features]) + x[:, features:]


def affine_problem(reduction: str) -> tuple[Problem, Tensor]:
    """Fitted, with five points and seven features, and a change of ``s`` at two points."""
    g = torch.Generator().manual_seed(1)
    model = Affine(7, 2).double().eval()
    inputs = torch.randn(5, 9, generator=g, dtype=torch.float64)
    problem = Problem(model, nn.MSELoss(reduction=reduction), inputs, model(inputs).detach())
    dx = torch.zeros(2, 9, dtype=torch.float64)
    dx[:, 7:] = torch.randn(2, 2, generator=g, dtype=torch.float64)
    return problem, dx


@pytest.mark.parametrize("optimality", ["interpolating", "gauss_newton", "stationary"])
@pytest.mark.parametrize(("reduction", "learning_rate"), [("mean", 0.3), ("sum", 0.02)])
def test_the_flow_element_is_what_gradient_descent_reaches(reduction, learning_rate, optimality):
    problem, dx = affine_problem(reduction)
    moved = problem.risk().move([3, 0], dx)
    for _ in range(40):
        moved = moved.at(moved.weights - learning_rate * moved.gradient())
    flow = GradientFlow(steps=40, learning_rate=learning_rate)
    found = problem.estimate(Move([3, 0], dx), optimality=optimality).element(flow).value
    assert error(found - problem.weights(), moved.weights - problem.weights()) <= 1e-12


def system(fitted) -> tuple[Problem, Tensor, Tensor]:
    """A fitted problem, its weighted rows ``A`` and the right-hand side ``-W J_x Δx``, written out."""
    problem = fitted.problem()
    risk = problem.risk()
    A = CurvatureRoot(risk).to_dense() @ Jacobian(risk).to_dense()
    rhs = -(torch.linalg.pinv(A.T) @ (Mixed(risk, MOVED) @ DX.reshape(-1)))
    return problem, A, rhs


def test_tikhonov_damps_the_weighted_rows(fitted):
    problem, A, rhs = system(fitted)
    damping = 1e-3
    expected = A.T @ torch.linalg.solve(A @ A.T + damping * torch.eye(len(A)).double(), rhs)
    found = problem.derivative(points=MOVED)(DX).element(Tikhonov(damping))
    assert error(found.value, expected) <= 1e-8


def test_a_rank_cut_leaves_the_small_directions_alone(fitted):
    problem, A, rhs = system(fitted)
    values, vectors = torch.linalg.eigh(A @ A.T)
    cut = float((values[4] * values[5]).sqrt() / values[-1])
    big = vectors[:, 5:]
    expected = A.T @ (big @ ((big.T @ rhs) / values[5:]))
    found = problem.derivative(points=MOVED)(DX).element(RankCut(cut))
    assert error(found.value, expected) <= 1e-8


def test_long_training_tends_to_the_minimum_norm_element(fitted):
    problem, A, _ = system(fitted)
    top = float(torch.linalg.matrix_norm(A, 2)) ** 2
    values = problem.derivative(points=MOVED)(DX)
    flow = values.element(GradientFlow(steps=10**9, learning_rate=1.0 / top))
    assert error(flow.value, values.min_norm().value) <= 1e-8


def test_samples_lie_in_the_set_and_within_the_radius(fitted):
    estimate = fitted.problem().estimate(Move(MOVED, DX))
    smallest = estimate.min_norm().value - estimate.reference
    radius = 3.0 * float(smallest.norm())
    samples = estimate.sample(4, radius=radius, generator=torch.Generator().manual_seed(2))
    for sample in samples:
        change = sample.value - estimate.reference
        assert estimate.contains(sample.value)
        assert (change - smallest).norm() <= radius
        assert change.norm() > smallest.norm()
    assert len({float(sample.value[0]) for sample in samples}) == 4


def test_an_estimate_is_put_on_a_copy_of_the_model(fitted):
    problem = fitted.problem()
    smallest = problem.estimate(Move(MOVED, DX)).min_norm()
    changed = smallest.apply_to(fitted.model)
    assert torch.equal(nn.utils.parameters_to_vector(changed.parameters()), smallest.value)
    assert torch.equal(nn.utils.parameters_to_vector(fitted.model.parameters()), problem.weights())
    assert not torch.equal(changed(fitted.inputs), fitted.model(fitted.inputs))


def test_an_estimate_is_the_derivative_at_the_trained_weights(fitted):
    problem = fitted.problem()
    estimate, derivative = problem.estimate(Move(MOVED, DX)), problem.derivative(points=MOVED)(DX)
    assert torch.equal(estimate.min_norm().value, problem.weights() + derivative.min_norm().value)


def test_a_direction_may_be_flat_or_shaped(fitted):
    D = fitted.problem().derivative(points=MOVED)
    assert torch.equal(D(DX).min_norm().value, D(DX.reshape(-1)).min_norm().value)


def test_directions_follow_the_order_of_the_points(fitted):
    problem = fitted.problem()
    ordered = problem.estimate(Move([5, 2], DX)).min_norm().value
    renamed = problem.estimate(Move([2, 5], DX.flip(0))).min_norm().value
    swapped = problem.estimate(Move([2, 5], DX)).min_norm().value
    assert error(renamed, ordered) <= 1e-12
    assert (swapped - ordered).norm() > 1e-3 * (ordered - problem.weights()).norm()


def test_points_may_be_a_tensor(fitted):
    problem = fitted.problem()
    named = problem.estimate(Move(torch.tensor(MOVED), DX)).min_norm().value
    assert torch.equal(named, problem.estimate(Move(MOVED, DX)).min_norm().value)
