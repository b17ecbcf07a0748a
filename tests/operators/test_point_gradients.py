"""Products with the gradients of points take the memory of a gradient, not one for each point."""

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from solset import Problem
from solset.operators import PointGradients


class Largest(TorchDispatchMode):
    """The size of the largest tensor that an operation returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.size = max(self.size, result.numel())
        return result


def test_no_number_for_each_weight_and_point_is_written():
    g = torch.Generator().manual_seed(0)
    model = nn.Linear(200, 10).double()
    x, y = torch.randn(400, 200, generator=g, dtype=torch.float64), torch.randint(0, 10, (400,), generator=g)
    problem = Problem(model, nn.CrossEntropyLoss(), x, y, gradient_tol=float("inf"))
    risk = problem.risk()
    operator = PointGradients(risk, risk.select(range(400)))
    factors = torch.randn(400, 1, generator=g, dtype=torch.float64)
    with Largest() as seen:
        change = operator @ factors
        back = operator.T @ change
    assert seen.size <= x.numel()

    def gradient(c: torch.Tensor) -> torch.Tensor:
        each = nn.functional.cross_entropy(model(x), y, reduction="none")
        total = (c * each).sum() / c.sum()
        return torch.cat([part.flatten() for part in torch.autograd.grad(total, list(model.parameters()))])

    step = 1e-5 * factors[:, 0]
    real = (gradient(1 + step) - gradient(1 - step)) / 2e-5
    torch.testing.assert_close(change[:, 0], real, rtol=1e-7, atol=1e-9)
    assert abs(float((change * change).sum() - (factors * back).sum())) <= 1e-12 * float((change**2).sum())
