"""Blocks of vectors through layers whose double backward PyTorch cannot vectorise, or vectorises wrongly."""

import pytest
import torch
from torch import Tensor, nn

from solset import Problem
from solset.operators import GaussNewton, Hessian, InputJacobian, Jacobian, Mixed
from solset.operators._passes import pull_back
from solset.risk import Routes

SHAPES = [(1, 4, True, 1), (1, 4, False, 4), (2, 4, True, 6), (2, 6, False, 6), (3, 6, True, 4)]


def problem(groups: int, channels: int, n: int, *, affine: bool) -> Problem:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(3, channels),
            nn.GroupNorm(groups, channels, affine=affine),
            nn.Tanh(),
            nn.Linear(channels, 2),
        )
        x, y = torch.randn(n, 3).double(), torch.randn(n, 2).double()
    return Problem(model.double().eval(), nn.MSELoss(), x, y, weight_decay=0.05, gradient_tol=float("inf"))


@pytest.mark.parametrize(("groups", "channels", "affine", "n"), SHAPES)
def test_a_block_is_its_columns_for_group_norm_of_every_shape(groups, channels, affine, n):
    risk = problem(groups, channels, n, affine=affine).risk()
    for kind in (
        Hessian,
        GaussNewton,
        lambda r: Mixed(r, range(n)),
        Jacobian,
        lambda r: InputJacobian(r, range(n)),
    ):
        operator = kind(risk)
        for matrix in (operator, operator.T):
            block = torch.eye(matrix.shape[1], dtype=torch.float64)[:, : channels + 1]
            single = torch.stack([matrix @ column for column in block.T], dim=1)
            assert torch.allclose(matrix @ block, single, rtol=1e-10, atol=1e-12 * float(single.norm() + 1))


class _OneColumn(torch.autograd.Function):
    """A function whose backward pass takes no batch of columns."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        assert float(gradients[0].sum()) == float(gradients[0].sum())  # reads a number, which vmap refuses
        return 3 * x**2 * gradients[0]


def test_columns_go_one_by_one_where_a_batch_of_them_is_refused():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    routes = Routes()
    block = torch.eye(2, dtype=torch.float64)
    for _ in range(2):
        (pulled,) = pull_back([_OneColumn.apply(x)], [x], [block], routes)
        assert torch.equal(pulled, torch.diag(3 * x.detach() ** 2))
    assert list(routes.is_right.values()) == [False]
