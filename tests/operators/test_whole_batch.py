"""Losses of all outputs at once: right against dense autograd, whatever the batches, or refused by name."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from solset import (
    Move,
    Problem,
    Remove,
    SolsetWarning,
    WholeBatch,
    audit,
    follow_path,
    lipschitz_modulus,
    retrain,
)
from solset.operators import GaussNewton, Hessian, Mixed, loss_curvature
from solset.retraining import LBFGS

N, D, C, DECAY = 10, 3, 3, 0.1


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = draw(N, D), torch.arange(N) % C


def contrastive(z: Tensor, y: Tensor) -> Tensor:
    """Supervised InfoNCE (Khosla et al. 2020, equation 2)."""
    z = functional.normalize(z, dim=1)
    others = 1 - torch.eye(len(z), dtype=torch.float64)
    same = (y[:, None] == y) * others
    scores = z @ z.T / 0.5 - 1e3 * (1 - others)
    return -(same * scores.log_softmax(dim=1)).sum() / same.sum()


def dice(z: Tensor, y: Tensor) -> Tensor:
    p, t = z.softmax(dim=1), functional.one_hot(y, C)
    return 1 - 2 * (p * t).sum() / (p.square().sum() + t.sum())


def partial_likelihood(z: Tensor, y: Tensor) -> Tensor:
    """Cox (1975), with times in the order of the points and some of them censored."""
    at_risk = torch.logcumsumexp(z[:, 0].flip(0), dim=0).flip(0)
    return -((z[:, 0] - at_risk) * (y > 0)).mean()


def area_under_curve(z: Tensor, y: Tensor) -> Tensor:
    return functional.softplus(z[y != 1, 0] - z[y == 1, 0][:, None]).mean()


def batch_normalised(z: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy((z - z.mean(dim=0)) / (z.var(dim=0) + 1e-2).sqrt(), y)


def of_mean(z: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001 - a loss takes targets
    return (z.mean(dim=0) - 1).square().sum()


LOSSES = [contrastive, dice, partial_likelihood, area_under_curve, batch_normalised, of_mean]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, C)).double().eval()


def problem(loss: Callable[..., Tensor], **options) -> Problem:
    return Problem(network(), WholeBatch(loss), X, Y, weight_decay=DECAY, gradient_tol=9e9, **options)


@cache
def trained() -> Problem:
    """At a minimum of the partial likelihood."""
    start = problem(partial_likelihood)
    end = retrain(start, Move([0], torch.zeros(1, D, dtype=torch.float64)), method=LBFGS(gradient_tol=1e-9))
    return Problem(end.apply_to(network()), WholeBatch(partial_likelihood), X, Y, weight_decay=DECAY)


def dense(loss: Callable[..., Tensor], built: Problem) -> tuple[Tensor, ...]:
    """Value, gradient, Hessian, mixed derivative of all points and Gauss–Newton matrix by autograd."""
    model, layout, w = network(), built.risk().layout, built.weights()

    def outputs(w: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(layout.shapes, layout.split(w), strict=True)), (x,))

    def risk(w: Tensor, x: Tensor) -> Tensor:
        return loss(outputs(w, x), Y) + 0.5 * DECAY * w @ w

    gradient = torch.func.grad(risk)
    rows = torch.func.jacrev(outputs)(w, X).reshape(N * C, -1)
    curvature = torch.func.jacrev(torch.func.grad(lambda z: loss(z, Y)))(outputs(w, X).detach()).reshape(
        N * C, N * C
    )
    values, vectors = torch.linalg.eigh(curvature)
    convex = vectors * values.clamp_min(0) @ vectors.T
    return (
        risk(w, X),
        gradient(w, X),
        torch.func.jacrev(gradient)(w, X),
        torch.func.jacrev(gradient, argnums=1)(w, X).reshape(len(w), -1),
        rows.T @ convex @ rows + DECAY * torch.eye(len(w), dtype=torch.float64),
    )


@pytest.mark.parametrize(("loss", "batch_size"), [*((loss, 4) for loss in LOSSES), (contrastive, 256)])
def test_all_derivatives_are_those_of_autograd_whatever_the_batches(loss, batch_size):
    built = problem(loss, batch_size=batch_size)
    risk = built.risk()
    value, gradient, hessian, mixed, gauss_newton = dense(loss, built)
    assert risk.value() == pytest.approx(float(value), rel=1e-12)
    torch.testing.assert_close(built.gradient(), gradient, rtol=1e-10, atol=1e-12)
    two = mixed.reshape(-1, N, D)[:, [7, 2]].flatten(1)
    for budget in (0, 2**30):
        torch.testing.assert_close(
            Hessian(risk, memory_budget=budget).to_dense(), hessian, rtol=1e-10, atol=1e-11
        )
        block = Mixed(risk, [7, 2], memory_budget=budget)
        torch.testing.assert_close(block.to_dense(), two, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(block.T.to_dense(), two.T, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(GaussNewton(risk).to_dense(), gauss_newton, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("optimality", ["auto", "gauss_newton"])
def test_an_estimate_solves_with_these_derivatives(optimality):
    built = problem(dice, batch_size=4)
    _, _, hessian, mixed, gauss_newton = dense(dice, built)
    dx = 0.01 * draw(1, D, seed=3)
    expected = -mixed[:, 3 * D : 4 * D] @ dx.flatten()
    matrix = gauss_newton if optimality == "gauss_newton" else hessian
    change = built.estimate(Move([3], dx), optimality=optimality).min_norm()
    torch.testing.assert_close(
        change.weights - built.weights(), torch.linalg.solve(matrix, expected), rtol=1e-8, atol=1e-11
    )


def test_estimate_path_and_retraining_agree_to_second_order():
    built = trained()
    changes = [Move([4], size * torch.ones(1, D, dtype=torch.float64)) for size in (0.02, 0.01)]
    truths = [retrain(built, change, method=LBFGS(gradient_tol=1e-9)).weights for change in changes]
    misses = [
        float((built.estimate(change).min_norm().weights - truth).norm())
        for change, truth in zip(changes, truths, strict=True)
    ]
    assert misses[1] < 0.3 * misses[0]
    end = follow_path(built, changes[0], max_error=1e-5).weights
    torch.testing.assert_close(end, truths[0], atol=1e-5, rtol=0)


def test_the_modulus_is_that_of_the_dense_derivatives():
    built = trained()
    hessian, mixed = Hessian(built.risk()).to_dense(), Mixed(built.risk(), [1, 2]).to_dense()
    expected = float(torch.linalg.matrix_norm(torch.linalg.solve(hessian, mixed), ord=2))
    assert lipschitz_modulus(built, points=[1, 2]).value == pytest.approx(expected, rel=1e-6)


def test_outputs_of_several_tensors_and_single_precision():
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.text = nn.Linear(D, 2), nn.Linear(D, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"image": self.image(x), "text": self.text(x)}

    def clip(outputs: dict[str, Tensor], _: Tensor) -> Tensor:
        scores = outputs["image"] @ outputs["text"].T
        at = torch.arange(len(scores))
        return (functional.cross_entropy(scores, at) + functional.cross_entropy(scores.T, at)) / 2

    torch.manual_seed(0)
    model = Towers().eval()
    built = Problem(model, WholeBatch(clip), X.float(), Y, batch_size=4, gradient_tol=9e9)
    leaves = list(model.parameters())
    slopes = torch.autograd.grad(clip(model(X.float()), Y), leaves, create_graph=True)
    flat = torch.cat([slope.reshape(-1) for slope in slopes])
    rows = [torch.autograd.grad(entry, leaves, retain_graph=True) for entry in flat]
    expected = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    torch.testing.assert_close(Hessian(built.risk()).to_dense(), expected, rtol=1e-4, atol=1e-5)


def hinge_of_pairs(z: Tensor, y: Tensor) -> Tensor:
    gaps = z[:, 0][:, None] - z[:, 0]
    return (1 - (y[:, None] - y).sign() * gaps).clamp_min(0).mean()


@pytest.mark.parametrize("batch_size", [4, 256])
def test_pairs_on_the_kink_of_a_ranking_are_seen(batch_size):
    model = nn.Linear(1, 1, bias=False).double().eval()
    nn.init.ones_(model.weight)
    x = Y.double().unsqueeze(1)  # scores of neighbouring classes differ by exactly one
    built = Problem(model, WholeBatch(hinge_of_pairs), x, Y, gradient_tol=9.0, batch_size=batch_size)
    with pytest.warns(SolsetWarning, match="of the loss stand on a kink"):
        built.estimate(Move([1], torch.ones(1, 1, dtype=torch.float64)), optimality="stationary")


@pytest.mark.parametrize("batch_size", [3, 256])
def test_what_needs_losses_of_single_points_is_refused_by_name(batch_size):
    built = problem(of_mean, batch_size=batch_size)
    for ask in (
        lambda: built.estimate(Remove([3])),
        lambda: retrain(built, Remove([3]), method=LBFGS()),
        lambda: audit(built),
        lambda: built.restrict(points=[1, 2]),
        lambda: built.risk().losses(),
        lambda: loss_curvature(built.risk()),
    ):
        with pytest.raises(ValueError, match=r"taken of all 10 points|a mean or a sum over|no part that"):
            ask()
    fitted = Problem(network(), WholeBatch(of_mean), X, Y, gradient_tol=9e9)
    with pytest.raises(ValueError, match="a loss of all outputs at once"):
        fitted.estimate(Move([1], draw(1, D)), optimality="interpolating")
    with pytest.raises(ValueError, match="`sample_weights` must be left out"):
        problem(of_mean, sample_weights=torch.ones(N))


def test_without_the_declaration_the_refusal_names_it():
    with pytest.raises(ValueError, match=r"solset\.WholeBatch\(loss\)"):
        Problem(network(), of_mean, X, Y, gradient_tol=9e9)


def test_a_loss_that_draws_at_random_is_refused() -> None:
    model = nn.Linear(D, C, dtype=torch.float64).eval()

    def random(z: Tensor, y: Tensor) -> Tensor:
        return (z + torch.randn_like(z)).logsumexp(dim=1).mean() - z[torch.arange(N), y].mean()

    with pytest.raises(ValueError, match="the same for the same outputs"):
        Problem(model, WholeBatch(random), X, Y, weight_decay=0.1, gradient_tol=10.0)
