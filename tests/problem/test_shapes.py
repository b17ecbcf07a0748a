"""A network's shapes are a matter of spelling: scalar weights, outputs without an axis and frozen layers."""

import pytest
import torch
from torch import nn

from solset import Move, Problem, follow_path, lipschitz_modulus

MAPS = ("interpolating", "stationary", "gauss_newton")


class Scaled(nn.Module):
    """A linear layer with a learned temperature, as a scalar or as a vector of one entry."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(2, 2, dtype=torch.float64)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(2, 2, generator=generator, dtype=torch.float64))
            self.linear.bias.copy_(torch.randn(2, generator=generator, dtype=torch.float64))
        self.scale = nn.Parameter(torch.full(shape, 0.5, dtype=torch.float64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.scale.exp() * self.linear(inputs)


class Regressor(nn.Module):
    """One output a point, with an axis of its own or without."""

    def __init__(self, *, is_squeezed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        self.is_squeezed = is_squeezed

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.layers(inputs)
        return outputs.squeeze(-1) if self.is_squeezed else outputs


def inputs(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def change(model: nn.Module, x: torch.Tensor, optimality: str) -> torch.Tensor:
    problem = Problem(model.eval(), nn.MSELoss(), x, model(x).detach())
    return problem.estimate(Move(None, 0.01 * x), optimality=optimality).min_norm().value


@pytest.mark.parametrize("optimality", MAPS)
def test_a_scalar_weight_is_a_vector_of_one_entry(optimality):
    x = inputs(2, 2)
    scalar, vector = (change(Scaled(shape), x, optimality) for shape in ((), (1,)))
    torch.testing.assert_close(scalar, vector, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimality", MAPS)
def test_outputs_without_an_axis_are_those_with_one(optimality):
    x = inputs(6, 3)
    squeezed, plain = (change(Regressor(is_squeezed=flag), x, optimality) for flag in (True, False))
    torch.testing.assert_close(squeezed, plain, rtol=1e-12, atol=1e-14)


def test_outputs_without_an_axis_go_through_modulus_and_path():
    x = inputs(6, 3)
    moduli, ends = [], []
    for is_squeezed in (True, False):
        model = Regressor(is_squeezed=is_squeezed).eval()
        problem = Problem(model, nn.MSELoss(), x, model(x).detach())
        moduli.append(lipschitz_modulus(problem).value)
        ends.append(follow_path(problem, Move(None, 0.01 * x), progress=False).weights)
    assert moduli[0] == pytest.approx(moduli[1], rel=1e-10)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-12)


def test_the_weights_that_move_are_those_that_require_grad():
    x, model = inputs(6, 3), Regressor(is_squeezed=False)
    named = change_with(model, x, parameters=["layers.2.*"])
    model.layers[0].requires_grad_(False)
    torch.testing.assert_close(change_with(model, x, parameters=None), named, rtol=0, atol=0)


def change_with(model: nn.Module, x: torch.Tensor, parameters: list[str] | None) -> torch.Tensor:
    problem = Problem(model.eval(), nn.MSELoss(), x, model(x).detach(), parameters=parameters)
    return problem.estimate(Move(None, 0.01 * x)).min_norm().value


def test_a_model_with_nothing_to_train_is_refused():
    model = Regressor(is_squeezed=False).requires_grad_(False)
    with pytest.raises(ValueError, match="parameters that require grad; got 4 frozen ones"):
        Problem(model.eval(), nn.MSELoss(), inputs(6, 3), torch.zeros(6, 1, dtype=torch.float64))
