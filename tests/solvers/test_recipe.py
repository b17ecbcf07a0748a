"""The element of a recipe: matrix functions, what optimizers say, and real trainings on quadratics."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from solset.errors import SolsetWarning, Status
from solset.linalg import DenseOperator, NormalOperator
from solset.sets import AffineSet
from solset.solvers import CG, LSMR, MINRES, Dense, Dual, element_of
from solset.solvers.filters import GradientFlow, Recipe

P, M = 30, 12


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows() -> Tensor:
    return draw(M, P, seed=0)


def scale() -> Tensor:
    return 10 ** (2 * draw(P, seed=1)).clamp(-3, 3)


def dense_answer(matrix: Tensor, choice: Recipe, force: Tensor) -> Tensor:
    """``P^½ φ_t(P^½ H P^½ + λ) P^½ b`` by the integral of the matrix exponential."""
    root = torch.ones(P).double() if choice.scale is None else choice.scale.sqrt()
    inside = root[:, None] * matrix * root + torch.diag(choice.decay * torch.ones(P).double())
    block = torch.zeros(P + 1, P + 1).double()
    block[:P, :P], block[:P, P] = -inside, root * force
    return root * torch.linalg.matrix_exp(choice.length * block)[:P, P]


def relative(one: Tensor, two: Tensor) -> float:
    return float((one - two).norm() / two.norm())


CHOICES = {
    "plain": Recipe(0.3),
    "decay": Recipe(0.3, decay=0.2),
    "metric": Recipe(0.1, scale=scale()),
    "metric and decay": Recipe(0.1, decay=0.2, scale=scale()),
    "decays": Recipe(0.1, decay=draw(P, seed=3).abs(), scale=scale()),
    "decays alone": Recipe(0.3, decay=draw(P, seed=3).abs()),
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
class TestMatrixFunctions:
    @pytest.mark.parametrize("solver", [Dense(), CG(), MINRES(), Dual()], ids=repr)
    def test_of_a_symmetric_matrix(self, choice, solver):
        A, b = rows(), draw(P, seed=2)
        operator = NormalOperator(DenseOperator(A), 0.05)
        element = element_of(solver.prepare(operator), choice, b)
        assert element.status is Status.CONVERGED
        exact = dense_answer(A.T @ A + 0.05 * torch.eye(P).double(), choice, b)
        assert relative(element.value, exact) <= 1e-10

    @pytest.mark.parametrize("solver", [Dense(), LSMR(), Dual()], ids=repr)
    def test_of_rows(self, choice, solver):
        A, b = rows(), draw(M, seed=2)
        element = element_of(solver.prepare(DenseOperator(A)), choice, b)
        assert relative(element.value, dense_answer(A.T @ A, choice, A.T @ b)) <= 1e-10


@pytest.mark.parametrize("solver", [Dense(), CG(), MINRES()], ids=repr)
@pytest.mark.parametrize("weights", [None, scale()], ids=["plain", "metric"])
def test_negative_curvature_counts_as_none(solver, weights):
    vectors = torch.linalg.qr(draw(P, P, seed=4)).Q
    values = torch.linspace(-1, 3, P).double()
    matrix = (vectors * values) @ vectors.T
    choice = Recipe(50.0, scale=weights)
    element = element_of(solver.prepare(DenseOperator((matrix + matrix.T) / 2)), choice, vectors[:, 0])
    largest = 50.0 * (1.0 if weights is None else float(weights.max()))
    assert float(element.value.norm()) <= 1.0001 * largest
    if weights is None:
        torch.testing.assert_close(element.value, 50.0 * vectors[:, 0], rtol=1e-9, atol=1e-9)


def test_a_scale_for_other_weights_is_refused():
    system = Dense().prepare(DenseOperator(torch.eye(3).double()))
    with pytest.raises(ValueError, match="one number for each of the 3 weights"):
        element_of(system, Recipe(1.0, scale=torch.ones(4)), torch.ones(3).double())
    with pytest.raises(ValueError, match="AffineSet.element"):
        system.filtered(Recipe(1.0, scale=torch.ones(3)), torch.ones(3).double())


def test_an_answer_that_is_cut_short_says_how_far_it_still_moved(monkeypatch):
    monkeypatch.setattr("solset.solvers._element.MAX_PRODUCTS", 8)
    A = draw(P, P, seed=5)
    operator = NormalOperator(DenseOperator(A), 1.0)
    with pytest.warns(SolsetWarning, match="8 products"):
        element = element_of(CG().prepare(operator), Recipe(100.0, scale=scale()), draw(P, seed=2))
    assert element.status is Status.MAX_STEPS


class TestRatesBeyondStability:
    """A rate above 2 / the largest eigenvalue is refused, with the eigenvalue and what to do."""

    operator = DenseOperator(torch.diag(torch.linspace(0.1, 4.0, 40)).double())

    @pytest.mark.filterwarnings("ignore:gradient descent:solset.errors.SolsetWarning")
    @pytest.mark.parametrize("solver", [Dense(), CG(), MINRES(), Dual()], ids=repr)
    def test_is_refused(self, solver):
        matrix = NormalOperator(DenseOperator(self.operator.matrix.sqrt()))
        line = AffineSet(solver.prepare(matrix), torch.ones(40).double(), torch.zeros(40).double())
        with pytest.raises(ValueError, match=r"at most 0\.5.*diverges.*filters.Recipe"):
            line.element(GradientFlow(50, 0.8))
        assert line.element(GradientFlow(50, 0.49)).status is Status.CONVERGED

    @pytest.mark.parametrize("solver", [Dense(), MINRES()], ids=repr)
    def test_growth_along_negative_curvature_is_refused(self, solver):
        matrix = DenseOperator(torch.diag(torch.linspace(-0.1, 2.0, 40)).double())
        line = AffineSet(solver.prepare(matrix), torch.ones(40).double(), torch.zeros(40).double())
        with pytest.raises(ValueError, match=r"grows .*-fold along an eigenvalue of -0\.0"):
            line.element(GradientFlow(1000, 0.5))
        assert float(line.element(Recipe(500.0)).value.norm()) <= 500.0 * 40

    def test_a_recipe_of_any_length_is_stable(self):
        element = Dense().prepare(self.operator).filtered(Recipe(1e9), torch.ones(40).double())
        torch.testing.assert_close(element.value, 1 / torch.linspace(0.1, 4.0, 40).double())


class Quadratic:
    """Least squares of a linear model, whose last target is moved: training is linear in it."""

    def __init__(self) -> None:
        self.x, self.y = draw(20, 6, seed=6), draw(20, 1, seed=7)
        self.hessian = 2 * self.x.T @ self.x / 20
        self.force = 2 * self.x[-1] / 20  # of one unit of the last target

    def trained(self, shift: float, make, steps: int) -> tuple[nn.Linear, torch.optim.Optimizer]:
        model = nn.Linear(6, 1, bias=False).double()
        nn.init.zeros_(model.weight)
        optimizer, target = make(model.parameters()), self.y.clone()
        target[-1] += shift
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(self.x), target).backward()
            optimizer.step()
        return model, optimizer

    def errors(self, make, steps: int) -> float:
        """The element of the recipe against the derivative of real runs, which are linear in the target."""
        model, optimizer = self.trained(0.0, make, steps)
        moved, _ = self.trained(1.0, make, steps)
        choice = Recipe.of(optimizer, model, steps=steps)
        system = Dense().prepare(DenseOperator(self.hessian))
        element = element_of(system, choice, self.force).value
        return relative(element, (moved.weight - model.weight).detach().flatten())


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_full_batch_descent_is_the_flow_up_to_the_rate(momentum):
    """At equal length the error falls as the learning rate does."""
    errors = [
        Quadratic().errors(partial(torch.optim.SGD, lr=rate, momentum=momentum), round(0.8 / rate))
        for rate in (0.04, 0.02, 0.01)
    ]
    assert errors[-1] <= 0.05
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.2) == errors[1] / errors[2]


def test_adamw_with_a_frozen_metric_is_the_flow_with_decoupled_decay():
    quadratic, errors = Quadratic(), []
    for rate in (0.02, 0.01, 0.005):
        steps = round(2.0 / rate)
        runs = []
        for shift in (0.0, 1.0):
            model, target = nn.Linear(6, 1, bias=False).double(), quadratic.y.clone()
            nn.init.zeros_(model.weight)
            metric = 1 / (torch.linspace(0.5, 4, 6).double().sqrt() + 1e-8)
            target[-1] += shift
            for _ in range(steps):  # w - η (P ∇E + λ w), the step of AdamW without its averages
                slope = torch.autograd.grad(nn.functional.mse_loss(model(quadratic.x), target), model.weight)[
                    0
                ]
                with torch.no_grad():
                    model.weight -= rate * (metric * slope + 0.3 * model.weight)
            runs.append(model.weight.detach().flatten())
        choice = Recipe(rate * steps, decay=0.3, scale=metric)
        element = element_of(Dense().prepare(DenseOperator(quadratic.hessian)), choice, quadratic.force).value
        errors.append(relative(element, runs[1] - runs[0]))
    assert errors[-1] <= 0.05
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.2) == errors[1] / errors[2]
