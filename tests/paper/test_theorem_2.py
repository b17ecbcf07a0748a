"""Theorem 2: the modulus of one layer at one point, in closed form and as a generalized singular value."""

import pytest
import torch
from torch import nn

from solset import Problem, lipschitz_modulus
from solset.modulus import Certainty
from solset.paper import theorem_2
from solset.zoo import DFCNN

NETS = [
    (depth, width, outputs)
    for depth, width in ((1, 4), (2, 256), (3, 16), (4, 64), (5, 8), (6, 32))
    for outputs in (1, 3)
]


def untrained(widths: list[int], seed: int = 0) -> tuple[DFCNN, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return DFCNN(widths, generator=g).eval(), torch.randn(widths[0], generator=g, dtype=torch.float64)


def at_its_own_outputs(net: nn.Module, x: torch.Tensor) -> Problem:
    """Every net is fitted to what it puts out."""
    return Problem(net, nn.MSELoss(), x.unsqueeze(0), net(x.unsqueeze(0)).detach())


def names(net: DFCNN) -> list[str]:
    return [*(f"layers.{h}" for h in range(len(net.layers))), "output"]


@pytest.mark.parametrize(("depth", "width", "outputs"), NETS)
def test_the_closed_form_is_the_generalized_singular_value(depth: int, width: int, outputs: int) -> None:
    net, x = untrained([10, *[width] * depth, outputs])
    problem = at_its_own_outputs(net, x)
    for h, name in enumerate(names(net)):
        found = lipschitz_modulus(problem, layer=name, optimality="interpolating")
        assert found.certificate.certainty in {Certainty.EXACT, Certainty.CONSTANT_RANK}
        assert found.value == pytest.approx(theorem_2(net, x, h), rel=1e-10)


@pytest.mark.parametrize(("depth", "width"), [(1, 4), (3, 16), (6, 32)])
def test_with_one_output_the_layers_add_up_to_the_whole(depth: int, width: int) -> None:
    net, x = untrained([10, *[width] * depth, 1], seed=1)
    problem = at_its_own_outputs(net, x)
    layers = [lipschitz_modulus(problem, layer=name).value for name in names(net)]
    whole = lipschitz_modulus(problem).value
    assert whole**-2 == pytest.approx(sum(k**-2 for k in layers), rel=1e-12)
    assert whole <= min(layers)


def test_a_zero_input_cannot_be_answered_by_the_first_layer() -> None:
    net, _ = untrained([10, 8, 8, 2])
    x = torch.zeros(10, dtype=torch.float64)
    assert theorem_2(net, x, 0) == 0.0  # every unit of a bias-free net is dead there: no constraint
    shifted = nn.Sequential(nn.Linear(10, 8).double(), nn.Tanh(), nn.Linear(8, 2).double()).eval()
    problem = at_its_own_outputs(shifted, x)
    found = lipschitz_modulus(problem, layer="0.weight")
    assert found.value == float("inf")
    assert found.certificate.certainty is Certainty.INFINITE
    assert {c.point for c in found.certificate.carriers} == {0}


def test_a_dead_layer_is_no_constraint() -> None:
    net, x = untrained([10, 8, 8, 2])
    with torch.no_grad():
        net.layers[1].fill_(-1.0)  # all its units are off: hidden values are not negative
    for name, closed in (("layers.0", theorem_2(net, x, 0)), ("layers.1", theorem_2(net, x, 1))):
        found = lipschitz_modulus(at_its_own_outputs(net, x), layer=name)
        assert (found.value, closed) == (0.0, 0.0)
        assert found.certificate.certainty is Certainty.NO_CONSTRAINT
        assert "no constraint" in found.certificate.reason
        assert found.worst_direction is None


def test_a_narrow_layer_at_one_point_gives_the_finite_restricted_value() -> None:
    net, x = untrained([10, 8, 2, 5])  # five outputs through two units
    with torch.no_grad():
        net.layers[1].abs_()  # both of them on
    problem = at_its_own_outputs(net, x)
    found = lipschitz_modulus(problem, layer="layers.0")
    assert found.certificate.rank is not None
    assert found.certificate.rank < found.certificate.rows
    assert found.certificate.certainty is Certainty.CONSTANT_RANK
    assert 0 < found.value < float("inf")
    assert found.value == pytest.approx(theorem_2(net, x, 0), rel=1e-10)


def test_theorem_2_refuses_what_it_is_not_about() -> None:
    net, x = untrained([4, 3, 1])
    smooth = DFCNN([4, 3, 1], activation=torch.tanh, generator=torch.Generator())
    with pytest.raises(TypeError, match="ReLU"):
        theorem_2(smooth, x, 0)
    with pytest.raises(ValueError, match="layer"):
        theorem_2(net, x, 2)
