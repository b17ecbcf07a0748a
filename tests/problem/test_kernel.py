"""The kernel of a Hessian is that of the solution nearby, however far training went."""

import warnings
from functools import cache
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, Remove, Reweight, SolsetWarning, lipschitz_modulus
from solset.modulus import Certainty
from solset.removal import leave_one_out
from solset.solvers import CG, MINRES, Dense, Solver
from support.symmetric import Attention, LowRank, embedding, three_layers
from support.zoo.minimum import descend

DECAY = 4e-3


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    return x, (x @ torch.randn(6, 6, generator=generator, dtype=torch.float64)).sin()


def solved(model: nn.Module, x: Tensor, y: Tensor, decay: float) -> nn.Module:
    """The model at a stationary point, by L-BFGS."""
    loss, weights = nn.MSELoss(), list(model.parameters())

    def risk() -> Tensor:
        return loss(model(x), y) + decay / 2 * sum(part.square().sum() for part in weights)

    descend(weights, risk, max_iter=1000, history_size=60, tolerance_grad=1e-11)
    return model.eval()


def off_by(model: nn.Module, size: float, x: Tensor, y: Tensor, decay: float) -> Problem:
    """The problem at weights that were moved off the solution until the gradient has the given norm."""
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    draw = torch.randn(start.shape, generator=torch.Generator().manual_seed(1), dtype=start.dtype)
    nn.utils.vector_to_parameters(start + size * draw, model.parameters())
    step = size**2 / float(Problem(model, nn.MSELoss(), x, y, weight_decay=decay).gradient().norm())
    nn.utils.vector_to_parameters(start + step * draw, model.parameters())
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=decay)
    nn.utils.vector_to_parameters(start, model.parameters())
    return problem


@cache
def trained(name: str) -> nn.Module:
    torch.manual_seed(2)
    return solved(MODELS[name][0]().double(), *data(), DECAY)


MODELS = {
    "low rank 2": (lambda: LowRank(2), 1),
    "low rank 4": (lambda: LowRank(4), 6),
    "attention": (Attention, 2),
    "embedding": (embedding, 3),
    "three linear layers": (three_layers, 2),
}


@pytest.mark.filterwarnings("ignore:training had not stopped")
@pytest.mark.parametrize("name", MODELS)
def test_symmetries_are_the_kernel_at_every_size_of_the_gradient(name: str) -> None:
    dimension, model = MODELS[name][1], trained(name)
    x, y = data()
    change = Move([3, 8], 1e-3 * torch.randn(2, 6, dtype=torch.float64))
    answers = []
    for size in (1e-5, 1e-7, 1e-9):
        problem = off_by(model, size, x, y, DECAY)
        estimate = problem.estimate(change, optimality="stationary")
        answer = estimate.min_norm()
        assert estimate.dimension == dimension
        assert answer.status == "converged"
        assert not estimate.is_empty()
        answers.append(answer.value - problem.weights())
        sample = estimate.sample(1, radius=0.1, generator=torch.Generator().manual_seed(3))[0]
        assert float((sample.value - problem.weights()).norm()) < 0.2
    problem = off_by(model, 1e-11, x, y, DECAY)
    line = problem.derivative(points=[3, 8], optimality="stationary").linearisation
    exact = Dense(rank_tolerance=1e-7).prepare(line.constraint.operator)
    assert exact.rank == len(problem.weights()) - dimension
    truth = exact.solve(-line.push(change.dx)).value
    for answer in answers:
        assert float((answer - truth).norm()) <= 0.01 * float(truth.norm())


def test_a_modulus_sees_the_kernel_too() -> None:
    x, y = data()
    model = trained("low rank 2")
    found = [
        lipschitz_modulus(off_by(model, size, x, y, DECAY), points=[3], probes=0)
        for size in (1e-6, 1e-8, 1e-10)
    ]
    ranks = {one.certificate.rank for one in found}
    assert ranks == {sum(part.numel() for part in model.parameters()) - 1}
    assert found[0].value == pytest.approx(found[2].value, rel=0.01)


