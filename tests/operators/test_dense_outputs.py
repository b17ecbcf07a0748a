"""Points with many outputs: Gauss–Newton products go through the loss; its curvature is not written out."""

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem
from solset.operators import GaussNewton
from solset.operators import _curvature as curvature


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def segmenting(side: int, loss: nn.Module) -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 1)).double().eval()
    x = draw(4, 2, side, side, seed=1)
    y = (x[:, 0] > 0).long() if isinstance(loss, nn.CrossEntropyLoss) else draw(4, 3, side, side, seed=2)
    return Problem(model, loss, x, y, weight_decay=1e-2, gradient_tol=10.0)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss(), nn.HuberLoss()])
def test_products_are_those_of_the_blocks(loss, monkeypatch):
    risk = segmenting(3, loss).risk()
    block = draw(risk.layout.size, 3, seed=3)
    by_blocks = GaussNewton(risk) @ block
    monkeypatch.setattr(curvature, "MOST_OUTPUTS", 8)
    dense = GaussNewton(risk)
    assert not dense.keeps_weights
    torch.testing.assert_close(dense @ block, by_blocks, rtol=0, atol=1e-12)
    torch.testing.assert_close(dense @ block[:, 0], by_blocks[:, 0], rtol=0, atol=1e-12)
    budgetless = GaussNewton(risk, memory_budget=0)
    torch.testing.assert_close(budgetless @ block, by_blocks, rtol=0, atol=1e-12)


def test_a_solve_does_not_write_the_curvature_out(monkeypatch):
    # 4 points of 4,800 outputs: the blocks would take 0.7 GB.
    def written_out(*_: object) -> Tensor:
        raise AssertionError("the loss's curvature was written out")

    problem = segmenting(40, nn.CrossEntropyLoss())
    monkeypatch.setattr(curvature, "_batch_curvature", written_out)
    change = Move([1], 0.01 * draw(1, 2, 40, 40, seed=4))
    solved = problem.estimate(change, optimality="gauss_newton").min_norm()
    assert solved.status == "converged"


def test_what_needs_the_roots_is_refused_by_name():
    factor = GaussNewton(segmenting(40, nn.CrossEntropyLoss()).risk(), memory_budget=2**20).factor
    with pytest.raises(ValueError, match=r"`memory_budget` must be at least .* 4800 outputs a point"):
        _ = factor @ draw(factor.shape[1], seed=5)
