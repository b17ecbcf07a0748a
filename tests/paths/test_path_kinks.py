"""Paths across activation kinks: closed forms of crossing one, of going along one, and of leaving it."""

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, follow_path

pytestmark = pytest.mark.filterwarnings("ignore:the path ended early")


class Shift(nn.Module):
    """``a + relu(b - x)``: the kink is crossed at ``x = 2``, and behind it no weight moves."""

    def __init__(self, relu=torch.relu) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.0, 1.0], dtype=torch.float64))
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        return self.w[0] + self.relu(self.w[1] - x)


class Rail(nn.Module):
    """``a - relu(b + x) + x²/2 - 3x``: the kink at ``x = 1`` holds the path until ``x = 2``."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.0, -1.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w[0] - torch.relu(self.w[1] + x) + x.square() / 2 - 3 * x


def moved(model: nn.Module, distance: float, tol: float = 1e-3):
    zero = torch.zeros(1, 1, dtype=torch.float64)
    with torch.no_grad():
        problem = Problem(model.eval(), nn.MSELoss(), zero, model(zero))
    return follow_path(
        problem, Move(None, torch.full((1, 1), distance, dtype=torch.float64)), max_error=tol, progress=False
    )


@pytest.mark.parametrize("distance", [1.0, 3.0, 4.0])
def test_a_kink_is_crossed_where_it_is(distance: float) -> None:
    found = moved(Shift(), distance)
    way = min(distance, 2.0)
    assert found.is_complete
    torch.testing.assert_close(
        found.weights, torch.tensor([way / 2, 1 + way / 2], dtype=torch.float64), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("distance", "expected"), [(0.5, (1.375, -1.0)), (1.5, (3.375, -1.5)), (3.0, (4.75, -2.75))]
)
def test_a_path_goes_along_a_kink_that_both_sides_push_to_and_leaves_it(
    distance: float, expected: tuple[float, float]
) -> None:
    found = moved(Rail(), distance, tol=1e-4)
    assert found.is_complete
    torch.testing.assert_close(found.weights, torch.tensor(expected, dtype=torch.float64), atol=2e-4, rtol=0)