@pytest.mark.parametrize("smallest", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("off", [0.0, 1e-6, 1e-3])
def test_a_small_eigenvalue_of_the_problem_itself_is_kept(smallest: float, off: float) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(k, 4, generator=generator, dtype=torch.float64)).Q for k in (9, 4)
    )
    x = 3 * left @ torch.diag(torch.tensor([1.0, 0.5, 0.1, smallest**0.5], dtype=torch.float64)) @ right.T
    y = torch.randn(9, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(4, 1, bias=False).double().eval()
    solution = torch.linalg.lstsq(x, y).solution
    with torch.no_grad():
        model.weight.copy_((solution + off * torch.randn(4, 1, generator=generator, dtype=torch.float64)).T)
    problem = Problem(model, nn.MSELoss(), x, y)
    estimate = problem.estimate(Move([0], x[:1]), optimality="stationary")
    assert estimate.dimension == 0
    assert estimate.min_norm().status == "converged"


def test_a_small_decay_is_kept_where_the_gradient_is_larger_than_it() -> None:
    x, y = data()
    torch.manual_seed(0)
    decay = 1e-7
    model = solved(nn.Linear(6, 6).double(), torch.cat([x[:, :4], x[:, :2]], dim=1), y, decay)
    problem = off_by(model, 1e-5, torch.cat([x[:, :4], x[:, :2]], dim=1), y, decay)
    assert problem.estimate(Move([0], 0 * x[:1])).dimension == 0


def test_a_rank_that_the_gradient_leaves_open_is_not_known() -> None:
    x, y = data()
    torch.manual_seed(0)
    problem = Problem(LowRank(4).double().eval(), nn.MSELoss(), x, y, weight_decay=1e-4, gradient_tol=10.0)
    derivative = problem.derivative(points=[0], optimality="stationary")
    assert derivative.qualification.is_verified is None
    assert "not stationary" in derivative.qualification.reason
    assert "rank of the Hessian" in derivative(0.1 * x[:1]).translate(problem.weights()).min_norm().message
    assert lipschitz_modulus(problem, points=[0]).certificate.certainty is Certainty.UNKNOWN


def test_it_warns_in_any_unit_of_the_loss() -> None:
    x, y = data()
    torch.manual_seed(0)
    model = LowRank(4).double().eval()
    with pytest.warns(SolsetWarning, match="the weights are not stationary"):
        tiny = Problem(model, lambda out, target: 1e-4 * nn.functional.mse_loss(out, target), x, y)
    with pytest.warns(SolsetWarning, match="rank of the Hessian"):
        tiny.derivative(optimality="stationary").rank  # noqa: B018 - computed by being asked for


def test_a_cut_that_was_asked_for_is_left_alone() -> None:
    x, y = data()
    problem = off_by(trained("low rank 2"), 1e-6, x, y, DECAY)
    solver = Dense(rank_tolerance=1e-14)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert problem.estimate(Move([0], 0 * x[:1]), optimality="stationary", solver=solver).dimension == 0


@pytest.mark.filterwarnings("ignore:training had not stopped")
@pytest.mark.parametrize("name", MODELS)
def test_solvers_without_a_spectrum_leave_symmetries_out_too(name: str) -> None:
    dimension, model = MODELS[name][1], trained(name)
    x, y = data()
    change = Move([3, 8], 1e-3 * torch.randn(2, 6, dtype=torch.float64))
    for size in (1e-5, 1e-8):
        problem = off_by(model, size, x, y, DECAY)
        truth = problem.estimate(change, optimality="stationary").min_norm().value - problem.weights()
        estimate = problem.estimate(change, optimality="stationary", solver=MINRES())
        answer = estimate.min_norm()
        assert answer.status == "converged"
        assert float((answer.value - problem.weights() - truth).norm()) <= 0.01 * float(truth.norm())
        assert (
            repr(estimate) == f"AffineSet(stationary map, in R^{len(truth)}, dimension {dimension} or more)"
        )
        with pytest.raises(ValueError, match=f"symmetries alone make it {dimension} or more"):
            estimate.dimension  # noqa: B018 - refused by being asked for


@pytest.mark.filterwarnings("ignore:the step is")
@pytest.mark.parametrize("optimality", ["stationary", "gauss_newton"])
def test_symmetries_are_left_out_of_changed_matrices_too(
    optimality: Literal["stationary", "gauss_newton"],
) -> None:
    problem = off_by(trained("low rank 4"), 1e-8, *data(), DECAY)
    steps = [
        problem.estimate(Reweight([3], 1.05), optimality=optimality, solver=solver, order="newton").min_norm()
        for solver in (None, MINRES())
    ]
    torch.testing.assert_close(steps[1].change, steps[0].change, rtol=1e-5, atol=1e-6)


def test_a_kernel_that_nobody_found_is_said_where_no_spectrum_is_seen(monkeypatch) -> None:
    monkeypatch.setattr("solset.problem._point.find_symmetries", lambda *_: None)
    problem = off_by(trained("low rank 4"), 1e-6, *data(), DECAY)
    change = Move([3, 8], 1e-3 * torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).double())
    truth = problem.estimate(change, optimality="stationary").min_norm().change
    estimate = problem.estimate(change, optimality="stationary", solver=MINRES())
    with pytest.warns(
        SolsetWarning, match="directions whose curvature, below .*, the leftover gradient expl"
    ):
        answer = estimate.min_norm()
    assert float((answer.change - truth).norm()) > 0.1 * float(truth.norm())


