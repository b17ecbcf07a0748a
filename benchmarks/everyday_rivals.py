"""Other predictors of what a removal does, each at five settings: TracIn, damped Gauss–Newton and pyDVL."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.everyday_models import Everyday
from solset import Problem, filters
from solset.goals import PointLosses
from solset.operators import PointGradients
from solset.solvers import Dense, Dual

SHARES = (1.0, 0.1, 1e-2, 1e-3, 1e-4)  # dampings that are tried, relative to the largest eigenvalue
NYSTROEM_RANK = 100
Scores = Iterator[tuple[str, Tensor]]


def rivals(case: Everyday, problem: Problem, goal: PointLosses, largest: float) -> dict[str, Scores]:
    """Scores of every setting of each rival: the derivative of each test loss in each point's factor.

    Args:
        case: Model, data and recipe.
        problem: Trained weights with the training points.
        goal: Test points whose losses are explained.
        largest: Largest eigenvalue of the Gauss–Newton matrix.
    """
    results = {
        "TracIn, one checkpoint": iter([("last", _products(problem, goal))]),
        "TracIn, checkpoints": _tracin(case, goal),
        "damped Gauss–Newton": _gauss_newton(problem, goal, largest),
    }
    try:
        pydvl = import_module("pydvl.influence.torch")
    except (ImportError, RuntimeError) as error:
        print(f"pyDVL: left out, it cannot be imported ({str(error)[:60]})\n")
        return results
    makers = {
        "pyDVL, Arnoldi": pydvl.ArnoldiInfluence,
        "pyDVL, Nyström": partial(pydvl.NystroemSketchInfluence, rank=NYSTROEM_RANK),
    }
    return results | {name: _pydvl(make, case, problem, goal, largest) for name, make in makers.items()}


def _products(problem: Problem, goal: PointLosses) -> Tensor:
    """Minus the products of test gradients with gradients of points in the mean, ``(tests, n)``."""
    risk, count = problem.risk(), problem.point_count
    gradients = goal.slopes(risk, problem.weights()).gradients
    return -(PointGradients(risk, risk.select(range(count))).T @ gradients).T


def _tracin(case: Everyday, goal: PointLosses) -> Scores:
    """Products summed over checkpoints, each times the learning rates since the one before."""
    for count in (2, 3, 4, 5, case.epochs):
        ends = [round(case.epochs * (k + 1) / count) for k in range(count)]
        total, last = torch.zeros(()), 0
        for end in ends:
            model = case.training(epochs=end).train(progress=False)
            products = _products(Problem(model, case.loss, *case.train), goal)
            total, last = total + case.rate * case.steps_of_epoch * (end - last) * products, end
        yield f"{count} checkpoints", total


def _gauss_newton(problem: Problem, goal: PointLosses, largest: float) -> Scores:
    solver = Dense() if len(problem.weights()) <= problem.point.rows else Dual()  # one decomposition
    for share in SHARES:
        damped = filters.Tikhonov(share * largest)
        worth = problem.attribute(
            goal, features=False, optimality="gauss_newton", element=damped, solver=solver
        )
        yield f"damping {share:g}", torch.as_tensor(worth.weights)


def _pydvl(
    make: Callable[..., Any], case: Everyday, problem: Problem, goal: PointLosses, largest: float
) -> Scores:
    """Influences of pyDVL by one of its low-rank inverses of the Hessian."""
    model = problem.risk().model
    data = DataLoader(TensorDataset(*case.train), batch_size=len(case.train[0]))
    try:
        influence = make(model, _loss_of(case.loss), regularization=largest).fit(data)
        for share in SHARES:
            influence = influence.with_regularization(share * largest)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = influence.influences(goal.inputs, goal.targets, *case.train)
            yield f"damping {share:g}", -values.detach().reshape(len(goal.inputs), -1) / problem.point_count
    except (RuntimeError, ValueError, TypeError) as error:
        print(f"{case.name}: pyDVL stopped, {type(error).__name__}: {str(error)[:100]}")


def _loss_of(loss: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda outputs, targets: loss(outputs, targets)
