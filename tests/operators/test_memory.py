"""Operators that are gone leave no graph behind: autograd's cycles are none that Python could find."""

import gc
import warnings
from itertools import product

import torch
from torch import nn

from solset import Problem
from solset.operators import GaussNewton, Hessian, InputJacobian, Jacobian, Mixed

KINDS = [
    Hessian,
    GaussNewton,
    Jacobian,
    lambda risk, **kept: Mixed(risk, [0, 2], **kept),
    lambda risk, **kept: InputJacobian(risk, [0, 2], **kept),
]


def living() -> int:
    """How many tensors there are."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at an object may call a deprecated one
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


def use_every_operator() -> None:
    g = torch.Generator().manual_seed(0)
    for activation, budget, kind in product((nn.Tanh, nn.Softplus), (0, 2**30), KINDS):
        layers = nn.Linear(3, 4), activation(), nn.Linear(4, 2), nn.Softmax(dim=1)
        model = nn.Sequential(*layers).double().eval()
        x = torch.randn(6, 3, generator=g, dtype=torch.float64)
        risk = Problem(model, nn.MSELoss(), x, model(x).detach(), batch_size=3).risk()
        operator = kind(risk, memory_budget=budget)
        v = torch.ones(operator.shape[1], 2, dtype=torch.float64)
        operator.T @ (operator @ v)


def test_nothing_is_left_of_an_operator():
    use_every_operator()  # what is kept for good is there now
    before = living()
    for _ in range(3):
        use_every_operator()
    assert living() <= before, "use each operator alone to see which"
