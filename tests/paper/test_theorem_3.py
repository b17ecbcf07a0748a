"""Theorem 3: the modulus of a data set, exactly, beside the bounds that single points give."""

import pytest
import torch
from torch import nn

from solset import Problem, lipschitz_modulus
from solset.modulus import Certainty, modulus_chain
from solset.paper._toy import toy_problem
from solset.problem import _point as defaults
from solset.solvers import CG
from solset.testing import verify_lipschitz_like
from support.fitted import MOVED, net
from support.interpolators import Fit, brute_modulus, fitted, rows


def test_the_toy_example_has_modulus_two_fifths() -> None:
    problem, _ = toy_problem()
    found = lipschitz_modulus(problem, optimality="stationary")
    assert found.value == pytest.approx(0.4, abs=1e-10)
    assert found.certificate.certainty is Certainty.CONSTANT_RANK
    assert found.certificate.criterion_holds
    assert repr(found) == "LipschitzModulus(0.4, exact under constant rank)"
    assert found.message == found.certificate.reason


def test_the_toy_example_cannot_keep_both_outputs() -> None:
    problem, _ = toy_problem()
    found = lipschitz_modulus(problem, optimality="interpolating")
    assert found.value == float("inf")
    assert found.certificate.certainty is Certainty.INFINITE
    u = found.certificate.multiplier.flatten()
    expected = torch.tensor([2.0, -1.0], dtype=torch.float64) / 5**0.5
    assert min(float((u - s * expected).norm()) for s in (1, -1)) <= 1e-12
    assert {c.point for c in found.certificate.carriers} == {0, 1}
    assert found.headline == "infinite, proven: points 0 and 1 cannot all be answered"
    assert found.to_dict()["value"] == "Infinity"
    assert found.certificate.headline.startswith("proven infinite: a combination u has Jᵀu = 0")


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("points", [None, [3], [2, 7, 5]])
def test_the_value_is_that_of_the_pseudo_inverse(activation: str, points: list[int] | None) -> None:
    problem = fitted(activation).problem()
    found = lipschitz_modulus(problem, points=points)
    assert found.certificate.certainty is Certainty.EXACT
    J, Jx = rows(problem, points)
    assert found.value == pytest.approx(brute_modulus(J, Jx), rel=1e-9)
    assert found.certificate.lower == pytest.approx(found.value, rel=1e-9)
    dx, dw = found.worst_direction, found.weight_direction
    assert float(dx.norm()) == pytest.approx(1.0)
    assert float(dw.norm()) == pytest.approx(found.value, rel=1e-9)
    assert float((J @ dw + Jx @ dx.flatten()).norm()) <= 1e-9 * float((Jx @ dx.flatten()).norm())


def test_products_alone_find_the_same_value_between_two_bounds() -> None:
    problem = fitted().problem()
    exact = lipschitz_modulus(problem, points=[1, 4, 9]).value
    found = lipschitz_modulus(problem, points=[1, 4, 9], solver=CG(tol=1e-12))
    assert found.value == pytest.approx(exact, rel=1e-4)
    assert found.certificate.lower <= exact * (1 + 1e-8)
    assert exact <= found.certificate.upper
    assert found.certificate.certainty is Certainty.UNKNOWN  # no rank was seen


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_chain_of_inequalities_holds(activation: str, seed: int) -> None:
    found = modulus_chain(fitted(activation, seed).problem())
    assert found.headline.endswith(", 12 points")
    assert bool((found.isolated <= found.joint * (1 + 1e-12)).all())
    for smaller, larger in zip(found.bounds, found.bounds[1:], strict=False):
        assert smaller <= larger * (1 + 1e-12)
    problem = fitted(activation, seed).problem()
    alone = lipschitz_modulus(problem, points=[4], joint=False)
    assert float(found.isolated[4]) == pytest.approx(alone.value, rel=1e-9)
    together = lipschitz_modulus(problem, points=[4])
    assert float(found.joint[4]) == pytest.approx(together.value, rel=1e-9)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_brute_force_never_exceeds_it_and_attains_it_along_the_worst_direction(
    activation: str, seed: int
) -> None:
    problem = fitted(activation, seed).problem()
    modulus = lipschitz_modulus(problem)
    g, excesses = torch.Generator().manual_seed(seed), []
    reach = min(1e-3, 0.1 * modulus.certificate.activation_margin)  # of a ReLU net: inside its region
    for radius in (reach, reach / 3):
        trials = verify_lipschitz_like(problem, modulus, radius=radius, trials=3, generator=g)
        assert trials.unsettled == 0
        assert trials.along_worst_direction >= 0.99 * modulus.value
        assert max(trials.ratios) < 0.9 * modulus.value  # random pairs alone would not have found it
        excesses.append(trials.excess)
    print(f"{activation}, seed {seed}: excess over κ at radius {reach:.1e} and a third: {excesses}")
    assert excesses[0] <= 1e-3
    assert excesses[1] <= max(excesses[0] / 2, 1e-6)


