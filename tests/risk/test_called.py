"""Calls of models that differentiate, checkpoint, or write to themselves and their inputs."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from solset import Move, Problem
from solset.operators import Hessian, Mixed

N = 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(make) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double().eval()


class Equation(nn.Module):
    """The residual ``u'' + u`` of a network ``u``, as physics-informed networks compute it."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.net, self.style = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)), style

    def forward(self, t: Tensor) -> Tensor:
        if self.style == "torch.func":
            second = torch.func.hessian(lambda s: self.net(s[None])[0, 0])
            return torch.func.vmap(lambda s: second(s)[0, 0])(t)[:, None] + self.net(t)
        t.requires_grad_(True)
        u = self.net(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        return torch.autograd.grad(slope.sum(), t, create_graph=True)[0] + u


def dense(risk, inputs: Tensor, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """``H`` and ``B`` by one autograd row after another, from the module itself."""
    leaf = inputs.clone().requires_grad_()
    value = risk.loss(risk.model(leaf * 1.0), risk.points[range(len(inputs))][1])
    slopes = torch.autograd.grad(value, parts, create_graph=True)
    flat = torch.cat([slope.reshape(-1) for slope in slopes])
    rows = [torch.autograd.grad(s, [*parts, leaf], retain_graph=True, materialize_grads=True) for s in flat]
    return torch.stack([torch.cat([a.reshape(-1) for a in row[:-1]]) for row in rows]), torch.stack(
        [row[-1].reshape(-1) for row in rows]
    )


@pytest.mark.parametrize("style", ["torch.autograd", "torch.func"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_forward_method_may_differentiate(style):
    model = seeded(lambda: Equation(style))
    t, f = torch.linspace(0.1, 3, N).double()[:, None], draw(N, 1)
    risk = Problem(model, nn.MSELoss(), t, f, gradient_tol=float("inf")).risk()
    H, B = dense(risk, t, list(model.parameters()))
    assert torch.allclose(Hessian(risk).to_dense(), H, atol=1e-10)
    assert torch.allclose(Mixed(risk, range(N)).to_dense(), B, atol=1e-10)
    assert not risk.outputs().requires_grad
    assert not t.requires_grad


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.a, self.b, self.reentrant = nn.Linear(3, 4), nn.Linear(4, 2), reentrant

    def block(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x))

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.b(self.block(x))
        return self.b(checkpoint(self.block, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_change_nothing_at_other_weights(reentrant):
    x, y = draw(N, 3), draw(N, 2, seed=1)
    plain, kept = (
        Problem(seeded(lambda r=r: Checkpointed(r)), nn.MSELoss(), x, y, gradient_tol=float("inf")).risk()
        for r in (None, reentrant)
    )
    w = plain.weights + draw(len(plain.weights))
    assert torch.equal(kept.at(w).gradient(), plain.at(w).gradient())
    v = torch.ones_like(w)
    assert torch.equal(Hessian(kept.at(w)) @ v, Hessian(plain.at(w)) @ v)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.calls = nn.Linear(3, 2), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls, self.last = self.calls + 1, x
        x -= 0.5
        return self.a(x.clamp_(-1, 1))


def test_inputs_written_to_in_the_forward_method_stay_as_they_were():
    model, x = seeded(InPlace), draw(N, 3)
    before = x.clone()
    problem = Problem(model, nn.MSELoss(), x, draw(N, 2, seed=1), gradient_tol=float("inf"))
    problem.estimate(Move(None, 0.01 * x), optimality="stationary")
    assert torch.equal(x, before)
    assert model.calls == 0
    assert not hasattr(model, "last")


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    prune.random_unstructured(model[0], "weight", amount=0.5)
    return model


@pytest.mark.parametrize("make", [old_weight_norm, pruned])
def test_a_model_that_stores_its_computed_weight_can_be_copied(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = make().double().eval(), draw(N, 3)
    target = model(x).detach()
    problem = Problem(model, nn.MSELoss(), x, target)
    assert torch.equal(copy.deepcopy(model)(x), target)
    assert model(x).requires_grad  # computed anew, with a graph that deepcopy refuses
    new = problem.estimate(Move(None, 1e-3 * draw(N, 3, seed=2))).min_norm().apply_to(model)
    assert 0 < float((new(x) - target).detach().norm()) < 1e-2
