"""Folds, leaps and saddles: what follows or solves again says when it is not where training ends."""

import math
import warnings

import pytest
import torch
from torch import nn

from solset import Move, Problem, SolsetWarning, follow_path, retrain
from solset.courses import StopReason
from solset.retraining import LBFGS, Newton
from support.zoo.combinations import Training
from support.zoo.minimum import train
from support.zoo.oracle import truth

AMPLITUDE, FREQUENCY, DECAY = 0.5, 6.0, 0.5


class Wave(nn.Module):
    """One weight, whose risk has the slope ``-x + A sin(k w) + λ w``: many branches with equal slopes."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([math.pi / 2 / FREQUENCY]))

    def forward(self, x):
        half = torch.sin(0.5 * FREQUENCY * self.w)
        return torch.cat([x * self.w, half.expand(len(x), 1)], dim=1)


def risk(o, t):
    return (-o[:, 0] + 2 * AMPLITUDE / FREQUENCY * o[:, 1].square()).mean()


@pytest.mark.parametrize("branch", [1, 2, -1])
def test_a_path_does_not_leap_over_a_fold_in_silence(branch):
    """The prediction lands on another branch of the same slope; gradient descent ends elsewhere."""
    model = Wave().eval()
    start = AMPLITUDE + DECAY * float(model.w.detach())
    problem = Problem(model, risk, torch.tensor([[start]]), torch.zeros(1, 1), weight_decay=DECAY)
    dx = torch.tensor([[DECAY * 2 * math.pi * branch / FREQUENCY]])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        path = follow_path(problem, Move(None, dx), progress=False)
    w, x, is_branch = float(model.w.detach()), start, True
    for k in range(1, 2001):  # the true branch, by Newton's method in small steps
        x = start + k / 2000 * float(dx)
        for _ in range(20):
            slope = -x + AMPLITUDE * math.sin(FREQUENCY * w) + DECAY * w
            w -= slope / (AMPLITUDE * FREQUENCY * math.cos(FREQUENCY * w) + DECAY)
        if AMPLITUDE * FREQUENCY * math.cos(FREQUENCY * w) + DECAY <= 1e-2:
            is_branch = False
            break
    is_flagged = any(issubclass(w.category, SolsetWarning) for w in seen)
    is_short = path.reason is not StopReason.END
    assert is_flagged or is_short or (is_branch and abs(float(path.weights) - w) < 1e-3)


def test_newtons_method_ends_at_a_minimum_or_says_that_it_does_not():
    for seed in range(6):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        x, y = torch.randn(8, 2), torch.randn(8, 1)
        training = Training(model.eval(), nn.MSELoss(), x, y, 0.03)
        if not train(training):
            continue
        dx = torch.randn(8, 2)
        problem = Problem(model, nn.MSELoss(), x, y, weight_decay=0.03)
        end = retrain(problem, Move(None, dx), method=Newton())
        moved = Training(end.apply_to(model), nn.MSELoss(), x + dx, y, 0.03)
        known = truth(moved, [0], 0.1 * dx[:1])
        lowest = float(torch.linalg.eigvalsh((known.H + known.H.T) / 2)[0])
        if str(end.status) == "converged":
            assert lowest > -1e-6
            assert float(known.gradient.norm()) < 1e-6


def test_newtons_method_ends_where_descent_ends():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    x, y = torch.randn(12, 2), torch.randn(12, 1)
    assert train(Training(model.eval(), nn.MSELoss(), x, y, 0.05))
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=0.05)
    change = Move([0], 0.05 * torch.randn(1, 2))
    ends = [retrain(problem, change, method=m).change for m in (Newton(), LBFGS(max_gradients=3000))]
    assert float((ends[0] - ends[1]).norm()) < 1e-5 * float(ends[1].norm())
