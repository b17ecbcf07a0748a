"""The engine on a residual network that it was not tuned for: trained from scratch, on part of CIFAR-10."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from solset import Problem
from solset.operators import InformativeRows
from solset.paper import ResNet, cifar10, resnet20
from solset.reports._directions import step_of, unit
from support.reference import cifar10_file

pytestmark = pytest.mark.slow

COUNT, MOVED = 128, [5, 40, 99]


def train(model: ResNet, images: Tensor, labels: Tensor) -> None:
    """Adam with batch statistics, then with those kept: the weights that evaluation mode sees are fitted."""
    for is_training, epochs in ((True, 30), (False, 60)):
        model.train(is_training)
        optimiser = torch.optim.Adam(model.parameters(), lr=2e-3 if is_training else 5e-4)
        for _ in range(epochs):
            for part in torch.arange(COUNT).split(64):
                optimiser.zero_grad()
                cross_entropy(model(images[part]), labels[part]).backward()
                optimiser.step()
    model.zero_grad()


@dataclass(frozen=True, eq=False)
class Trained:
    problem: Problem
    dx: Tensor


@pytest.fixture(scope="module")
def trained() -> Trained:
    try:
        data = cifar10(cifar10_file(), count=COUNT)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    model = resnet20(generator=torch.Generator().manual_seed(0))
    train(model, data.inputs, data.labels)
    problem = Problem(model.eval(), nn.CrossEntropyLoss(), data.inputs, data.labels, gradient_tol=1.0)
    directions = unit(problem.risk().select(MOVED).input_gradients())
    return Trained(problem, step_of(data.inputs[MOVED], directions, 0.005))


def test_training_fits(trained: Trained) -> None:
    assert trained.problem.is_fitted
    assert trained.problem.risk().value() < 5e-3


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3])
def test_the_residual_over_all_points_is_what_was_asked_for(trained: Trained, tol: float) -> None:
    D = trained.problem.derivative(points=MOVED, optimality="interpolating", rows=InformativeRows(tol=tol))
    D(trained.dx)
    assert D.check is not None
    print(
        f"ResNet20, tol {tol:g}: {D.check.rows} of {D.check.all_rows} rows, residual {D.check.residual:.2g}"
    )
    assert D.check.residual <= tol
    assert D.check.rows < D.check.all_rows


def test_one_step_takes_the_moved_points_back(trained: Trained) -> None:
    """First order in a step of 0.5 %: most of the rise is gone, and the other points keep their loss."""
    problem, dx = trained.problem, trained.dx
    change = problem.derivative(points=MOVED)(dx).min_norm().value
    moved = problem.risk().move(MOVED, dx)
    before, clean = moved.losses(), problem.risk().losses()
    after = moved.at(problem.weights() + change).losses()
    print(
        f"moved: clean {clean[MOVED].mean():.2g}, at w̄ {before[MOVED].mean():.2g}, {after[MOVED].mean():.2g}"
    )
    assert float(after[MOVED].mean() - clean[MOVED].mean()) <= 0.3 * float(
        before[MOVED].mean() - clean[MOVED].mean()
    )
    assert float(after.mean()) <= 1.1 * float(before.mean())
