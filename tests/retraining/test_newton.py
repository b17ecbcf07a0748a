"""Newton's method ends at certified minima, those of the gradient flow, against dense float64 autograd."""

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, retrain
from solset.errors import SolsetWarning, Status
from solset.linalg import DenseOperator, krylov, smallest_eigenpair
from solset.retraining import GradientDescent, Newton
from solset.retraining import _descent as descent
from solset.solvers import CG


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tanh_net(seed: int, weight_decay: float) -> tuple[Problem, nn.Module]:
    """A net of 21 weights at a minimum of eight points that it cannot fit."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double().eval()
    x, y = draw(8, 2, seed=seed), draw(8, 1, seed=seed + 100)
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=weight_decay, gradient_tol=10.0)
    start = problem.risk()
    ended = Newton().run(start, start.outputs)
    model = ended.apply_to(model)
    return Problem(model, nn.MSELoss(), x, y, weight_decay=weight_decay), model


def eigenvalues(problem: Problem, model: nn.Module, change: Move, weights: Tensor) -> Tensor:
    """The eigenvalues of the Hessian on changed data, by autograd."""
    risk = change.applied_to(problem.risk())
    inputs, targets = risk.points[range(problem.point_count)]
    sizes = {name: value.shape for name, value in model.named_parameters()}

    def value(w: Tensor) -> Tensor:
        parts = torch.split(w, [math.prod(shape) for shape in sizes.values()])
        named = {name: part.reshape(sizes[name]) for name, part in zip(sizes, parts, strict=True)}
        outputs = torch.func.functional_call(model, named, (inputs,))
        return nn.functional.mse_loss(outputs, targets) + 0.5 * risk.weight_decay * w @ w

    return torch.linalg.eigvalsh(torch.func.jacrev(torch.func.jacrev(value))(weights))


CASES = [(0, 0.1, True), (1, 0.3, True), (2, 1.0, True), (3, 1.0, True), (4, 0.3, True)]
MATRIX_FREE = pytest.param(0, 0.1, False, marks=pytest.mark.slow)


@pytest.mark.parametrize(("seed", "size", "is_dense"), [*CASES, MATRIX_FREE])
def test_it_ends_at_minima(seed, size, is_dense, monkeypatch):
    monkeypatch.setattr(descent, "SMALL", 1000 if is_dense else 0)
    problem, model = tanh_net(seed, 0.01)
    change = Move(None, size * draw(8, 2, seed=seed + 7))
    retrained = retrain(problem, change, method=Newton())
    assert (retrained.status, retrained.gradient_norm <= 1e-10) == (Status.CONVERGED, True)
    smallest = float(eigenvalues(problem, model, change, retrained.weights)[0])
    assert smallest > 1e-6
    assert retrained.smallest == pytest.approx(smallest, rel=1e-2)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_ends_where_gradient_descent_goes(seed):
    problem, _ = tanh_net(seed, 0.03)
    change = Move(None, 0.5 * draw(8, 2, seed=seed + 7))
    retrained = retrain(problem, change, method=Newton())
    descended = retrain(problem, change, method=GradientDescent(400, 0.2, progress=False))
    assert (descended.change).norm() > 0.5
    settled = Newton().run(change.applied_to(problem.risk()).at(descended.weights), problem.risk().outputs)
    torch.testing.assert_close(retrained.weights, settled.weights, rtol=0, atol=1e-7)


class Well(nn.Module):
    """Outputs ``w² - 1`` and ``v``: minima at ``w = ±1``, a saddle at ``w = 0``."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w, 0.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.w[:1].square() - 1 + 0 * x, self.w[1:] + x], dim=1)


def well(w: float) -> Problem:
    zero = torch.zeros(1, 1, dtype=torch.float64)
    return Problem(
        Well(w).eval(), nn.MSELoss(), zero, torch.zeros(1, 2, dtype=torch.float64), weight_decay=0.1
    )


@pytest.mark.parametrize("solver", [None, CG()])
def test_it_leaves_a_saddle(solver):
    # Newton's method on the gradient alone stays at w = 0, where the other weight is all that moves.
    change = Move(None, torch.full((1, 1), 0.3, dtype=torch.float64))
    retrained = retrain(well(0.0), change, method=Newton(solver=solver))
    assert retrained.status is Status.CONVERGED
    # 2 w (w² - 1) + 0.1 w = 0 and v + 0.3 + 0.1 v = 0
    expected = torch.tensor([0.95**0.5, 0.3 / 1.1], dtype=torch.float64)
    torch.testing.assert_close(retrained.weights.abs(), expected, rtol=0, atol=1e-9)


def test_a_saddle_that_it_may_not_leave_is_no_solution():
    change = Move(None, torch.zeros(1, 1, dtype=torch.float64))
    with pytest.warns(SolsetWarning, match=r"at a saddle: the Hessian has an eigenvalue of -1\.9"):
        retrained = retrain(well(0.0), change, method=Newton(max_steps=0))
    assert retrained.status is Status.INDEFINITE


