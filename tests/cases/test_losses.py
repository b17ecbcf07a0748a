"""Losses that are no plain mean over points, as users write them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from cases.conftest import situation
from solset import Problem
from support.zoo.judgement import NAMED
from support.zoo.losses import TaskWeights


def imbalanced(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, and labels of which three are of class 1: the eighths of the data do not meet them."""
    labels = torch.zeros(n, dtype=torch.long)
    labels[[5, 20, 38]] = 1
    return torch.randn(n, 4) + labels[:, None], labels


@pytest.mark.parametrize("point", [0, 5])
def test_class_weights_with_a_mean_give_the_influence_of_either_class(point):
    x, y = imbalanced()
    weight = torch.tensor([1.0, 19.0])
    seen = situation(
        nn.Linear(4, 2), lambda o, t: functional.cross_entropy(o, t, weight=weight), x, y, [point]
    )
    assert seen.error(seen.ask()) < 1e-6


@pytest.mark.parametrize("batch_size", [16, 256])
def test_class_weights_do_not_depend_on_the_batches_of_the_computation(batch_size):
    x, y = imbalanced()
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 19.0]))
    seen = situation(nn.Linear(4, 2), loss, x, y, [5, 7])
    assert seen.error(seen.ask(batch_size=batch_size)) < 1e-6


@pytest.mark.parametrize("void", [[3], [3, 10, 17]])
def test_ignored_pixels_leave_the_others_their_share(void):
    x = torch.randn(20, 2, 3, 3)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    y[void, :, 1:] = 255
    model = nn.Sequential(nn.Conv2d(2, 2, 2, padding=1), nn.Tanh(), nn.Conv2d(2, 3, 2))
    seen = situation(model, nn.CrossEntropyLoss(ignore_index=255), x, y, [void[0], 1])
    assert seen.error(seen.ask()) < 1e-6


def test_padded_targets_of_a_sequence_are_no_points():
    y = torch.randint(2, (24, 3))
    y[torch.arange(3) >= torch.randint(1, 4, (24, 1))] = -100
    model = nn.Sequential(nn.Linear(3, 6), nn.Unflatten(1, (2, 3)))
    seen = situation(model, nn.CrossEntropyLoss(), torch.randn(24, 3), y, [2, 9])
    assert seen.error(seen.ask()) < 1e-6


def test_sample_weights_beside_the_targets_count():
    weights = torch.ones(30)
    weights[4:9] = 20.0

    def loss(o, t):
        return (t[:, 1] * (o[:, 0] - t[:, 0]).square()).sum() / t[:, 1].sum()

    y = torch.stack([torch.randn(30), weights], dim=1)
    seen = situation(nn.Linear(3, 1), loss, torch.randn(30, 3), y, [5, 20])
    assert seen.error(seen.ask()) < 1e-6


def test_a_term_of_rare_events_of_the_batch_is_refused_by_name():
    def loss(o, t):
        rare = t[:, 0] > 1.5
        return functional.mse_loss(o, t) + (rare * (o[:, 0] - t[:, 0]).square()).sum() / rare.sum()

    with pytest.raises(ValueError, match=NAMED):
        Problem(nn.Linear(3, 2).eval(), loss, torch.randn(60, 3), torch.randn(60, 2))


@pytest.mark.parametrize("size", [1e-1, 1e-3])
def test_a_penalty_that_is_written_in_the_loss_is_refused_and_beside_it_right(size):
    model = nn.Linear(4, 1, bias=False)

    def ridge(o, t):
        return functional.mse_loss(o, t) + size / 2 * model.weight.square().sum()

    x = torch.randn(30, 4)
    y = x[:, :1] + torch.randn(30, 1)
    seen = situation(model, ridge, x, y, [0, 1, 2], weight_decay=0.0)
    with pytest.raises(ValueError, match="`loss` must be a function of outputs and targets alone"):
        seen.ask()
    problem = Problem(
        model, nn.MSELoss(), x, y, penalty=lambda named: size / 2 * named["weight"].square().sum()
    )
    assert seen.relative_error(problem) < 1e-6


def test_weights_that_the_loss_learns_are_refused_by_name():
    x = torch.randn(30, 3)
    y = torch.stack([x[:, 0] + 0.1 * torch.randn(30), x[:, 1] * x[:, 2] + torch.randn(30)], dim=1)
    seen = situation(nn.Linear(3, 2), TaskWeights(), x, y, [4, 8])
    with pytest.raises(ValueError, match="`loss` must be a function of outputs and targets"):
        seen.ask()


def test_decay_can_spare_the_biases():
    """A logistic regression with a free intercept, as scikit-learn fits it."""
    model, decay = nn.Linear(3, 1), 3e-2

    def risk(o, t):  # the decay of the weight alone is a part of the loss of the oracle
        return bce(o, t) + decay / 2 * model.weight.square().sum()

    bce = nn.BCEWithLogitsLoss()
    x = torch.randn(40, 3)
    y = (x[:, :1] + 1.0 + torch.randn(40, 1) > 0).double()
    seen = situation(model, risk, x, y, [2, 9], weight_decay=0.0)
    problem = Problem(model, bce, x, y, weight_decay={"weight": decay, "bias": 0.0})
    assert float(problem.gradient().norm()) < 1e-9
    assert seen.relative_error(problem) < 1e-6
