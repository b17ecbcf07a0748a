"""Moduli and audits of every kind of change: against closed forms, dense algebra and real solutions."""

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from solset import Add, Decay, Move, Problem, Relabel, Remove, Reweight, audit, lipschitz_modulus
from solset.errors import SolsetWarning
from solset.modulus import Certainty
from support.interpolators import fitted, rows

RIDGE = 0.1
DOUBLE = torch.float64


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def linear(weights: Tensor, inputs: int) -> nn.Linear:
    model = nn.Linear(inputs, len(weights) // inputs, bias=False, dtype=DOUBLE)
    with torch.no_grad():
        model.weight.copy_(weights.reshape(-1, inputs))
    return model


def ridge(weight_decay: float = RIDGE, n: int = 12, d: int = 4) -> tuple[Problem, Tensor, Tensor]:
    """Ridge regression at its solution: risk ``1/n Σ (x·w - y)² + λ/2 |w|²``."""
    x, y = drawn(n, d, seed=0), drawn(n, 1, seed=1)
    hessian = 2 / n * x.T @ x + weight_decay * torch.eye(d, dtype=DOUBLE)
    w = torch.linalg.solve(hessian, 2 / n * x.T @ y).flatten()
    return Problem(linear(w, d), nn.MSELoss(), x, y, weight_decay=weight_decay), x, y


def dense_ridge() -> tuple[Problem, Tensor, dict[str, Tensor]]:
    """The problem, its Hessian, and the derivative of its gradient in each kind of change."""
    problem, x, y = ridge()
    (n, d), w = x.shape, problem.weights()
    hessian = 2 / n * x.T @ x + RIDGE * torch.eye(d, dtype=DOUBLE)
    misfits = x @ w - y.flatten()
    mean = 2 / n * (misfits.unsqueeze(1) * x).sum(dim=0)
    return (
        problem,
        hessian,
        {
            "Relabel": -2 / n * x.T,
            "Reweight": (2 * misfits.unsqueeze(1) * x - mean).T / n,
            "before": (2 * misfits.unsqueeze(1) * x).T / n,
            "Decay": w.unsqueeze(1),
        },
    )


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Relabel, "Relabel"), (Reweight, "Reweight"), (Reweight(divisor="before"), "before"), (Decay, "Decay")],
)
def test_the_modulus_of_a_ridge_regression_is_that_of_the_dense_matrices(kind, name: str) -> None:
    problem, hessian, data = dense_ridge()
    modulus = lipschitz_modulus(problem, kind)
    assert modulus.value == pytest.approx(
        float(torch.linalg.svdvals(torch.linalg.solve(hessian, data[name]))[0])
    )
    assert modulus.certificate.certainty is Certainty.EXACT
    assert modulus.certificate.upper >= modulus.certificate.lower * (1 - 1e-9)
    assert modulus.kind == type(kind).__name__ if not isinstance(kind, type) else kind.__name__
    step = -torch.linalg.solve(hessian, data[name] @ modulus.worst_direction.flatten())
    assert torch.allclose(modulus.weight_direction, step, atol=1e-10)


def test_a_decay_for_each_group_is_a_kind_as_well() -> None:
    problem, hessian, _ = dense_ridge()
    modulus = lipschitz_modulus(problem, Decay({"weight": 1.0}))
    assert modulus.value == pytest.approx(float(torch.linalg.solve(hessian, problem.weights()).norm()))


def test_the_modulus_of_a_weight_leads_to_the_leave_one_out_of_the_hat_matrix() -> None:
    problem, x, y = ridge()
    n, w = len(x), problem.weights()
    inverse = torch.linalg.inv(2 * x.T @ x + n * RIDGE * torch.eye(x.shape[1], dtype=DOUBLE))
    leverages = 2 * torch.einsum("nd,de,ne->n", x, inverse, x)
    moduli = audit(problem, Reweight(divisor="before")).modulus
    left_out = audit(problem, Remove(divisor="before")).modulus
    assert torch.allclose(left_out, moduli / (1 - leverages), rtol=1e-9)
    for k in (0, 7):  # without the point, by a solve of its own
        rest = [i for i in range(n) if i != k]
        hessian = 2 * x[rest].T @ x[rest] + n * RIDGE * torch.eye(x.shape[1], dtype=DOUBLE)
        there = torch.linalg.solve(hessian, 2 * x[rest].T @ y[rest]).flatten()
        assert float(left_out[k]) == pytest.approx(float((there - w).norm()), rel=1e-9)


def test_moduli_of_an_audit_are_those_of_single_points() -> None:
    problem, hessian, data = dense_ridge()
    for kind in (Relabel, Reweight):
        result = audit(problem, kind, points=[3, 8])
        columns = torch.linalg.solve(hessian, data[kind.__name__])
        assert torch.allclose(result.modulus, columns[:, [3, 8]].norm(dim=0), rtol=1e-9)
        assert float(result.modulus[1]) == pytest.approx(lipschitz_modulus(problem, kind, points=[8]).value)
        assert result.kind == kind.__name__
        assert result.feature_influence is None


