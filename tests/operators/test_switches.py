"""On which side of their kinks activations stand: seen in one forward pass, whatever calls them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from solset import Problem
from solset.operators import switch_gradients, switch_values
from solset.risk import EmpiricalRisk

INPUTS = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-7.0, 0.25]], dtype=torch.float64)


class Calls(nn.Module):
    """A weight times what a function makes of the input."""

    def __init__(self, function) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.full((2,), 2.0, dtype=torch.float64)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * self.weight).sum(dim=1, keepdim=True)


def risk_of(model: nn.Module, **options) -> EmpiricalRisk:
    targets = torch.zeros(3, 1, dtype=torch.float64)
    return Problem(model.eval(), nn.MSELoss(), INPUTS, targets, gradient_tol=float("inf"), **options).risk()


@pytest.mark.parametrize(
    "function",
    [
        torch.relu,
        functional.relu,
        Tensor.relu,
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.LeakyReLU(0.1),
        nn.PReLU(dtype=torch.float64),
        torch.abs,
        lambda z: z.clamp(min=0.0),
        lambda z: torch.clamp(z, 0.0),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_kinks_at_zero_are_seen(function, batch_size: int) -> None:
    found = switch_values(risk_of(Calls(function), batch_size=batch_size))
    assert found is not None
    torch.testing.assert_close(found, 2 * INPUTS.flatten())


@pytest.mark.parametrize(
    ("function", "kinks"),
    [(nn.ReLU6(), (0.0, 6.0)), (nn.Hardtanh(), (-1.0, 1.0)), (nn.Hardtanh(-2.0, 3.0), (-2.0, 3.0))],
)
def test_two_kinks_of_one_activation(function, kinks: tuple[float, float]) -> None:
    found = switch_values(risk_of(Calls(function)))
    assert found is not None
    expected = torch.cat([2 * INPUTS - kink for kink in kinks], dim=1)
    torch.testing.assert_close(found, expected.flatten())


@pytest.mark.parametrize("function", [torch.tanh, lambda z: z, lambda z: z.square()])
def test_nothing_is_seen_without_kinks_or_rows_of_points(function) -> None:
    assert switch_values(risk_of(Calls(function))) is None


def test_the_gradients_of_values() -> None:
    by_weights, by_inputs = switch_gradients(risk_of(Calls(torch.relu)), [1, 2, 1], [1, 0, 0])
    expected = torch.tensor([[0.0, 3.0], [-7.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(by_weights, expected)
    torch.testing.assert_close(by_inputs, torch.eye(2, dtype=torch.float64)[[1, 0, 0]] * 2)


def test_gradients_need_a_kink() -> None:
    with pytest.raises(ValueError, match="kinks"):
        switch_gradients(risk_of(Calls(torch.tanh)), [0], [0])
