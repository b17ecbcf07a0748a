"""Training that is not what it seems: small units, gradients that are left, answers out of all proportion."""

import math
import warnings

import torch
from torch import nn
from torch.nn import functional

from cases.conftest import situation
from solset import Move, Problem, SolsetWarning, audit, lipschitz_modulus


def flags(call) -> list[str]:
    """What a call warns of."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in seen if issubclass(w.category, SolsetWarning)]


def test_an_untrained_net_on_targets_in_small_units_is_not_called_fitted():
    x = torch.randn(40, 4)
    y = 2e-3 * torch.sin(3 * x[:, :1])
    model = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1)).eval()
    with torch.no_grad():
        model[2].weight.mul_(5e-4)
        model[2].bias.mul_(5e-4)
    assert flags(lambda: Problem(model, nn.MSELoss(), x, y).estimate(Move([0], x[:1])).min_norm())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolsetWarning)
        problem = Problem(model, nn.MSELoss(), x, y)
        derivative = problem.derivative(points=[0, 1])
        modulus = lipschitz_modulus(problem, points=[0, 1])
    assert derivative.optimality != "interpolating"
    assert modulus.certificate.certainty != "exact"


def test_a_scaled_loss_does_not_hide_that_nothing_was_trained():
    x, model = torch.randn(40, 4), nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1)).eval()
    y = torch.sin(3 * x[:, :1])
    assert flags(lambda: Problem(model, lambda o, t: 1e-5 * functional.mse_loss(o, t), x, y))


def test_a_leftover_gradient_larger_than_the_effect_is_said():
    """Logistic regression that stops at the usual tolerance of its library: 1e-4 in every entry."""
    x, y, decay = torch.randn(60, 8), torch.arange(60) % 4, 1e-4
    model = nn.Linear(8, 4).eval()
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=60, tolerance_grad=1e-4)

    def closure():
        optimiser.zero_grad()
        risk = functional.cross_entropy(model(x), y)
        risk = risk + decay / 2 * sum(p.square().sum() for p in model.parameters())
        risk.backward()
        return risk

    optimiser.step(closure)
    noise = 2e-4 * torch.randn(4, 8)
    with torch.no_grad():  # off the minimum along flat directions, as the stop leaves it
        model.weight.add_(noise / decay * 0.02)
    problem = None

    def call():
        nonlocal problem
        problem = Problem(model, nn.CrossEntropyLoss(), x, y, weight_decay=decay, gradient_tol=1e-2)
        problem.estimate(Move([0, 3], -0.002 * x[[0, 3]])).min_norm()

    assert flags(call)


def test_a_change_longer_than_the_weights_is_said():
    """A classifier after a few epochs, and the Gauss-Newton map without decay."""
    x, y = torch.randn(24, 6), torch.arange(24) % 3
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    problem = None

    def call():
        nonlocal problem
        problem = Problem(model.eval(), nn.CrossEntropyLoss(), x, y)
        problem.estimate(Move([0, 3], 0.5 * x[[0, 3]]), optimality="gauss_newton").min_norm()

    assert flags(call)


def test_an_audit_of_an_unfinished_training_is_flagged():
    x = torch.randn(40, 4)
    y = (x[:, :1] * x[:, 1:2]).tanh() + 0.3 * torch.randn(40, 1)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(15):
        optimiser.zero_grad()
        functional.mse_loss(model(x), y).backward()
        optimiser.step()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        report = audit(Problem(model.eval(), nn.MSELoss(), x, y))
    said = [str(w.message) for w in seen if issubclass(w.category, SolsetWarning)]
    assert said
    assert any("stationary" in text for text in [*said, *report.notes])


def test_duplicates_at_a_fitted_point_are_infinite_by_default():
    x = torch.randn(5, 3)
    x[1] = x[0]
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).eval()
    problem = Problem(model, nn.MSELoss(), x, model(x).detach())
    assert math.isinf(lipschitz_modulus(problem, points=[0, 1]).value)


def test_a_finished_training_is_not_flagged():
    x, y = torch.randn(30, 3), torch.randn(30, 1)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    seen = situation(model, nn.MSELoss(), x, y, [0, 3], weight_decay=2e-2)
    answer = seen.ask()
    assert not answer.flags
    assert seen.error(answer) < 1e-6
