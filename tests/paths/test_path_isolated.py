"""Paths of isolated solutions: on which branch they end, and what they do where nothing pulls."""

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, follow_path
from solset.paths import StopReason

FOLD = 0.271729  # of the curve below; there 6w² = 1 - λ


class Folding(nn.Module):
    """Outputs ``(w², w + x)``: with targets (1, 0) the solution folds, and far beyond it there is another."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((1,), w, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.w.square() + 0 * x, self.w + x], dim=1)


def folding(weight_decay: float = 1e-3) -> Problem:
    w = 0.7
    for _ in range(50):  # Newton's method on 2w(w² - 1) + w + λw
        w -= (2 * w**3 - w + weight_decay * w) / (6 * w**2 - 1 + weight_decay)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    return Problem(Folding(w).eval(), nn.MSELoss(), zero, targets, weight_decay=weight_decay)


class TestBranches:
    @pytest.mark.parametrize("size", [0.3, 0.4, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0])
    def test_no_step_leaps_over_a_fold_to_another_branch(self, size):
        found = follow_path(folding(), Move(None, torch.full((1, 1), size, dtype=torch.float64)))
        assert found.reason is StopReason.FOLD
        assert size * found.end.place == pytest.approx(FOLD, rel=2e-3)
        assert float(found.weights) > 0.4

    @pytest.mark.parametrize("size", [0.1, 0.25, 0.27])
    def test_a_path_that_does_not_fold_reaches_its_end(self, size):
        found = follow_path(
            folding(), Move(None, torch.full((1, 1), size, dtype=torch.float64)), max_error=1e-6
        )
        assert found.reason is StopReason.END
        w = float(found.weights)
        assert 2 * w * (w**2 - 1) + w + size + 1e-3 * w == pytest.approx(0.0, abs=1e-6)
        assert w > 0.4


class Even(nn.Module):
    """``(w, x)`` to ``w + x²``: at ``x = 0`` the data do not pull at the weight to first order."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w + x.square()


class TestWhereNothingPulls:
    def test_nothing_moves_without_a_perturbation(self, isolated_net, tmp_path):
        case, weight_decay = isolated_net
        change = Move([4, 1], torch.zeros(2, 3, dtype=torch.float64))
        for _ in range(2):  # the second reads what the first wrote
            found = follow_path(
                case.problem(weight_decay=weight_decay), change, checkpoint=tmp_path / "course.safetensors"
            )
            assert found.reason is StopReason.END
            assert float(found.change.norm()) <= 1e-12

    @pytest.mark.parametrize("size", [0.1, 1.0, 3.0])
    def test_what_only_the_second_order_moves_is_followed(self, size):
        zero, decay = torch.zeros(1, 1, dtype=torch.float64), 0.5
        problem = Problem(Even().eval(), nn.MSELoss(), zero, zero, weight_decay=decay)
        found = follow_path(problem, Move(None, torch.full((1, 1), size, dtype=torch.float64)))
        assert found.reason is StopReason.END
        assert float(found.weights) == pytest.approx(-2 * size**2 / (2 + decay), rel=1e-3)