def duplicated(distance: float) -> Fit:
    """Two of the points made one, or nearly, and fitted."""
    base = fitted()
    inputs = base.inputs.clone()
    step = torch.randn(64, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    inputs[7] = inputs[2] + distance * step / step.norm()
    with torch.no_grad():
        targets = base.model(inputs)
    return Fit(base.model, inputs, targets)


def test_duplicates_are_proven_infinite_and_named() -> None:
    problem = duplicated(0.0).problem()
    found = lipschitz_modulus(problem, optimality="interpolating")
    assert found.value == float("inf")
    assert found.certificate.certainty is Certainty.INFINITE
    assert {c.point for c in found.certificate.carriers} == {2, 7}
    for carrier in found.certificate.carriers:
        assert carrier.output in {0, 1, 2}


def test_duplicates_are_not_called_exact_for_the_stationary_map() -> None:
    problem = duplicated(0.0).problem()
    found = lipschitz_modulus(problem.restrict(parameters=["layers.1", "output"]), optimality="stationary")
    assert found.certificate.certainty is Certainty.UNKNOWN


def test_near_duplicates_grow_like_one_over_their_distance() -> None:
    distances = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
    values = [lipschitz_modulus(duplicated(d).problem(), optimality="interpolating") for d in distances]
    assert all(v.certificate.certainty is Certainty.EXACT for v in values)
    products = [v.value * d for v, d in zip(values, distances, strict=True)]
    assert max(products) / min(products) <= 1.05


def test_a_layer_with_fewer_weights_than_constraints_is_infinite() -> None:
    problem = fitted().problem()  # 36 constraints
    head = lipschitz_modulus(problem, layer="output")  # 36 weights, but 12 hidden units and 12 points
    assert head.certificate.rank == 36
    few = fitted(count=16).problem()
    found = lipschitz_modulus(few, layer="output")  # 36 weights, 48 constraints
    assert found.value == float("inf")
    assert found.certificate.rank == 36
    assert len({c.point for c in found.certificate.carriers}) > 1


def test_an_unfitted_problem_gets_the_norm_of_the_hessians_response() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=g, dtype=torch.float64)
    y = (x @ torch.ones(3, 1, dtype=torch.float64)) + torch.randn(20, 1, generator=g, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    problem = Problem(model, nn.MSELoss(), x, y)
    found = lipschitz_modulus(problem)
    # R = 2/n Xᵀ(Xw - y): H = 2/n XᵀX, and B moves entry j of point i by 2/n (e_j r_i + w_j x_i).
    w, r, n = model.weight.detach().flatten(), (x @ model.weight.detach().T - y).flatten(), 20
    unit = torch.eye(3, dtype=torch.float64)
    B = torch.stack([2 / n * (unit[j] * r[i] + w[j] * x[i]) for i in range(n) for j in range(3)], dim=1)
    expected = torch.linalg.matrix_norm(torch.linalg.solve(2 / n * x.T @ x, B), 2)
    assert found.value == pytest.approx(float(expected), rel=1e-10)
    assert found.certificate.certainty is Certainty.EXACT
    free = lipschitz_modulus(problem, solver=CG(tol=1e-13))
    assert free.value == pytest.approx(found.value, rel=1e-6)


def test_where_rows_are_left_out_the_value_is_a_lower_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = net("connected")
    exact = lipschitz_modulus(fit.problem(), points=MOVED, optimality="interpolating")
    assert exact.certificate.certainty is Certainty.EXACT
    monkeypatch.setattr(defaults, "MAX_ROWS", 100)  # too many for a Gram matrix of all
    found = lipschitz_modulus(fit.problem(), points=MOVED, optimality="interpolating")
    assert found.certificate.certainty is Certainty.UNKNOWN
    assert "lower bound" in found.certificate.reason
    assert 0.1 * exact.value < found.value < exact.value
    assert found.certificate.upper == float("inf")
