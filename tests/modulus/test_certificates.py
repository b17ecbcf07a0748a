"""Certificates that hold where numbers are close to rounding, and are withheld where they do not."""

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, SolsetWarning, audit, filters, lipschitz_modulus
from solset.modulus import Certainty
from solset.operators import Hessian, InputJacobian, Jacobian, Mixed


def twins(distance: float, dtype: torch.dtype = torch.float64, **options) -> Problem:
    """A fitted problem in which two points are at a small distance."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
    inputs = torch.randn(5, 3, generator=generator, dtype=torch.float64).to(dtype)
    inputs[3] = inputs[0]
    inputs[3, 1] += distance
    return Problem(model, nn.MSELoss(), inputs, model(inputs).detach(), **options)


def modulus_by_rows(problem: Problem) -> float:
    """``‖J⁺ J_x‖₂`` by an orthogonal triangularisation of ``Jᵀ``, in float64."""
    risk = problem.risk()
    rows = Jacobian(risk).to_dense().double()
    features = InputJacobian(risk, range(len(risk.points))).to_dense().double()
    _, factor = torch.linalg.qr(rows.T)
    return float(torch.linalg.matrix_norm(torch.linalg.solve(factor.T, features), 2))


@pytest.mark.parametrize("distance", [1e-4, 1e-5, 1e-6, 3e-7, 1e-7, 1e-8, 1e-9])
def test_near_duplicates_are_resolved_by_the_rows_and_not_by_their_squares(distance: float):
    problem = twins(distance)
    found = lipschitz_modulus(problem)
    assert found.certificate.certainty is Certainty.EXACT
    assert found.optimality == "interpolating"
    assert found.value == pytest.approx(modulus_by_rows(problem), rel=1e-6)


@pytest.mark.filterwarnings("ignore::solset.SolsetWarning")
@pytest.mark.parametrize("distance", [1e-5, 1e-6, 1e-9])
def test_near_duplicates_among_too_many_rows_are_not_known(distance: float, monkeypatch):
    """Rows that are too many for a decomposition of their own; products with them see what squares hide."""
    monkeypatch.setattr("solset.linalg._spectrum.MOST_SHARP", 3)
    problem = twins(distance)
    with pytest.warns(SolsetWarning, match="rows of J are nearly dependent"):
        found = lipschitz_modulus(problem)
    assert found.certificate.certainty is Certainty.UNKNOWN
    assert found.optimality == "interpolating"
    report = audit(problem)
    assert set(report.certainty) == {Certainty.UNKNOWN}
    assert "nearly dependent" in report.message
    estimate = problem.estimate(Move([0], torch.ones(1, 3, dtype=torch.float64)))
    assert "nearly dependent" in estimate.min_norm().message


def test_duplicates_and_separate_points_among_too_many_rows_are_known(monkeypatch):
    monkeypatch.setattr("solset.linalg._spectrum.MOST_SHARP", 3)
    assert lipschitz_modulus(twins(0.0)).certificate.certainty is Certainty.INFINITE
    assert lipschitz_modulus(twins(1e-2)).certificate.certainty is Certainty.EXACT


@pytest.mark.parametrize("distance", [1e-5, 1e-6, 1e-7])
def test_an_estimate_with_near_duplicates_meets_its_equations(distance: float):
    problem = twins(distance)
    generator = torch.Generator().manual_seed(1)
    dx = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    estimate = problem.estimate(Move(None, dx))
    solution = estimate.min_norm()
    assert solution.status == "converged"
    assert estimate.dimension == len(problem.weights()) - 5
    risk = problem.risk()
    change = solution.value - problem.weights()
    pushed = InputJacobian(risk, range(5)) @ dx.flatten()
    assert float((Jacobian(risk) @ change + pushed).norm()) <= 1e-7 * float(pushed.norm())


def test_independent_rows_are_never_called_contradictory():
    problem = twins(1e-9)
    estimate = problem.estimate(Move([0], torch.ones(1, 3, dtype=torch.float64)))
    with pytest.warns(SolsetWarning, match="max_steps"):
        assert estimate.min_norm().status == "max_steps"


def test_duplicates_are_infinite_by_default():
    found = lipschitz_modulus(twins(0.0))
    assert found.certificate.certainty is Certainty.INFINITE
    assert found.optimality == "interpolating"
    assert {carrier.point for carrier in found.certificate.carriers} == {0, 3}


@pytest.mark.parametrize("distance", [0.0, 1e-8, 1e-7, 3e-7])
def test_float32_claims_infinity_only_where_float64_does(distance: float):
    problem = twins(0.0, torch.float32)
    inputs = problem.risk().points[range(5)][0].clone()
    if distance:
        inputs[3, 1] = torch.nextafter(inputs[3, 1], torch.tensor(9.0)) + distance
    model = problem.risk().model
    near = Problem(model, nn.MSELoss(), inputs, model(inputs).detach())
    found = lipschitz_modulus(near, optimality="interpolating")
    if not distance:
        assert found.certificate.certainty is Certainty.INFINITE
        assert "float64" in found.certificate.reason
        assert audit(near).certainty[0] is Certainty.INFINITE
    else:
        assert found.certificate.certainty is Certainty.UNKNOWN
        double = near.in_double()
        assert double is not None
        assert found.value == pytest.approx(modulus_by_rows(double), rel=1e-5)
        assert Certainty.INFINITE not in audit(near).certainty


@pytest.mark.parametrize("bias", [5.0, 20.0, 30.0])
def test_saturated_outputs_are_not_exact_under_constant_rank(bias: float):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2), nn.Sigmoid()).double()
    with torch.no_grad():
        model[2].bias[1] = bias
    inputs = torch.randn(5, 2, dtype=torch.float64)
    problem = Problem(model, nn.MSELoss(), inputs, model(inputs).detach())
    found = lipschitz_modulus(problem, optimality="stationary")
    if found.certificate.certainty is not Certainty.UNKNOWN:
        assert found.value == pytest.approx(modulus_by_rows(problem), rel=1e-6)
    if bias > 5:
        assert found.certificate.certainty is Certainty.UNKNOWN


class Flat(nn.Module):
    """Two outputs: one linear in a weight, and the difference of two powers that is flat at zero."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power, self.weight = power, nn.Parameter(torch.tensor([1.5, 0.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight[1] ** self.power - x[:, 1] ** self.power
        return torch.stack([self.weight[0] * x[:, 0], flat], dim=1)