class Wave(nn.Module):
    """Outputs ``x w`` and ``sin(3w)``, for the loss below."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([math.pi / 12], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x * self.w, torch.sin(3 * self.w).expand(len(x), 1)], dim=1)


def test_a_step_does_not_leap_over_a_barrier():
    # E' = -x + sin(6w)/2 + w/2: Newton's step from cos(6w) = 0 lands exactly on another solution.
    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        return (-outputs[:, 0] + outputs[:, 1].square() / 6).mean()

    x = torch.tensor([[0.5 + math.pi / 24]], dtype=torch.float64)
    problem = Problem(Wave().eval(), loss, x, torch.zeros(1, 1, dtype=torch.float64), weight_decay=0.5)
    change = Move(None, torch.tensor([[-math.pi / 6]], dtype=torch.float64))
    retrained = retrain(problem, change, method=Newton())
    descended = retrain(problem, change, method=GradientDescent(400, 0.1, progress=False))
    torch.testing.assert_close(retrained.weights, descended.weights, rtol=0, atol=1e-9)


def test_float32_converges_to_its_rounding():
    _, model = tanh_net(1, 0.03)
    single = Problem(
        model.float(), nn.MSELoss(), draw(8, 2, seed=1).float(), draw(8, 1, seed=101).float(),
        weight_decay=0.03,
    )  # fmt: skip
    retrained = retrain(single, Move(None, 0.05 * draw(8, 2, seed=8).float()), method=Newton())
    assert retrained.status is Status.CONVERGED
    assert retrained.gradient_norm < 1e-5


@pytest.mark.parametrize("offset", [0.0, 1e5, 1e6, 1e7, 1.7e9])
def test_float32_does_not_call_a_column_that_hides_the_others_converged(offset):
    x, y = draw(26, 4, seed=0), draw(26, 1, seed=1).float().double()
    x[:, 0] = offset + max(1.0, offset / 2) * x[:, 0]
    x = x.float().double()

    def ridge(rows: Tensor) -> Tensor:
        """The minimum in closed form, from columns that are scaled first."""
        features = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
        sizes = features.norm(dim=0)
        decayed = torch.cat([features / sizes * math.sqrt(2 / len(rows)), torch.diag(0.1 / sizes)])
        targets = torch.cat([y * math.sqrt(2 / len(rows)), torch.zeros(5, 1, dtype=torch.float64)])
        return (torch.linalg.lstsq(decayed, targets, driver="gelsd").solution / sizes.unsqueeze(1)).flatten()

    model, move = nn.Linear(4, 1).eval(), torch.tensor([[0.0, 0.5, 0.0, 0.0]])
    weights = ridge(x)
    nn.utils.vector_to_parameters(weights.float(), model.parameters())
    problem = Problem(model, nn.MSELoss(), x.float(), y.float(), weight_decay=0.01, gradient_tol=1e9)
    truth = ridge(x.index_add(0, torch.tensor([3]), move.double())) - weights
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        retrained = retrain(problem, Move([3], move), method=Newton())
    is_right = float((retrained.change - truth).norm()) <= 0.01 * float(truth.norm())
    assert is_right or retrained.status is Status.MAX_STEPS
    assert is_right == (offset == 0)
    assert any("max_steps" in str(one.message) for one in told) == (not is_right)


def symmetric(basis: Tensor, values: Tensor) -> DenseOperator:
    matrix = basis @ torch.diag(values) @ basis.T
    return DenseOperator((matrix + matrix.T) / 2)


class TestSmallestEigenvalue:
    @pytest.mark.parametrize("size", [5, 60, 300])
    def test_is_that_of_the_matrix(self, size):
        basis, _ = torch.linalg.qr(draw(size, size, seed=1))
        values = torch.linspace(0.1, 10, size, dtype=torch.float64)
        values[0] = -0.5
        pair = smallest_eigenpair(symmetric(basis, values))
        assert pair.value == pytest.approx(-0.5, abs=0.02)
        assert pair.relative < -0.04

    def test_with_an_inverse_has_the_same_sign_and_needs_less(self):
        basis, _ = torch.linalg.qr(draw(300, 300, seed=1))
        values = torch.logspace(-4, 2, 300, dtype=torch.float64)
        close = symmetric(basis, 1 / values)
        values[0] = -1e-5
        matrix = symmetric(basis, values)
        pair = smallest_eigenpair(matrix, inverse=close, steps=10)
        assert pair.value == pytest.approx(-1e-5, rel=0.1)
        assert pair.products <= 20

    def test_a_krylov_space_is_orthonormal(self):
        basis, _ = torch.linalg.qr(draw(50, 50, seed=1))
        matrix = symmetric(basis, torch.logspace(-8, 8, 50, dtype=torch.float64))
        space = krylov(matrix, draw(50, seed=2), 20)
        eye = torch.eye(20, dtype=torch.float64)
        torch.testing.assert_close(space.vectors.T @ space.vectors, eye, rtol=0, atol=1e-12)