@pytest.mark.parametrize("name", MODELS)
def test_weight_decay_does_not_hide_symmetries_from_the_gauss_newton_matrix(name: str) -> None:
    dimension, model = MODELS[name][1], trained(name)
    x, y = data()
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=DECAY)
    derivative = problem.derivative(points=[3], optimality="gauss_newton")
    estimate = derivative(0.01 * x[:1])
    assert estimate.dimension == dimension
    answer = estimate.min_norm()
    assert answer.status == "converged"
    dense = derivative.linearisation.operator.to_dense()
    truth = -torch.linalg.solve(dense, derivative.linearisation.push(0.01 * x[:1]))
    torch.testing.assert_close(answer.value, truth, rtol=1e-6, atol=1e-9)
    away = estimate.sample(1, radius=10.0, generator=torch.Generator().manual_seed(0))[0]
    assert float((away.value - truth).norm()) > 0.1


def test_a_factor_that_lost_rank_has_smaller_orbits() -> None:
    x, y = data()
    torch.manual_seed(2)
    model = solved(LowRank(6).double(), x, y, 2e-2)
    sizes = torch.linalg.svdvals(model.get_parameter("a").detach())
    rank = int((sizes > 1e-3 * sizes.max()).sum())
    assert 0 < rank < 5
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=2e-2)
    lost = 6 - rank
    estimate = problem.estimate(Move([0], 0 * x[:1]), optimality="stationary")
    assert estimate.dimension == 15 - lost * (lost - 1) // 2


@pytest.mark.parametrize("decay", [1e-3, 1e-6])
def test_float32_does_not_take_a_small_decay_for_a_kernel(decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(12, k, generator=generator, dtype=torch.float64) for k in (20, 1))
    matrix = x.T @ x / 6 + decay * torch.eye(20, dtype=torch.float64)
    model = nn.Linear(20, 1, bias=False).eval()
    model.weight.data.copy_(torch.linalg.solve(matrix, x.T @ y / 6).T)
    problem = Problem(model, nn.MSELoss(), x.float(), y.float(), weight_decay=decay)
    assert problem.estimate(Move([0], x[:1].float()), optimality="stationary").dimension == 0
    certainty = lipschitz_modulus(problem, points=[0], optimality="stationary").certificate.certainty
    assert (certainty is Certainty.UNKNOWN) == (decay < 1e-5)


