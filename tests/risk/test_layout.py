"""Parameters as one flat vector, in the order of named_parameters."""

import pytest
import torch
from torch import nn

from solset.risk import choose_parameters


def test_split_and_join_are_inverse(case):
    layout = choose_parameters(case.model, None)
    flat = torch.arange(layout.size, dtype=torch.float64)
    assert torch.equal(layout.join(layout.split(flat)), flat)


def test_the_flat_vector_is_the_one_of_torch(case):
    expected = nn.utils.parameters_to_vector(case.model.parameters())
    assert torch.equal(case.risk().weights, expected)


def test_the_columns_of_a_block_are_split_like_vectors(case):
    layout = choose_parameters(case.model, None)
    block = torch.arange(3 * layout.size, dtype=torch.float64).reshape(layout.size, 3)
    for j in range(3):
        parts = [part[j] for part in layout.split_block(block)]
        assert torch.equal(layout.join(parts), block[:, j])


def test_patterns_choose_in_the_order_of_the_model(build_case):
    model = build_case("tanh-ce-mean").model
    assert list(choose_parameters(model, ["2.*", "*bias"]).shapes) == ["0.bias", "2.weight", "2.bias"]


def test_a_tied_parameter_is_one_parameter(build_case):
    model = build_case("tied-mse-mean").model
    assert list(choose_parameters(model, None).shapes) == [
        "into.weight",
        "into.bias",
        "back.bias",
        "out.weight",
    ]


def test_a_device_without_float64_is_refused(build_case):
    with pytest.raises(ValueError, match=r"`model` must be on a device with numbers in float64.*got on meta"):
        choose_parameters(build_case("tanh-ce-mean").model.to("meta"), None)


def test_a_star_is_all_that_were_trained_and_a_frozen_one_beside_it_is_refused():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].weight.requires_grad_(False)
    assert list(choose_parameters(model, ["*"]).shapes) == ["0.bias", "1.weight", "1.bias"]
    with pytest.raises(ValueError, match=r"frozen 0\.weight"):
        choose_parameters(model, ["*", "0.weight"])
