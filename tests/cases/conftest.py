"""Situations of users, trained to a minimum, and the answers that dense central differences give for them."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem
from support.zoo.combinations import Training, drawn_from
from support.zoo.judgement import Answer, ask
from support.zoo.minimum import train
from support.zoo.oracle import smallest, truth


@dataclass(frozen=True, eq=False)
class Situation:
    """A trained model, a move of some of its points, and the change of the weights that is right."""

    training: Training
    points: list[int]
    dx: Tensor
    change: Tensor
    dimension: int

    def error(self, answer: Answer) -> float:
        """Relative error of an answer; the weights of a loss may be among its weights or not."""
        right = self.change[: len(answer.change)]
        return float((answer.change - right).norm() / right.norm())

    def relative_error(self, problem: Problem) -> float:
        """Relative error of the change that a problem estimates for the same move."""
        change = problem.estimate(Move(self.points, self.dx)).min_norm().value - problem.weights()
        return float((change - self.change).norm() / self.change.norm())

    def ask(self, **options) -> Answer:
        return ask(self.training, self.dx, self.points, **options)


def situation(
    model: nn.Module,
    loss,
    inputs: Tensor,
    targets: Tensor,
    points: list[int],
    *,
    weight_decay: float = 1e-2,
    size: float = 1e-2,
    is_fitted: bool = False,
) -> Situation:
    """The model trained in place, float64, and the truth for a random move of some points.

    A fitted one keeps its weights and has no decay: its targets are its outputs.

    Args:
        model: Module that is trained.
        loss: Loss of outputs and targets.
        inputs: Features of all points.
        targets: Targets of all points.
        points: Indices of the points that move.
        weight_decay: Decay of all weights of the model.
        size: Size of the move of one feature.
        is_fitted: Whether the targets are replaced by the outputs.
    """
    training = Training(model.eval(), loss, inputs, targets, weight_decay)
    if is_fitted:
        training = replace(training, targets=model(inputs).detach(), weight_decay=0.0)
    assert is_fitted or train(training)
    dx = size * torch.randn(len(points), *inputs.shape[1:], generator=torch.Generator().manual_seed(1))
    known = truth(training, points, dx)
    right = smallest(known.J, known.j, 1e-8) if is_fitted else smallest(known.H, known.b, 1e-8)
    assert known.is_smooth
    assert right.gap
    return Situation(training, points, dx, right.value, len(right.value) - right.rank)


@pytest.fixture(autouse=True)
def _float64():
    """Everything in double precision, from one seed."""
    with drawn_from(0, torch.float64):
        yield
