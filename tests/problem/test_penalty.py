"""A penalty on the weights beside the losses: risk, derivatives and retraining against autograd."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from solset import Move, Problem, SolsetWarning, retrain
from solset.operators import GaussNewton, Hessian
from solset.problem import Stationary
from solset.retraining import LBFGS, GradientDescent, Newton, WithOptimizer, follow_retraining
from solset.risk import identity
from solset.solvers import Dual

N, D = 14, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = draw(N, D), draw(N, 2, seed=1)
ANCHOR, FISHER = draw(4, D, seed=6), draw(4, D, seed=7).square()


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()


def elastic_net(named) -> Tensor:
    return sum(
        0.03 * w.abs().sum() + 0.02 * w.square().sum() for name, w in named.items() if "weight" in name
    )


def elastic_weight_consolidation(named) -> Tensor:
    return 0.1 * (FISHER * (named["0.weight"] - ANCHOR).square()).sum()


def spectral(named) -> Tensor:
    return 0.2 * torch.linalg.matrix_norm(named["2.weight"] @ named["0.weight"], 2).square()


PENALTIES = [elastic_net, elastic_weight_consolidation, spectral]


def problem(penalty, **options) -> Problem:
    options = {"weight_decay": {"*.bias": 0.0, "*": 0.01}, "gradient_tol": float("inf"), **options}
    return Problem(network(), nn.MSELoss(), X, Y, penalty=penalty, **options)


def truth(penalty, flat: Tensor) -> Tensor:
    model, parts, rest = network(), {}, flat
    for name, value in model.named_parameters():
        parts[name], rest = rest[: value.numel()].view(value.shape), rest[value.numel() :]
    decay = sum(w.square().sum() for name, w in parts.items() if "weight" in name)
    outputs = torch.func.functional_call(model, parts, (X,))
    return functional.mse_loss(outputs, Y) + 0.005 * decay + penalty(parts)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_value_gradient_and_matrices(penalty):
    risk = problem(penalty).risk()
    leaf = risk.weights.clone().requires_grad_()
    value = truth(penalty, leaf)
    assert risk.value() == pytest.approx(float(value.detach()), rel=1e-13)
    torch.testing.assert_close(risk.gradient(), torch.autograd.grad(value, leaf)[0])
    dense = torch.autograd.functional.hessian(lambda w: truth(penalty, w), risk.weights)
    torch.testing.assert_close(Hessian(risk).to_dense(), dense, rtol=1e-8, atol=1e-10)
    plain = GaussNewton(problem(None).risk()).to_dense()
    alone = dense - torch.autograd.functional.hessian(lambda w: truth(lambda _: 0.0, w), risk.weights)
    torch.testing.assert_close(GaussNewton(risk).to_dense(), plain + alone, rtol=1e-8, atol=1e-10)
    bare = risk.select(range(N))
    torch.testing.assert_close(bare.gradient(), problem(None, weight_decay=0.0).gradient())


def test_a_held_part_is_in_the_penalty():
    part = problem(spectral).restrict(parameters=["2.*"])
    torch.testing.assert_close(part.gradient(), problem(spectral).gradient()[16:])
    torch.testing.assert_close(
        Hessian(part.risk()).to_dense(), Hessian(problem(spectral).risk()).to_dense()[16:, 16:]
    )


def test_ridge_in_closed_form():
    """A ridge given as a penalty is weight decay, and its moved solutions are closed forms."""
    lam, inputs, targets = 0.1, draw(20, 4), draw(20, 1, seed=1)
    eye = torch.eye(4, dtype=torch.float64)

    def solution(x: Tensor) -> Tensor:
        return torch.linalg.solve(2 / 20 * x.T @ x + lam * eye, 2 / 20 * x.T @ targets)[:, 0]

    model = nn.Linear(4, 1, bias=False).double().eval()
    nn.utils.vector_to_parameters(solution(inputs), model.parameters())
    ridge = Problem(
        model, nn.MSELoss(), inputs, targets, penalty=lambda named: lam / 2 * named["weight"].square().sum()
    )
    dx = 1e-5 * draw(2, 4, seed=3)
    moved, back = inputs.clone(), inputs.clone()
    moved[[2, 7]] += dx
    back[[2, 7]] -= dx
    change = ridge.estimate(Move([2, 7], dx)).min_norm().value - ridge.weights()
    torch.testing.assert_close(change, (solution(moved) - solution(back)) / 2, rtol=1e-8, atol=1e-14)
    real = retrain(ridge, Move([2, 7], 1e4 * dx), method=Newton()).weights
    moved[[2, 7]] += (1e4 - 1) * dx
    torch.testing.assert_close(real, solution(moved), rtol=1e-9, atol=1e-11)
    course = follow_retraining(ridge, Move([2, 7], dx), steps=30, learning_rate=0.1, max_builds=1)
    descent = retrain(ridge, Move([2, 7], dx), method=GradientDescent(30, 0.1))
    torch.testing.assert_close(course.weights, descent.weights, rtol=1e-9, atol=1e-12)


def test_retraining_takes_the_penalty_along():
    start = problem(elastic_weight_consolidation)
    change = Move([1, 5], 0.1 * draw(2, D, seed=2))
    descent = retrain(start, change, method=GradientDescent(3, 0.1)).weights
    of_torch = WithOptimizer(lambda w: torch.optim.SGD(w, lr=0.1), epochs=3, batch_size=N)
    torch.testing.assert_close(retrain(start, change, method=of_torch).weights, descent)
    end = retrain(start, change, method=LBFGS(gradient_tol=1e-6))
    assert end.gradient_norm < 1e-5


def test_maps_that_know_no_penalty_are_refused():
    model = network()
    fitted = Problem(model, nn.MSELoss(), X, model(X).detach(), penalty=spectral, gradient_tol=float("inf"))
    assert isinstance(fitted.derivative().linearisation.map, Stationary)
    with pytest.raises(
        ValueError, match="a penalty on the weights, under which the training outputs are not"
    ):
        fitted.derivative(optimality="interpolating")
    with pytest.raises(TypeError, match="without a penalty"):
        fitted.derivative(optimality="gauss_newton", solver=Dual())


def test_an_l1_norm_at_zero_is_a_kink():
    model = network()
    with torch.no_grad():
        model[0].weight[1] = 0.0
    with pytest.warns(SolsetWarning, match="the penalty has a kink at the weights"):
        kinked = Problem(model, nn.MSELoss(), X, Y, penalty=elastic_net, gradient_tol=float("inf"))
    assert "kink" in kinked.derivative().premises.veto


def test_the_identity_knows_the_penalty():
    marks = [str(identity(problem(penalty).risk())) for penalty in (None, *PENALTIES)]
    assert len(set(marks)) == 4


BAD = {
    "the wrong name": (lambda named: named["weight"].sum(), TypeError, "the names are 0.weight, 0.bias"),
    "no scalar": (lambda named: named["0.weight"], TypeError, "one that returns a scalar tensor"),
    "a number": (lambda _: 1.0, TypeError, "got float"),
    "of no weight": (lambda _: torch.ones(()), ValueError, "depends on none of them"),
    "detached": (lambda named: named["0.weight"].detach().sum(), ValueError, "depends on none of them"),
    "infinite": (
        lambda named: named["0.weight"].abs().sum() / 0,
        ValueError,
        "finite, with a finite gradient",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_other_penalties_are_refused(case):
    penalty, error, message = case
    with pytest.raises(error, match=message):
        problem(penalty)


def test_a_penalty_inside_the_loss_is_refused_with_the_cure():
    model = network()
    with pytest.raises(ValueError, match="any other as penalty="):
        Problem(model, lambda o, t: functional.mse_loss(o, t) + model[0].weight.abs().sum(), X, Y)


def test_symmetries_of_a_penalty_are_those_of_the_weight_decay_that_it_is():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    y = torch.sin(x.sum(1, keepdim=True))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False)).double().eval()

    def ridge(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return 0.01 * sum(value.square().sum() for value in weights.values())

    start = Problem(model, nn.MSELoss(), x, y, penalty=ridge, gradient_tol=float("inf"))
    end = retrain(start, Move(None, torch.zeros_like(x)), method=LBFGS(gradient_tol=1e-7))
    nn.utils.vector_to_parameters(end.weights, model.parameters())
    change = Move([1], torch.full((1, 3), 1e-3, dtype=torch.float64))
    sets = [
        Problem(model, nn.MSELoss(), x, y, **given).estimate(change)
        for given in ({"penalty": ridge}, {"weight_decay": 0.02})
    ]
    assert sets[0].dimension == sets[1].dimension == 3  # rotations that keep the one direction in use
    with_penalty, decayed = (each.min_norm().value - end.weights for each in sets)
    assert float((with_penalty - decayed).norm() / decayed.norm()) <= 1e-8
    penalised = Problem(model, nn.MSELoss(), x, y, penalty=ridge)
    real = retrain(penalised, change, method=LBFGS(gradient_tol=1e-7)).change
    assert float((with_penalty - real).norm() / real.norm()) <= 1e-2
