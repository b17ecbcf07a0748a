"""A loss with trainable weights of its own: refused with a cure, and the cure gives the right numbers."""

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem
from solset.operators import GaussNewton, Hessian, Mixed

N = 16


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = draw(N, 3), draw(N, 2, seed=1)


class TaskWeights(nn.Module):
    """Learned task weights ``Σ_t exp(-s_t) e_t + s_t`` (Kendall et al. 2018, equation 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((-self.s).exp() * (outputs - targets).square() + self.s).mean()


class Beside(nn.Module):
    """The cure: the model holds the loss's weights and returns them beside its outputs."""

    def __init__(self, body: nn.Module, loss: TaskWeights) -> None:
        super().__init__()
        self.body, self.s = body, nn.Parameter(loss.s.detach().clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(x), self.s.expand(len(x), -1)


def with_weights_beside(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    predicted, s = outputs
    return ((-s).exp() * (predicted - targets).square() + s).mean()


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(3, 2).double().eval()


def test_weights_of_the_loss_are_named_with_two_cures():
    with pytest.raises(ValueError, match=r"weights of its own that require grad \(s\).*beside its outputs"):
        Problem(network(), TaskWeights(), X, Y, gradient_tol=float("inf"))


def test_a_loss_that_holds_the_model_is_told_of_the_penalty():
    class Ridge(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).square().mean() + self.model.weight.square().sum()

    model = network()
    with pytest.raises(ValueError, match="any other as penalty="):
        Problem(model, Ridge(model), X, Y, gradient_tol=float("inf"))


def test_frozen_weights_of_the_loss_are_held():
    loss = TaskWeights()
    loss.s.requires_grad_(False)
    held = Problem(network(), loss, X, Y, gradient_tol=float("inf"))
    assert held.risk().value() == pytest.approx(float(loss(network()(X), Y).detach()), rel=1e-12)


def test_weights_returned_beside_the_outputs_move_too():
    """Against autograd on the loss with its own parameters."""
    body, loss = network(), TaskWeights()
    problem = Problem(
        Beside(body, loss).eval(),
        with_weights_beside,
        X,
        Y,
        weight_decay={"body.*": 0.1, "s": 0.0},
        gradient_tol=9e9,
    )
    risk, inputs = problem.risk(), X.clone().requires_grad_()
    names, parts = list(risk.layout.shapes), risk.leaves()
    named = dict(zip(names, parts, strict=True))
    predicted = inputs @ named["body.weight"].T + named["body.bias"]
    value = torch.func.functional_call(loss, {"s": named["s"]}, (predicted, Y))
    value = value + 0.05 * (named["body.weight"].square().sum() + named["body.bias"].square().sum())
    assert risk.value() == pytest.approx(float(value.detach()), rel=1e-12)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parts, create_graph=True)])
    torch.testing.assert_close(risk.gradient(), gradient.detach())
    rows = [
        torch.autograd.grad(g, [*parts, inputs], retain_graph=True, materialize_grads=True) for g in gradient
    ]
    dense = torch.stack([torch.cat([part.reshape(-1) for part in row[:-1]]) for row in rows])
    torch.testing.assert_close(Hessian(risk).to_dense(), dense, rtol=1e-9, atol=1e-11)
    mixed = torch.stack([row[-1].reshape(-1) for row in rows])[:, 6:9]
    torch.testing.assert_close(Mixed(risk, [2]).to_dense(), mixed, rtol=1e-9, atol=1e-11)
    assert bool((torch.linalg.eigvalsh(GaussNewton(risk).to_dense()) > -1e-12).all())
    change = problem.estimate(Move([2], 0.01 * draw(1, 3, seed=2)), optimality="stationary").min_norm()
    assert set(change.as_parameters()) == {"body.weight", "body.bias", "s"}
