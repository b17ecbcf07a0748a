"""A design says how solving on the moved data ended, and where real retraining ends instead."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from solset import Problem, design_poisoning
from solset.courses import Retrained
from solset.errors import SolsetWarning, Status
from solset.goals import WeightFunction
from solset.poisoning import Ascent, Budget, Corrected, Reason
from solset.retraining import Newton
from solset.risk import EmpiricalRisk

GOAL = WeightFunction(lambda weights: weights.sum())


class Well(nn.Module):
    """Outputs ``w² - 1`` and ``(w + x)/4``: two minima, near ``w = ±1``."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((1,), (1 - 0.02 - 0.03125) ** 0.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.w.square() - 1 + 0 * x, (self.w + x) / 4], dim=1)


@pytest.fixture
def problem() -> Problem:
    # E' = 2 w (w² - 1) + (w + x)/16 + 0.04 w
    zero = torch.zeros(1, 1, dtype=torch.float64)
    return Problem(
        Well().eval(), nn.MSELoss(), zero, torch.zeros(1, 2, dtype=torch.float64), weight_decay=0.04
    )


@dataclass(frozen=True)
class OnTheOtherSide:
    """A way to solve that ends at the other minimum as soon as the data have moved by a tenth."""

    def run(self, start: EmpiricalRisk, target: Callable[[], Tensor]) -> Retrained:
        inputs, _ = start.points[[0]]
        sign = 1.0 if float(inputs.abs()) < 0.1 else -1.0
        return Newton().run(start.at(sign * start.weights.abs()), target)


def test_a_path_that_training_takes_is_confirmed(problem):
    poisoning = design_poisoning(problem, GOAL, Budget([0], 0.3))
    x, w = float(poisoning.dx), float(poisoning.weights)
    assert 2 * w * (w * w - 1) + (w + x) / 16 + 0.04 * w == pytest.approx(0.0, abs=1e-9)
    assert poisoning.solved is Status.CONVERGED
    assert poisoning.real == pytest.approx(poisoning.predicted, abs=1e-9)
    assert poisoning.is_confirmed


def test_retraining_that_ends_elsewhere_is_told_with_its_numbers(problem):
    goal = WeightFunction(lambda weights: -weights.sum())
    with pytest.warns(SolsetWarning, match="retraining from the trained weights ends elsewhere"):
        poisoning = design_poisoning(problem, goal, Budget([0], 0.3), follower=Corrected(OnTheOtherSide()))
    assert float(poisoning.weights) < -0.9
    assert poisoning.predicted > 0.9
    assert poisoning.real == pytest.approx(-0.97, abs=0.02)
    assert f"({poisoning.real:.4g} by retraining)" in repr(poisoning)
    assert f"to {poisoning.real:.4g} and not to {poisoning.predicted:.4g}" in poisoning.message


def test_weights_that_are_no_solution_are_never_accepted(problem):
    poisoning = design_poisoning(
        problem, GOAL, Budget([0], 0.3), follower=Corrected(Newton(max_steps=0)), ascent=Ascent(max_rounds=20)
    )
    # It gets as far as the linear model alone ends at solutions to 1e-10.
    assert float(poisoning.dx.abs()) < 1e-3
    assert poisoning.solved is Status.CONVERGED
    assert poisoning.reason is Reason.NOT_SOLVED
    assert poisoning.status is Status.MAX_STEPS
