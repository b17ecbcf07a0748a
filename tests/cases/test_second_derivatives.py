"""Layers whose second derivatives PyTorch does not have, or has wrong: right, refused by name, or flagged."""

import warnings

import pytest
import torch
from torch import nn

from cases.conftest import situation
from solset import Move, Problem, SolsetWarning
from solset.operators import Hessian
from support.zoo.combinations import Training
from support.zoo.functions import Branch, Detached, Once, Recomputed, distances, sampled
from support.zoo.judgement import NAMED
from support.zoo.layers import Apply
from support.zoo.oracle import truth


def data() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(24, 3), torch.randint(3, (24,))


def is_honest(seen) -> bool:
    """Whether the answer is right, refused by name, or flagged; an error of another kind passes through."""
    try:
        answer = seen.ask()
    except (TypeError, ValueError) as error:
        if NAMED.match(str(error)):
            return True
        raise
    return bool(answer.flags) or seen.error(answer) < 1e-5


@pytest.mark.parametrize("way", ["no grad", "detach", "NumPy"])
def test_a_held_backbone_still_moves_its_outputs(way):
    model = nn.Sequential(Branch(way), nn.Linear(3, 3))
    seen = situation(model, nn.CrossEntropyLoss(), *data(), [0, 3, 7])
    assert float(seen.change.norm()) > 1e-4
    assert is_honest(seen)


@pytest.mark.parametrize("function", [Once.apply, Detached.apply, sampled])
def test_a_function_without_a_second_derivative_gives_no_wrong_number(function):
    width = 4 if function is sampled else 3
    model = nn.Sequential(nn.Linear(3, 3), Apply(function), nn.Flatten(), nn.Linear(width, 3))
    assert is_honest(situation(model, nn.CrossEntropyLoss(), *data(), [1, 4]))


@pytest.mark.parametrize("layer", [nn.Hardsigmoid(), nn.Hardswish(), Apply(distances)])
def test_a_layer_with_a_first_derivative_only_gives_no_wrong_number(layer):
    model = nn.Sequential(nn.Linear(3, 3), layer, nn.Linear(3, 2))
    seen = situation(model, nn.MSELoss(), torch.randn(6, 3), torch.zeros(6, 2), [1, 4], is_fitted=True)
    assert is_honest(seen)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_no_wrong_number(use_reentrant):
    model = nn.Sequential(Recomputed(use_reentrant), nn.Linear(3, 3))
    if use_reentrant:  # as PyTorch asks for: an input that requires grad
        model = nn.Sequential(nn.Linear(3, 3), *model)
    assert is_honest(situation(model, nn.CrossEntropyLoss(), *data(), [3, 8]))


def test_weight_norm_has_a_right_second_derivative_or_is_refused_by_name():
    """PyTorch's own is wrong in proportion to the gradient that reaches the layer, so away from a minimum."""
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 1)).eval()
    x, y = torch.randn(20, 3), 3 * torch.randn(20, 1)
    right = truth(Training(model, nn.MSELoss(), x, y, 0.0), [0], 0.1 * x[:1]).H
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SolsetWarning)  # it says that differences are taken
            got = Hessian(Problem(model, nn.MSELoss(), x, y, gradient_tol=10.0).risk()).to_dense()
    except (TypeError, ValueError) as error:
        if not NAMED.match(str(error)):
            raise
    else:
        assert float((got - right).norm() / right.norm()) < 1e-6


@pytest.mark.parametrize(
    ("groups", "channels", "is_affine", "n"), [(2, 6, True, 9), (1, 4, False, 4), (1, 6, False, 6)]
)
def test_group_norm_is_right_in_every_shape(groups, channels, is_affine, n):
    norm = nn.GroupNorm(groups, channels, affine=is_affine)
    model = nn.Sequential(nn.Linear(3, channels), norm, nn.Tanh(), nn.Linear(channels, 2))
    seen = situation(model, nn.MSELoss(), torch.randn(n, 3), torch.zeros(n, 2), [0, 2], is_fitted=True)
    assert seen.error(seen.ask(optimality="stationary")) < 1e-5


def test_a_second_derivative_that_is_not_a_number_is_named():
    class Sums(nn.Module):
        def forward(self, x):
            return torch.logcumsumexp(x, dim=1)

    model = nn.Sequential(nn.Linear(3, 4), Sums(), nn.Linear(4, 2))
    seen = situation(model, nn.MSELoss(), torch.randn(9, 3), torch.zeros(9, 2), [0, 2], is_fitted=True)
    assert is_honest(seen)


class Equation(nn.Module):
    """The residual ``u'' + u`` of a net ``u``, differentiated inside forward."""

    def __init__(self, way):
        super().__init__()
        self.net, self.way = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)), way

    def forward(self, t):
        if self.way == "torch.func":
            slope = torch.func.hessian(lambda s: self.net(s[None])[0, 0])
            return torch.func.vmap(lambda s: slope(s)[0, 0])(t)[:, None] + self.net(t)
        with torch.enable_grad():
            t = t if t.requires_grad else t.detach().requires_grad_()
            u = self.net(t)
            first = torch.autograd.grad(u.sum(), t, create_graph=True)[0]
            return torch.autograd.grad(first.sum(), t, create_graph=True)[0] + u


@pytest.mark.parametrize("way", ["enable_grad", "torch.func"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch.func.hessian's own
def test_models_that_differentiate_in_forward_are_right(way):
    t = torch.linspace(0.1, 3, 12)[:, None]
    seen = situation(Equation(way), nn.MSELoss(), t, torch.sin(2 * t), [3, 8], size=2e-3)
    assert seen.error(seen.ask()) < 1e-5


def test_a_hinge_loss_gives_no_wrong_number():
    """``MultiMarginLoss`` has no second derivative in PyTorch; a margin is a kink, and away from it flat."""
    x, y = torch.randn(8, 3), torch.randint(3, (8,))
    is_named, model = False, nn.Linear(3, 3).eval()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            problem = Problem(model, nn.MultiMarginLoss(), x, y, weight_decay=0.1)
            problem.estimate(Move([0], 0.1 * x[:1])).min_norm()
        except (TypeError, ValueError) as error:
            if not NAMED.match(str(error)):
                raise
            is_named = True
    assert is_named or any(issubclass(w.category, SolsetWarning) for w in seen)  # nothing was trained