def test_the_validation_loss_changes_as_a_factor_or_a_target_says() -> None:
    problem, hessian, data = dense_ridge()
    x, y = drawn(5, 4, seed=5), drawn(5, 1, seed=6)
    slope = 2 / 5 * x.T @ (x @ problem.weights() - y.flatten())
    for kind in (Relabel, Reweight):
        result = audit(problem, kind, validation=(x, y))
        assert torch.allclose(
            result.validation_change, (slope @ torch.linalg.solve(hessian, data[kind.__name__])).abs()
        )


def candidates() -> tuple[Tensor, Tensor]:
    return drawn(3, 4, seed=7), drawn(3, 1, seed=8)


def test_candidates_are_ranked_by_how_far_each_moves_the_weights() -> None:
    problem, x, y = ridge()
    new_x, new_y = candidates()
    validation = drawn(5, 4, seed=5), drawn(5, 1, seed=6)
    result = audit(problem, Add(new_x, new_y), validation=validation)
    slope = 2 / 5 * validation[0].T @ (validation[0] @ problem.weights() - validation[1].flatten())
    for k in range(3):
        every, targets = torch.cat([x, new_x[k : k + 1]]), torch.cat([y, new_y[k : k + 1]])
        n = len(every)
        hessian = 2 / n * every.T @ every + RIDGE * torch.eye(4, dtype=DOUBLE)
        step = torch.linalg.solve(hessian, 2 / n * every.T @ targets).flatten() - problem.weights()
        assert float(result.modulus[k]) == pytest.approx(float(step.norm()), rel=1e-9)
        assert float(result.validation_change[k]) == pytest.approx(float(slope @ step), rel=1e-8)
        assert float(result.loss[k]) == pytest.approx(float((new_x[k] @ problem.weights() - new_y[k]) ** 2))
    assert result.points == (0, 1, 2)


def test_a_candidate_of_a_fitted_set_moves_the_weights_to_its_target() -> None:
    x, w = drawn(3, 6, seed=0), drawn(6, seed=1)
    problem = Problem(linear(w, 6), nn.MSELoss(), x, x @ w.unsqueeze(1))
    new_x, new_y = drawn(2, 6, seed=2), drawn(2, 1, seed=3)
    result = audit(problem, Add(new_x, new_y))
    for k in range(2):
        every = torch.cat([x, new_x[k : k + 1]])
        miss = torch.cat([torch.zeros(3, dtype=DOUBLE), new_y[k] - new_x[k] @ w])
        assert float(result.modulus[k]) == pytest.approx(float((torch.linalg.pinv(every) @ miss).norm()))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_targets_of_a_fitted_set_move_the_weights_by_the_smallest_singular_value(activation: str) -> None:
    problem = fitted(activation).problem()
    J, _ = rows(problem)
    modulus = lipschitz_modulus(problem, Relabel)
    assert modulus.value == pytest.approx(1 / float(torch.linalg.svdvals(J)[-1]), rel=1e-8)
    assert modulus.certificate.certainty is Certainty.EXACT
    c, inverse = problem.output_count, torch.linalg.pinv(J)
    joint, alone = audit(problem, Relabel), audit(problem, Relabel, joint=False)
    for k in (0, 5):
        own = slice(c * k, c * k + c)
        assert float(joint.modulus[k]) == pytest.approx(
            float(torch.linalg.svdvals(inverse[:, own])[0]), rel=1e-8
        )
        assert float(alone.isolated_modulus[k]) == pytest.approx(
            1 / float(torch.linalg.svdvals(J[own])[-1]), rel=1e-8
        )
    assert lipschitz_modulus(problem, Relabel, points=[5], joint=False).value == pytest.approx(
        float(alone.isolated_modulus[5])
    )


def test_factors_of_fitted_points_move_nothing_whatever_the_rank() -> None:
    problem = fitted("tanh").problem()
    modulus = lipschitz_modulus(problem, Reweight)
    assert modulus.value == 0.0
    assert modulus.certificate.certainty is Certainty.EXACT
    assert float(audit(problem, Reweight).modulus.max()) == 0.0
    assert float(audit(problem, Remove).modulus.max()) == pytest.approx(0.0, abs=1e-12)
    x, w = torch.ones(2, 1, dtype=DOUBLE), torch.tensor([2.0], dtype=DOUBLE)
    duplicates = Problem(linear(w, 1), nn.MSELoss(), x, 2 * x)
    modulus = lipschitz_modulus(duplicates, Reweight)
    assert (modulus.value, modulus.certificate.certainty) == (0.0, Certainty.EXACT)


