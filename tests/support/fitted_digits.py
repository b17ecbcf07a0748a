"""Digits networks fitted to zero residual with ten points to move, and their dense reference paths."""

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, retrain
from solset.derivatives import GraphicalDerivative
from solset.operators import GaussNewton
from solset.paper import digits
from solset.paper._training import fit_exactly
from solset.reports._directions import cross_entropy_directions, random_directions, step_of
from solset.retraining import GradientDescent
from solset.solvers import filters, largest_eigenvalue
from solset.zoo import DFCNN
from support.dense_path import Layers, dense_path

STEPS = (100, 1000, 3000)
SLOW_DIGITS = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the path ended early"),
    pytest.mark.filterwarnings("ignore:the retraining"),
    pytest.mark.filterwarnings("ignore:training ended with status"),
]


@dataclass(frozen=True)
class Fitted:
    problem: Problem
    moved: list[int]
    directions: dict[str, Tensor]
    derivative: GraphicalDerivative
    learning_rate: float

    def dx(self, kind: str, size: float) -> Tensor:
        inputs, _ = self.problem.risk().points[self.moved]
        return step_of(inputs, self.directions[kind], size)

    def actual(self, dx: Tensor) -> dict[int, Tensor]:
        method = GradientDescent(max(STEPS), self.learning_rate, record_at=STEPS)
        course = retrain(self.problem, Move(self.moved, dx), method=method).course
        return {k: weights - self.problem.weights() for k, weights in course.items()}

    def flow_errors(self, kind: str, size: float) -> list[float]:
        dx = self.dx(kind, size)
        changes, actual = self.derivative(dx), self.actual(dx)
        predicted = {k: changes.element(filters.GradientFlow(k, self.learning_rate)).value for k in STEPS}
        return [float((predicted[k] - actual[k]).norm() / actual[k].norm()) for k in STEPS]


@cache
def fitted(activation: str) -> Fitted:
    """100 digits, squared loss fitted beyond 1e-12, a 64-128-64-10 network; ten points move."""
    generator = torch.Generator().manual_seed(0)
    train = digits().part(0, 100)
    act = torch.tanh if activation == "tanh" else torch.relu
    model = DFCNN([64, 128, 64, 10], activation=act, generator=generator)
    assert fit_exactly(model, train.inputs, train.one_hot()) <= 1e-12
    problem = Problem(model.eval(), nn.MSELoss(), train.inputs, train.one_hot())
    moved = torch.randperm(100, generator=generator)[:10].tolist()
    inputs, labels = train.inputs[moved], train.labels[moved]
    directions = {
        "random": random_directions(inputs.shape, inputs, generator),
        "cross_entropy": cross_entropy_directions(model, inputs, labels),
    }
    rate = 1.0 / largest_eigenvalue(GaussNewton(problem.risk()))
    derivative = problem.derivative(points=moved)
    assert derivative.optimality == "interpolating", derivative.reason
    return Fitted(problem, moved, directions, derivative, rate)


SHAPES = ((128, 64), (64, 128), (10, 64))
LAST = SHAPES[-1][0] * SHAPES[-1][1]  # the output layer comes first among the parameters


def followed_densely(net: Fitted, activation: str, dx: Tensor, steps: int) -> Tensor:
    """The end of the path of kept outputs by so many equal steps, with code of the tests' own."""
    inputs, _ = net.problem.risk().points[range(net.problem.point_count)]
    whole = torch.zeros_like(inputs)
    whole[net.moved] = dx
    if activation == "tanh":
        layers = Layers(SHAPES, torch.tanh, lambda z: 1 - torch.tanh(z).square())
    else:
        layers = Layers(SHAPES, torch.relu, lambda z: (z > 0).to(z.dtype))
    start = net.problem.weights()
    end = dense_path(layers, torch.cat([start[LAST:], start[:LAST]]), inputs, whole, steps)
    return torch.cat([end[-LAST:], end[:-LAST]])
