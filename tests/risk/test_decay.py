"""Weight decay as people state it: a number, name patterns, an optimizer or its groups."""

import pytest
import torch
from torch import Tensor, nn

from solset.risk import choose_parameters, decay_of


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))


def decay(
    weight_decay, model: nn.Module | None = None, parameters: list[str] | None = None
) -> float | Tensor:
    model = model or network()
    return decay_of(weight_decay, choose_parameters(model, parameters), dict(model.named_parameters()))


EXPECTED = torch.tensor([0.5] * 6 + [0.0] * 3 + [0.0] * 6 + [0.5] * 3 + [0.0])


def test_the_first_pattern_that_matches_counts():
    assert torch.equal(decay({"*.bias": 0.0, "1.*": 0.0, "*": 0.5}), EXPECTED)


def test_equal_numbers_are_one_number():
    assert decay({"*.bias": 0.5, "*": 0.5}) == 0.5
    assert decay({"*.bias": 0.0, "*.weight": 0.5}, nn.Linear(2, 1), ["weight"]) == 0.5


def test_patterns_of_layers_mean_a_layer_alone_too():
    assert decay({"*.bias": 0.0, "*": 0.5}, nn.Linear(2, 1)).tolist() == [0.5, 0.5, 0.0]


def groups(model: nn.Module) -> list[dict]:
    plain = [p for name, p in model.named_parameters() if "1." in name or "bias" in name]
    rest = [p for name, p in model.named_parameters() if not ("1." in name or "bias" in name)]
    return [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.5}]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.NAdam])
def test_groups_of_an_optimizer_and_its_list(kind):
    model = network()
    optimizer = kind(groups(model), lr=0.1)
    assert torch.equal(decay(optimizer, model), EXPECTED)
    assert torch.equal(decay(optimizer.param_groups, model), EXPECTED)
    assert torch.equal(decay(groups(model), model), EXPECTED)


def test_a_decay_that_the_optimizer_does_not_have_is_zero():
    model = network()
    assert decay(torch.optim.LBFGS(model.parameters()), model) == 0.0
    assert decay(torch.optim.AdamW(model.parameters(), weight_decay=0.0), model) == 0.0


class Lion(torch.optim.Optimizer):
    """An optimizer that nobody here knows."""

    def __init__(self, params) -> None:
        super().__init__(params, {"weight_decay": 0.1})


DECOUPLED = {
    "AdamW": torch.optim.AdamW,
    "its groups": lambda p: torch.optim.AdamW(p).param_groups,
    "Adam": lambda p: torch.optim.Adam(p, weight_decay=0.1, decoupled_weight_decay=True),
    "NAdam": lambda p: torch.optim.NAdam(p, weight_decay=0.1, decoupled_weight_decay=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p, weight_decay=0.1),
    "unknown": Lion,
}


@pytest.mark.parametrize("make", DECOUPLED.values(), ids=DECOUPLED)
def test_a_decay_beside_the_gradient_is_refused(make):
    model = network()
    with pytest.raises(ValueError, match="`weight_decay` must be an optimizer that adds λ w to the gradient"):
        decay(make(model.parameters()), model)


BAD = {
    "left over": ({"*.bias": 0.0}, ValueError, "none that matches 0.weight, 1.weight, 2.weight"),
    "never first": ({"*": 0.1, "*.bias": 0.0}, ValueError, "'\\*.bias', which is the first for none"),
    "a name that is not there": ({"head.*": 0.1, "*": 0.0}, ValueError, "'head.\\*', which is the first"),
    "negative": ({"*": -0.1}, ValueError, r"weight_decay\['\*'\]` must be at least 0"),
    "a text": ({"*": "much"}, TypeError, "must be a number"),
    "no pattern": ({3: 0.1}, TypeError, "must be a text"),
    "no groups": ([0.1, 0.2], TypeError, 'groups with "params"'),
    "a number as text": ("0.1", TypeError, "must be a number"),
    "nan": (float("nan"), ValueError, "must be a number"),
    "another model": (torch.optim.SGD(network().parameters()), ValueError, "none that holds 0.weight"),
}


@pytest.mark.parametrize("given", BAD.values(), ids=BAD)
def test_what_says_nothing_clear_is_refused(given):
    value, error, message = given
    with pytest.raises(error, match=message):
        decay(value)


def test_a_loss_that_rises_is_refused():
    model = network()
    with pytest.raises(ValueError, match="got maximize=True"):
        decay(torch.optim.SGD(model.parameters(), lr=0.1, maximize=True), model)
