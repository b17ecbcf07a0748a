"""Section 5.2: one linear solve keeps the pre-trained ResNet56 fitted on moved photographs."""

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from solset import Problem
from solset.derivatives import GraphicalDerivative
from solset.errors import Status
from solset.operators import InformativeRows
from solset.risk import EmpiricalRisk
from support.resnet56_runs import public_problem

pytestmark = [
    pytest.mark.slow,
    # Of eight million rectifiers in float32 one stands at zero, in a photograph that does not move.
    pytest.mark.filterwarnings("ignore:one-sided at 1 of 1000 points"),
]

SIZES = (0.002, 0.005, 0.01, 0.02)


@cache
def problem() -> Problem:
    """The public weights on the first 1000 training photographs."""
    return public_problem()


@cache
def clean() -> Tensor:
    """The loss of each point before anything moves."""
    return problem().risk().losses()


def drawn() -> list[int]:
    """Ten points, the same that ``torch.manual_seed(0)`` draws."""
    return torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:10].tolist()


def whole_step(moved: list[int]) -> Tensor:
    """``‖x_k‖`` along each moved point's own loss gradient: a step of 100 %."""
    risk = problem().risk().select(moved)
    inputs, _ = risk.points[range(len(moved))]
    gradients = risk.input_gradients()
    lengths = inputs.flatten(1).norm(dim=1) / gradients.flatten(1).norm(dim=1)
    return lengths.reshape(-1, 1, 1, 1) * gradients


@dataclass(frozen=True)
class Answer:
    """What one solve gives for every step size along these directions."""

    moved: list[int]
    derivative: GraphicalDerivative
    step: Tensor
    change: Tensor

    def risk(self, size: float) -> EmpiricalRisk:
        """At the estimated weights, on the moved data."""
        weights = problem().weights() + size * self.change
        return problem().risk().at(weights).move(self.moved, size * self.step)

    def losses(self, size: float) -> tuple[float, float]:
        """Mean loss on the moved points and on all."""
        losses = self.risk(size).losses()
        return float(losses[self.moved].mean()), float(losses.mean())


@cache
def answer(count: int) -> Answer:
    """Solved at a step of 1 %; the derivative is linear."""
    moved = drawn()[:count]
    derivative, step = problem().derivative(points=moved), whole_step(moved)
    found = derivative(0.01 * step).min_norm()
    assert found.status is Status.CONVERGED
    return Answer(moved, derivative, step, 100 * found.value)


def test_the_points_are_those_of_the_specification():
    assert drawn() == [44, 37, 675, 775, 947, 209, 719, 500, 561, 264]


def test_the_clean_losses_are_those_of_the_specification():
    assert float(clean().mean()) == pytest.approx(7.4e-4, rel=0.01)
    assert float(clean()[drawn()].mean()) == pytest.approx(6.7e-6, rel=0.02)


def test_without_an_answer_the_moved_points_are_lost():
    step, still = whole_step(drawn()), problem().risk().select(drawn())
    losses = [float(still.move(range(10), size * step).losses().mean()) for size in (0.01, 0.02)]
    assert losses == pytest.approx([1.22, 4.22], rel=0.02)


def test_auto_chooses_rows_and_they_hold_on_all():
    derivative = answer(10).derivative
    assert derivative.optimality == "interpolating"
    assert " of 10000 rows: all 100 of the moved points" in derivative.reason
    check = derivative.check
    assert check is not None
    assert check.is_accurate
    assert check.residual <= check.tol == InformativeRows().tol
    assert check.rows < 1000
    assert check.moved_residual <= 1e-4


def test_the_answer_is_linear_in_the_step():
    ten = answer(10)
    found = ten.derivative(0.02 * ten.step).min_norm().value
    assert float((found - 0.02 * ten.change).norm()) <= 1e-3 * float(found.norm())


@pytest.mark.parametrize("size", SIZES[:3])
def test_ten_moved_points_stay_fitted_and_the_others_with_them(size: float):
    moved, whole = answer(10).losses(size)
    assert moved <= 1e-5
    assert whole <= float(clean().mean())


def test_ten_points_moved_by_two_percent_stay_fitted():
    moved, whole = answer(10).losses(0.02)
    assert moved <= 1e-5
    assert whole <= 2e-3


@pytest.mark.parametrize("size", SIZES[:3])
def test_one_moved_point_stays_fitted(size: float):
    one = answer(1)
    assert one.derivative.check is not None
    assert one.derivative.check.is_accurate
    assert float(one.risk(size).select(one.moved).losses()) <= 1e-6