@pytest.mark.parametrize("power", [2, 3, 5, 7])
def test_a_rank_that_only_looks_constant_is_found_out(power: int):
    model, inputs = Flat(power), torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    problem = Problem(model, nn.MSELoss(), inputs, model(inputs).detach())
    found = lipschitz_modulus(problem, optimality="interpolating")
    assert found.certificate.certainty is Certainty.UNKNOWN
    assert "not constant" in found.certificate.reason


def test_a_certificate_below_its_own_measurement_is_withheld(monkeypatch):
    monkeypatch.setattr("solset.modulus._certificate._measured", lambda *_: 1e9)
    certificate = lipschitz_modulus(twins(1e-2)).certificate
    assert certificate.certainty is Certainty.UNKNOWN
    assert "lies below a ratio that was measured" in certificate.reason


def test_a_loss_without_curvature_has_no_training_flow():
    torch.manual_seed(0)
    model, inputs = nn.Linear(3, 1).double(), torch.randn(2, 3, dtype=torch.float64)
    problem = Problem(model, nn.L1Loss(), inputs, model(inputs).detach())
    estimate = problem.estimate(Move([0], torch.ones(1, 3, dtype=torch.float64)))
    assert estimate.min_norm().status == "converged"
    for choice in (filters.GradientFlow(100, 0.1), filters.Tikhonov(1e-3)):
        with pytest.raises(ValueError, match="without curvature"):
            estimate.element(choice)


def test_a_network_with_complex_values_and_a_frozen_layer_has_a_modulus():
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.Linear(4, 4).requires_grad_(False), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.after(torch.fft.rfft(self.before(x)).abs())

    torch.manual_seed(0)
    model = Spectrum().double().eval()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=0.1, gradient_tol=float("inf"))
    risk = problem.risk()
    solved = torch.linalg.solve(Hessian(risk).to_dense(), Mixed(risk, range(6)).to_dense())
    expected = float(torch.linalg.matrix_norm(solved, 2))
    assert lipschitz_modulus(problem, optimality="stationary").value == pytest.approx(expected, rel=1e-6)
