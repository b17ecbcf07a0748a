"""The paper's fully connected network: ``f(x) = aᵀ σ(W_H … σ(W_1 x))``."""

import pytest
import torch

from solset.zoo import DFCNN


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


INPUTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("activation", [torch.relu, torch.tanh])
def test_is_the_formula(activation):
    net = DFCNN([4, 6, 3, 2], activation=activation, generator=seeded())
    W1, W2 = net.layers
    for x, f in zip(INPUTS, net(INPUTS), strict=True):
        torch.testing.assert_close(f, net.output @ activation(W2 @ activation(W1 @ x)), rtol=0, atol=1e-13)


def test_has_no_biases():
    net = DFCNN([4, 6, 3, 2], generator=seeded())
    assert {name: tuple(w.shape) for name, w in net.named_parameters()} == {
        "layers.0": (6, 4),
        "layers.1": (3, 6),
        "output": (2, 3),
    }
    assert torch.equal(net(torch.zeros_like(INPUTS)), torch.zeros(5, 2, dtype=torch.float64))


def test_with_relu_is_positively_homogeneous():
    net = DFCNN([4, 6, 3, 2], generator=seeded())
    torch.testing.assert_close(net(3.0 * INPUTS), 3.0 * net(INPUTS), rtol=1e-13, atol=0)


def test_a_fixed_output_is_constant_but_kept():
    free, fixed = (DFCNN([4, 6, 2], has_fixed_output=f, generator=seeded()) for f in (False, True))
    assert [name for name, _ in fixed.named_parameters()] == ["layers.0"]
    assert torch.equal(fixed.state_dict()["output"], free.state_dict()["output"])
    assert torch.equal(fixed(INPUTS), free(INPUTS))


def test_flattens_images():
    net = DFCNN([4, 6, 2], generator=seeded())
    assert torch.equal(net(INPUTS.reshape(5, 1, 2, 2)), net(INPUTS))


def test_weights_come_from_the_generator_alone():
    before = torch.get_rng_state()
    one, same, other = (DFCNN([4, 6, 2], generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.output, same.output)
    assert not torch.equal(one.output, other.output)
    assert torch.equal(torch.get_rng_state(), before)


def test_lower_precision_rounds_the_same_weights():
    single, double = (DFCNN([4, 6, 2], generator=seeded(), dtype=d) for d in (torch.float32, torch.float64))
    assert single.output.dtype == torch.float32
    scale = double.output.detach().abs().max()
    assert (single.output.double() - double.output).abs().max() <= torch.finfo(torch.float32).eps * scale


def test_initial_spread_is_that_of_kaiming():
    weight = DFCNN([100, 200, 2], generator=seeded()).layers[0]
    # The variance 2/100 of 20,000 draws is known to 1 %; five standard errors.
    assert float(weight.detach().var()) == pytest.approx(0.02, rel=0.05)
