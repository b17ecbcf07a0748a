"""The paper's toy example (section 5.1), to eight decimals, from the library's own calls."""

import json
import math

import pytest
import torch

from solset.paper._toy import ToyResult, ToySettings, distance_to_hyperbola, run_toy, toy_problem
from solset.paper._toy_report import MODULUS_NOTE, toy_experiment
from solset.reports._run_folder import RunFolder

NUMBERS = {
    "perturbation": 1 / math.sqrt(5),  # 0.447214
    "risk_clean": 0.0,
    "risk_moved": 0.4,  # ½(2 - 1.6)² + ½(4 - 3.2)²
    "modulus": 0.4,  # |w₁w₂| / (‖x‖‖w‖) = 2 / (√5·√5)
    "radius": 0.178885438,
    "distance": 0.178885438,  # 0.4 / √5
    "risk_estimated": 0.0121661440,  # ½·5·0.8²·(2.5 - 1.16·2.08)², the paper's 0.012
    "true_distance": 0.2150265267,
}


@pytest.fixture(scope="module")
def result() -> ToyResult:
    return run_toy(ToySettings())


@pytest.mark.parametrize(("name", "value"), NUMBERS.items())
def test_number(result, name, value):
    assert getattr(result, name) == pytest.approx(value, rel=0, abs=1e-8)


def test_change_of_minimum_norm(result):
    expected = torch.tensor([0.16, 0.08], dtype=torch.float64)
    torch.testing.assert_close(result.change, expected, rtol=0, atol=1e-8)


def test_true_distance_is_attained_and_not_undercut():
    w, product = toy_problem()[0].weights(), 2.5
    axis = torch.linspace(0.5, 3.0, 1_000_001, dtype=torch.float64)
    curve = torch.stack([axis, product / axis], dim=1)
    nearest = float((curve - w).norm(dim=1).min())
    # On a grid of 2.5e-6 the nearest of its points is at most (1e-5)² farther than the nearest of the curve.
    assert 0 <= nearest - distance_to_hyperbola(w, product) <= 1e-10


def test_samples_satisfy_the_set_equation(result):
    # H v + BΔx = 0 at w̄ = (1, 2): w₂v₁ + w₁v₂ = 0.4, for H = 5(2, 1)ᵀ(2, 1) and BΔx = -2(2, 1)ᵀ.
    changes = result.samples - torch.tensor([1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(
        changes @ torch.tensor([2.0, 1.0], dtype=torch.float64),
        torch.full((5,), 0.4, dtype=torch.float64),
        rtol=0,
        atol=1e-10,
    )
    assert result.set_residual <= 1e-10


def test_the_estimated_set_is_a_line_along_1_minus_2(result):
    assert result.dimension == 1
    along = result.samples - torch.tensor([1.16, 2.08], dtype=torch.float64)
    assert torch.linalg.matrix_rank(along, atol=1e-10) == 1
    torch.testing.assert_close(along[:, 1], -2.0 * along[:, 0], rtol=0, atol=1e-10)


def test_samples_come_no_nearer_than_the_set_and_leave_the_hyperbola(result):
    lengths = (result.samples - torch.tensor([1.0, 2.0], dtype=torch.float64)).norm(dim=1)
    assert result.sampled_distance == pytest.approx(float(lengths.min()), abs=1e-15)
    assert result.sampled_distance >= result.distance
    for sample, risk in zip(result.samples, result.sample_risks, strict=True):
        assert risk == pytest.approx(0.5 * 5 * 0.64 * (2.5 - float(sample.prod())) ** 2, abs=1e-14)
        assert risk <= 0.4


def test_the_map_is_stationary_because_two_points_constrain_one_product(result):
    assert result.optimality == "stationary"
    assert "2 rows of J have numerical rank 1" in result.reason


def test_the_seed_decides_the_samples_and_nothing_else(result):
    again, other = run_toy(ToySettings()), run_toy(ToySettings(seed=1))
    assert torch.equal(again.samples, result.samples)
    assert not torch.equal(other.samples, result.samples)
    assert all(getattr(other, name) == getattr(result, name) for name in NUMBERS)


def test_the_page_says_0_4_and_why_0_2_cannot_be(tmp_path):
    settings = ToySettings()
    folder = RunFolder.open(tmp_path / "run", settings={"seed": settings.seed})
    _, page = toy_experiment(settings, folder)
    text = page.read_text(encoding="utf-8")
    assert MODULUS_NOTE in text
    assert "0.2 · ‖Δx‖ = 0.0894" in MODULUS_NOTE
    assert "only 0.4 · 0.4472 gives 0.1789, so 0.2 cannot be the modulus" in MODULUS_NOTE
    for shown in ("0.17888544", "0.2150265", "0.178885", "0.0121661"):
        assert shown in text
    stored = json.loads((folder.path / "result.json").read_text())
    assert stored["modulus"] == pytest.approx(0.4, rel=0, abs=1e-12)
    expected = {"result.json", "samples.csv", "solutions.safetensors", "report.html", "run.json"}
    expected |= {f"{name}.{kind}" for name in ("solution_sets", "loss_contours") for kind in ("png", "svg")}
    assert {entry.name for entry in folder.path.iterdir()} == expected
