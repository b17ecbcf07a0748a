"""Paths of isolated solutions: on which branch they end, and what they do where nothing pulls."""

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, follow_path
from solset.errors import SolsetWarning
from solset.paths import StopReason

pytestmark = pytest.mark.filterwarnings("ignore:the path ended early")

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


class Fork(nn.Module):
    """Outputs ``v + x`` and ``u² - 2x + 1``: the data never pull at ``u``, whose curvature they change."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.w
        return torch.cat([v + x, (u.square() - 2 * x + 1) / 2], dim=1)


class Wave(nn.Module):
    """Outputs ``x w`` and ``sin(3w)``, for the loss below."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([torch.pi / 12], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x * self.w, torch.sin(3 * self.w).expand(len(x), 1)], dim=1)


def wave_loss(outputs: Tensor, _: Tensor) -> Tensor:
    return (-outputs[:, 0] + outputs[:, 1].square() / 6).mean()


class TestWhatTheSlopeDoesNotShow:
    def test_a_bifurcation_ends_the_path_at_its_place(self):
        # In u the Hessian is 1 - 2x + λ, whatever v is.
        zero = torch.zeros(1, 1, dtype=torch.float64)
        targets = torch.zeros(1, 2, dtype=torch.float64)
        problem = Problem(Fork().eval(), nn.MSELoss(reduction="sum"), zero, targets, weight_decay=0.1)
        with pytest.warns(SolsetWarning, match=r"the path ended early: bifurcation at τ = 0\.5"):
            course = follow_path(problem, Move(None, zero + 1.0), optimality="stationary")
        assert course.reason is StopReason.BIFURCATION
        assert course.end.place == pytest.approx(0.55, abs=1e-3)
        assert 0 < course.smallest < 2e-3

    @pytest.mark.parametrize("periods", [1, 2, 5])
    def test_a_parallel_branch_is_not_taken_for_the_same(self, periods):
        # E' = -x + sin(6w)/2 + w/2 from cos(6w) = 0: the linear prediction lands on a solution.
        x = torch.tensor([[0.5 + torch.pi / 24]], dtype=torch.float64)
        targets = torch.zeros(1, 1, dtype=torch.float64)
        problem = Problem(Wave().eval(), wave_loss, x, targets, weight_decay=0.5)
        size = periods * torch.pi / 6
        course = follow_path(problem, Move(None, torch.full((1, 1), size, dtype=torch.float64)))
        assert course.reason is StopReason.FOLD
        w = torch.acos(torch.tensor(-1 / 6)) / 6  # 3 cos(6w) + 1/2 = 0
        fold = float((6 * w).sin() / 2 + w / 2 - 0.5 - torch.pi / 24)
        assert size * course.end.place == pytest.approx(fold, rel=5e-3)
