"""Networks with PyTorch's own attention: its fused kernels lack second derivatives, ours need them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from solset import Problem
from solset.operators import GaussNewton, Hessian, Jacobian, Mixed


class Fused(nn.Module):
    """One head over three tokens of four features."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(4, 12), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(x).chunk(3, dim=-1)
        return self.head(scaled_dot_product_attention(q, k, v).mean(dim=1))


class Heads(nn.Module):
    """``nn.MultiheadAttention``, which takes a fused path of its own in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(x, x, x, need_weights=False)[0].mean(dim=1))


class Encoder(nn.Module):
    """``nn.TransformerEncoderLayer``, likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(dim=1))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(kind: type[nn.Module]) -> Problem:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind().double().eval()
    return Problem(
        model, nn.MSELoss(), draw(5, 3, 4), draw(5, 2, seed=1), batch_size=2, gradient_tol=float("inf")
    )


@pytest.mark.parametrize("memory_budget", [0, 2**30])
@pytest.mark.parametrize("kind", [Fused, Heads, Encoder])
def test_every_derivative_equals_that_of_plain_operations(kind: type[nn.Module], memory_budget: int) -> None:
    risk = problem(kind).risk()
    inputs, targets = risk.points[range(5)]

    def energy(w: Tensor, x: Tensor) -> Tensor:
        return risk.batch_value(risk.layout.split(w), x, targets)

    w, v = risk.weights, draw(len(risk.weights), seed=2)
    with sdpa_kernel(SDPBackend.MATH):
        gradient = torch.func.grad(energy)
        pushed = torch.autograd.functional.vjp(lambda w: gradient(w, inputs) @ v, w)[1]
        mixed = torch.autograd.functional.vjp(lambda x: gradient(w, x) @ v, inputs)[1]
        rows = torch.func.jacrev(lambda w: risk.forward(risk.layout.split(w), inputs).flatten())(w)
    kept = {"memory_budget": memory_budget}
    torch.testing.assert_close(Hessian(risk, **kept) @ v, pushed)
    torch.testing.assert_close(Mixed(risk, range(5), **kept).T @ v, mixed.flatten())
    jacobian = Jacobian(risk, **kept)
    torch.testing.assert_close(jacobian @ v, rows @ v)
    torch.testing.assert_close(jacobian.rows(0, 10), rows)
    torch.testing.assert_close(GaussNewton(risk, **kept) @ v, rows.T @ (rows @ v) / 5)


def test_the_switches_are_put_back() -> None:
    before = (torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled())
    one = problem(Heads)
    one.risk().gradient()
    assert before == (torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled())

    def fail(*_: object) -> None:
        raise ValueError("no")

    one.risk().model.forward = fail
    with pytest.raises(ValueError, match="no"):
        one.risk().gradient()
    assert before == (torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled())