def test_what_the_rounding_of_float32_makes_is_said() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(12, k, generator=generator) for k in (20, 1))
    model = nn.Linear(20, 1, bias=False).eval()
    model.weight.data.copy_(torch.linalg.lstsq(x, y).solution.T)
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=1e-9)
    estimate = problem.estimate(Move([0], 1e-3 * x[:1]), optimality="stationary")
    with pytest.warns(SolsetWarning, match="the rounding of float32 alone"):
        estimate.min_norm()


def with_time(offset: float) -> Problem:
    """A linear model with one raw column of times, at its minimum with weight decay, from scaled columns."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(26, k, generator=generator, dtype=torch.float64) for k in (4, 1))
    x[:, 0] = offset + max(1.0, offset / 170) * x[:, 0]
    features = torch.cat([x, torch.ones(26, 1, dtype=torch.float64)], dim=1) * (2 / 26) ** 0.5
    sizes = features.norm(dim=0)
    rows = torch.cat([features / sizes, torch.diag(0.1 / sizes)])
    targets = torch.cat([y * (2 / 26) ** 0.5, torch.zeros(5, 1, dtype=torch.float64)])
    model = nn.Linear(4, 1).eval().double()
    solution = torch.linalg.lstsq(rows, targets).solution.flatten() / sizes
    nn.utils.vector_to_parameters(solution, model.parameters())
    return Problem(model, nn.MSELoss(), x, y, weight_decay=0.01, gradient_tol=1e9)


@pytest.mark.parametrize("optimality", ["stationary", "gauss_newton"])
def test_a_rank_cut_above_the_weight_decay_leaves_the_kernel_unknown(
    optimality: Literal["stationary", "gauss_newton"],
) -> None:
    problem = with_time(1.7e9)
    move = Move([3], 0.1 * torch.eye(4, dtype=torch.float64)[1:2])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        estimates = [problem.estimate(change, optimality=optimality) for change in (move, Remove([3]))]
        answers = [estimate.min_norm() for estimate in estimates]
        worth = problem.attribute(
            lambda model: model(torch.ones(1, 4, dtype=torch.float64)).sum(), optimality=optimality
        )
        each = leave_one_out(problem, [3, 4], optimality=optimality)
        assert not any(estimate.is_empty() for estimate in estimates)
    assert any("decay of 0.01" in str(one.message) for one in told)
    assert each.status != "converged"
    assert worth.status != "converged"
    assert "scale the columns" in worth.message
    for answer in answers:
        assert answer.status != "converged"
        assert "scale the columns" in answer.message
    for estimate in estimates:
        assert "dimension not known" in repr(estimate)
        with pytest.raises(ValueError, match="Scale the columns"):
            _ = estimate.dimension


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_a_rank_cut_below_the_weight_decay_does_not(offset: float) -> None:
    estimate = with_time(offset).estimate(Remove([3]), optimality="stationary")
    assert estimate.min_norm().status == "converged"
    assert estimate.dimension == 0


@pytest.mark.parametrize("optimality", ["stationary", "gauss_newton"])
@pytest.mark.parametrize("solver", [CG(), MINRES()], ids=["cg", "minres"])
def test_rounding_above_the_weight_decay_is_a_doubt_in_products_too(
    optimality: Literal["stationary", "gauss_newton"], solver: Solver
) -> None:
    change = Move([3], 0.1 * torch.eye(4, dtype=torch.float64)[1:2])
    with pytest.warns(SolsetWarning, match=r"decay of 0\.01"):
        doubtful = with_time(1.7e9).estimate(change, optimality=optimality, solver=solver).min_norm()
    assert doubtful.status == "doubtful"
    scaled = with_time(0.0).estimate(change, optimality=optimality, solver=solver).min_norm()
    assert scaled.status == "converged"
