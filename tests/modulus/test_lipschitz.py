"""What a modulus claims, at points where it would be easy to claim too much."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from solset import Problem, SolsetWarning, audit, lipschitz_modulus
from solset.modulus import Certainty, activation_margin
from solset.paper import theorem_2
from solset.solvers import CG, LSMR, MINRES, Dense
from solset.testing import verify_lipschitz_like
from solset.zoo import DFCNN, HalfSquaredError, ProductModel
from support.interpolators import fitted

CLAIMS = {Certainty.EXACT, Certainty.CONSTANT_RANK, Certainty.INFINITE}


def toy(w1: float, w2: float) -> Problem:
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    return Problem(ProductModel((w1, w2)).eval(), HalfSquaredError(), x, 2 * x)


def least_squares(X: Tensor, y: Tensor, weight_decay: float = 0.0) -> Problem:
    model = nn.Linear(X.shape[1], 1, bias=False).to(X.dtype).eval()
    H = X.T @ X / len(X) + weight_decay / 2 * torch.eye(X.shape[1], dtype=X.dtype)
    with torch.no_grad():
        model.weight.copy_((torch.linalg.pinv(H) @ X.T @ y / len(X)).T)
    return Problem(model, nn.MSELoss(), X, y, weight_decay=weight_decay)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestLeftoverResidual:
    """Eigenvalues of H that only a residual makes are no rank."""

    @pytest.mark.parametrize("off", [0.0, 1e-9, 1e-8, 1e-7, 1e-6])
    def test_the_toy_example_a_little_off_its_set_keeps_its_modulus(self, off: float) -> None:
        found = lipschitz_modulus(toy(1.0, 2.0 + off))
        assert found.value == pytest.approx(0.4, rel=1e-4)
        assert found.certificate.rank == 1

    def test_duplicates_at_a_fitted_point_are_infinite_whatever_the_residual(self) -> None:
        x = draw(6, 4)
        x[3] = x[0]
        y = torch.sin(x.sum(dim=1, keepdim=True))
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        nn.utils.vector_to_parameters(0.5 * draw(25, seed=2), model.parameters())
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(300):
            optimiser.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimiser.step()
        problem = Problem(model.eval(), nn.MSELoss(), x, y, gradient_tol=1.0)
        assert problem.is_fitted
        assert float(problem.gradient().norm()) > 1e-9
        found = lipschitz_modulus(problem)
        assert found.certificate.certainty is Certainty.INFINITE
        assert {carrier.point for carrier in found.certificate.carriers} == {0, 3}
        assert lipschitz_modulus(problem, optimality="stationary").certificate.certainty is Certainty.UNKNOWN

    def test_weights_that_are_not_stationary_prove_nothing(self) -> None:
        x = draw(8, 3)
        model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double().eval()
        nn.utils.vector_to_parameters(draw(11, seed=3), model.parameters())
        problem = Problem(model, nn.MSELoss(), x, draw(8, 1, seed=4), gradient_tol=10.0)
        found = lipschitz_modulus(problem)
        assert found.certificate.certainty is Certainty.UNKNOWN
        assert "not stationary" in found.certificate.reason
        assert found.certificate.upper == float("inf")


class TestFloat32:
    def test_values_are_those_of_float64(self) -> None:
        x = draw(3, 5).float()
        net = DFCNN([5, 16, 2], generator=torch.Generator().manual_seed(0), dtype=torch.float32).eval()
        problem = Problem(net, nn.MSELoss(), x, net(x).detach())
        exact = Problem(net.double(), nn.MSELoss(), x.double(), net(x.double()).detach())
        expected = lipschitz_modulus(exact)
        net.float()
        found = lipschitz_modulus(problem)
        assert found.certificate.certainty is Certainty.EXACT
        assert found.value == pytest.approx(expected.value, rel=1e-4)
        assert torch.allclose(audit(problem).modulus, audit(problem, joint=True).modulus)

    def test_near_duplicates_are_not_proven_infinite(self) -> None:
        model = nn.Linear(3, 1, bias=False).eval()
        x = draw(2, 3).float()
        for distance, is_apart in ((1e-3, True), (3e-5, True), (0.0, False)):
            twins = torch.cat([x, x[:1] + distance * torch.tensor([[0.0, 1.0, 0.0]])])
            problem = Problem(model, nn.MSELoss(), twins, model(twins).detach())
            found = lipschitz_modulus(problem, optimality="interpolating")
            assert (found.certificate.certainty is Certainty.INFINITE) == (not is_apart)


class TestKernels:
    def test_a_tiny_curvature_is_not_taken_for_none(self) -> None:
        X = torch.tensor([[1.0, 0.0], [1.0, 1e-6], [1.0, -1e-6]], dtype=torch.float64)
        found = lipschitz_modulus(least_squares(X, draw(3, 1)))
        assert found.certificate.certainty is Certainty.UNKNOWN
        assert 1e5 < found.value < float("inf")

    def test_a_redundant_feature_is_proven_infinite(self) -> None:
        X = draw(10, 3)
        X[:, 2] = X[:, 1]
        found = lipschitz_modulus(least_squares(X, draw(10, 1, seed=5)))
        assert found.certificate.certainty is Certainty.INFINITE
        u = found.certificate.multiplier
        assert abs(float(u[1] + u[2])) <= 1e-12

    def test_the_gauss_newton_matrix_proves_nothing_about_the_hessian(self) -> None:
        X = draw(10, 3)
        X[:, 2] = X[:, 1]
        problem = least_squares(X, draw(10, 1, seed=5))
        for solver in (None, Dense()):
            found = lipschitz_modulus(problem, optimality="gauss_newton", solver=solver)
            assert found.certificate.certainty is Certainty.UNKNOWN


class TestProductsAlone:
    def test_bounds_that_cannot_hold_are_taken_back(self) -> None:
        base = fitted()
        inputs = base.inputs.clone()
        inputs[7] = inputs[2] + 1e-3 * torch.eye(64, dtype=torch.float64)[0]
        with torch.no_grad():
            targets = base.model(inputs)
        problem = Problem(base.model, nn.MSELoss(), inputs, targets)
        true = lipschitz_modulus(problem, optimality="interpolating").value
        rough = lipschitz_modulus(problem, solver=CG(tol=1e-2, max_steps=5))
        assert rough.certificate.certainty is Certainty.UNKNOWN
        assert rough.certificate.upper == float("inf")
        assert rough.value >= rough.certificate.lower
        assert rough.certificate.lower <= true * (1 + 1e-6)


class TestParts:
    def test_a_point_by_itself_needs_a_fitted_problem(self) -> None:
        problem = least_squares(draw(10, 3), draw(10, 1, seed=1), weight_decay=0.1)
        with pytest.raises(ValueError, match="joint"):
            lipschitz_modulus(problem, points=[3], joint=False)

    @pytest.mark.parametrize("options", [{"points": [3], "joint": False}, {"layer": "layers.0"}])
    def test_brute_force_tests_the_part_that_the_modulus_is_of(self, options: dict) -> None:
        problem = fitted().problem()
        found = lipschitz_modulus(problem, **options)
        g = torch.Generator().manual_seed(0)
        trials = verify_lipschitz_like(problem, found, radius=1e-3, trials=1, generator=g)
        assert repr(trials).startswith("LipschitzTrials(largest ratio ")
        assert trials.unsettled == 0
        assert 0.99 <= trials.along_worst_direction / found.value <= 1.01
        assert abs(trials.excess) <= 0.01


class TestTheDoor:
    def test_solvers_of_another_map_are_refused(self) -> None:
        for solver in (Dense(), LSMR()):
            with pytest.raises(TypeError, match="solver"):
                lipschitz_modulus(fitted().problem(), optimality="interpolating", solver=solver)

    def test_numbers_that_make_no_sense_are_refused(self) -> None:
        problem = fitted().problem()
        options = {"probes": {"probes": -1}, "margin_candidates": {"margin_candidates": -1}}
        options["steps"] = {"solver": MINRES(), "max_steps": 1}
        for argument, option in options.items():
            with pytest.raises(ValueError, match=argument):
                lipschitz_modulus(problem, points=[0], **option)
        with pytest.raises(ValueError, match="layers"):
            lipschitz_modulus(problem, layer="head")

    def test_theorem_2_takes_one_point_in_the_networks_dtype(self) -> None:
        net = DFCNN([4, 3, 1], generator=torch.Generator().manual_seed(0))
        for inputs in (draw(3, 4), draw(4).float()):
            with pytest.raises(ValueError, match="inputs"):
                theorem_2(net, inputs, 0)


class Clamped(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x @ self.weight)


@pytest.mark.parametrize(
    ("function", "kink"),
    [
        (functional.relu, 0.0),
        (nn.LeakyReLU(), 0.0),
        (nn.ReLU(inplace=True), 0.0),
        (nn.ReLU6(), 6.0),
        (nn.Hardtanh(-1.0, 5.0), 5.0),
        (nn.Hardswish(), 3.0),
        (nn.Threshold(4.5, 0.0), 4.5),
        (lambda z: z.clamp(min=0.0, max=5.5), 5.5),
        (lambda z: z.clamp_min(1.0), 1.0),
        (lambda z: torch.maximum(z, 3 * torch.ones_like(z)), 3.0),
        (torch.tanh, None),
    ],
)
def test_kinks_of_every_kind_are_seen(function, kink: float | None) -> None:
    x = torch.tensor([[2.2]], dtype=torch.float64)  # z = 4.4, and ‖∇z‖ = ‖(x, w)‖
    model = Clamped(function).eval()
    problem = Problem(model, nn.MSELoss(), x, model(x).detach(), gradient_tol=10.0)
    expected = float("inf") if kink is None else abs(4.4 - kink) / (2.2**2 + 4.0) ** 0.5
    found = activation_margin(problem.risk())
    assert found == pytest.approx(expected)


class TestAuditOfAHessian:
    def test_points_that_nothing_answers_are_infinite_and_said(self) -> None:
        X = draw(10, 3)
        X[:, 2] = X[:, 1]
        problem = least_squares(X, draw(10, 1, seed=5))
        with pytest.warns(SolsetWarning, match="all 10 moduli are infinite"):
            found = audit(problem)
        assert bool(found.modulus.isinf().all())
        assert any("not solved" in note for note in found.notes)
        assert any("rank 2 of 3" in note for note in found.notes)

    def test_joint_is_an_idea_of_the_other_map(self) -> None:
        problem = least_squares(draw(10, 3), draw(10, 1, seed=5))
        for joint in (True, False):
            with pytest.raises(ValueError, match="joint"):
                audit(problem, joint=joint)

    def test_bad_options_are_named(self) -> None:
        problem = least_squares(draw(10, 3), draw(10, 1, seed=5))
        for precision in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="prior_precision"):
                audit(problem, prior_precision=precision)
        with pytest.raises(TypeError, match="validation"):
            audit(problem, validation=torch.zeros(3, 3))  # pyright: ignore


@pytest.mark.parametrize("size", [1e7, 1.0, 1e-10])
def test_the_audit_names_the_same_infinite_points_in_any_unit(size: float) -> None:
    x = size * draw(3, 4)
    x[2] = x[0]
    model = nn.Linear(4, 1, bias=False).double().eval()
    problem = Problem(model, nn.MSELoss(), x, model(x).detach(), gradient_tol=float("inf"))
    found = audit(problem)
    assert found.modulus.isinf().tolist() == [True, False, True]
    assert lipschitz_modulus(problem, points=[0], optimality="interpolating").value == float("inf")
    assert {
        lipschitz_modulus(problem, points=[1], optimality="interpolating").certificate.certainty
    } <= CLAIMS