def test_targets_of_duplicates_cannot_both_be_answered() -> None:
    x, w = torch.ones(2, 1, dtype=DOUBLE), torch.tensor([2.0], dtype=DOUBLE)
    problem = Problem(linear(w, 1), nn.MSELoss(), x, 2 * x)
    modulus = lipschitz_modulus(problem, Relabel, optimality="interpolating")
    assert math.isinf(modulus.value)
    assert modulus.certificate.certainty is Certainty.INFINITE
    assert {carrier.point for carrier in modulus.certificate.carriers} == {0, 1}
    # In the sense of least squares the weight follows the mean of the two.
    modulus = lipschitz_modulus(problem, Relabel, optimality="stationary")
    assert modulus.value == pytest.approx(0.5 * 2**0.5)
    assert modulus.certificate.certainty is Certainty.EXACT


class Product(nn.Module):
    """The output ``u v x``: solutions are a curve, on which the Hessian is singular."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.v = (
            nn.Parameter(torch.tensor(2.0, dtype=DOUBLE)),
            nn.Parameter(torch.tensor(0.5, dtype=DOUBLE)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.u * self.v * x


@pytest.mark.parametrize("kind", [Relabel, Reweight])
def test_at_a_singular_solution_the_rank_is_probed_along_the_kind(kind) -> None:
    x = torch.tensor([[1.0], [2.0], [3.0]], dtype=DOUBLE)
    y = torch.tensor([[1.5], [1.0], [3.5]], dtype=DOUBLE)
    y = y / float((x * y).sum() / x.square().sum())  # least squares at u v = 1
    problem = Problem(Product(), nn.MSELoss(), x, y)
    modulus = lipschitz_modulus(problem, kind)
    slope = torch.tensor([0.5, 2.0], dtype=DOUBLE)  # of u v in u and v
    total = x.square().sum()
    of_product = x / total if kind is Relabel else -(x * (x - y)) / total
    expected = float(of_product.norm() / slope.norm())
    assert modulus.value == pytest.approx(expected, rel=1e-6)
    assert modulus.certificate.certainty is Certainty.CONSTANT_RANK


def logistic(n: int = 20) -> tuple[Problem, Tensor, Tensor]:
    x = drawn(n, 3, seed=3)
    y = (drawn(n, 3, seed=4) + x).argmax(dim=1)
    weights = torch.zeros(9, dtype=DOUBLE, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=300, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        risk = nn.functional.cross_entropy(x @ weights.reshape(3, 3).T, y) + 0.05 * weights.square().sum()
        risk.backward()
        return risk

    optimizer.step(closure)
    return Problem(linear(weights.detach(), 3), nn.CrossEntropyLoss(), x, y, weight_decay=0.1), x, y


def test_class_labels_are_ranked_by_the_step_of_every_other_label() -> None:
    problem, x, y = logistic()
    result = audit(problem, Relabel, points=[2, 5])

    def risk(w: Tensor) -> Tensor:
        return nn.functional.cross_entropy(x @ w.reshape(3, 3).T, y) + 0.05 * w.square().sum()

    H = torch.autograd.functional.hessian(risk, problem.weights())
    for row, k in enumerate((2, 5)):
        for label in range(3):
            pull = torch.zeros(3, 3, dtype=DOUBLE)
            pull[label] -= x[k] / len(x)
            pull[y[k]] += x[k] / len(x)  # both at once for the label that it has
            step = torch.linalg.solve(H, pull.flatten())  # the curvature does not know the label
            assert float(result.maps[row, label]) == pytest.approx(float(step.norm()), rel=1e-8, abs=1e-12)
        assert float(result.modulus[row]) == pytest.approx(float(result.maps[row].max()))
        assert int(result.directions[row].argmax()) != int(y[k])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Remove, "never small|can be small"),
        (Relabel, "can be small"),
        (Move([0]) + Reweight([1]), "can be small"),
        (Add, "what joins"),
    ],
)
def test_a_kind_without_a_modulus_is_refused_with_what_to_take(kind, words: str) -> None:
    problem, _, _ = logistic()
    with pytest.raises(ValueError, match=words):
        lipschitz_modulus(problem, kind)


def test_an_audit_refuses_what_has_no_single_points() -> None:
    problem, _, _ = ridge()
    with pytest.raises(ValueError, match="lipschitz_modulus answers for the weight decay"):
        audit(problem, Decay)
    with pytest.raises(ValueError, match="points"):
        audit(problem, Reweight([3]), points=[4])
    with pytest.raises(ValueError, match="joint"):
        audit(problem, Remove, joint=True)
    with pytest.raises(ValueError, match="joint"):
        lipschitz_modulus(problem, Decay, joint=False)


def test_a_point_that_alone_decides_a_weight_has_no_finite_removal() -> None:
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=DOUBLE)
    y = torch.tensor([[1.0], [1.0], [2.0]], dtype=DOUBLE)
    problem = Problem(linear(torch.tensor([0.6, 2.0], dtype=DOUBLE), 2), nn.MSELoss(), x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolsetWarning)
        result = audit(problem, Remove, optimality="stationary")
    assert result.modulus.isinf().tolist() == [False, False, True]


def test_a_checkpoint_knows_its_kind(tmp_path) -> None:
    problem, _, _ = ridge()
    audit(problem, Reweight, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="kind of change"):
        audit(problem, Relabel, checkpoint=tmp_path)
