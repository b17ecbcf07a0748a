"""Products of weight matrices under decay: the solutions are a set, and training longer changes nothing."""

import pytest
import torch
from torch import nn

from cases.conftest import situation
from support.zoo.combinations import Training
from support.zoo.layers import Attention, LoRA, SoftEmbedding

NETS = {
    "LoRA of rank 2": (lambda: nn.Sequential(LoRA(2), nn.Linear(3, 3)), (3,), 1),
    "embedding then linear": (lambda: nn.Sequential(SoftEmbedding(), nn.Linear(3, 3)), (3,), 1),
    "three linear layers": (
        lambda: nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 3)),
        (3,),
        2,
    ),
    "attention": (lambda: nn.Sequential(Attention(1), nn.Flatten(), nn.Linear(6, 3)), (3, 2), None),
}


@pytest.mark.parametrize("name", NETS)
def test_the_set_has_the_dimension_of_the_symmetry_and_the_change_is_the_shortest(name):
    build, shape, dimension = NETS[name]
    x, y = torch.randn(30, *shape), torch.randint(3, (30,))
    seen = situation(build(), nn.CrossEntropyLoss(), x, y, [3, 8], weight_decay=2e-2, size=1e-3)
    if dimension is not None:
        assert seen.dimension == dimension
    answer = seen.ask()
    assert seen.error(answer) < 1e-2
    assert answer.dimension in {None, seen.dimension}


@pytest.mark.parametrize("gradient", [1e-5, 1e-7, 1e-9])
def test_more_training_does_not_make_the_answer_worse(gradient):
    x, y = torch.randn(30, 3), torch.randint(3, (30,))
    model = nn.Sequential(LoRA(2), nn.Linear(3, 3))
    seen = situation(model, nn.CrossEntropyLoss(), x, y, [3, 8], weight_decay=2e-2, size=1e-3)
    training: Training = seen.training
    with torch.no_grad():  # a little off the minimum, as training that stops there
        step = torch.randn(sum(p.numel() for p in training.moving))
        for p, part in zip(
            training.moving, torch.split(step, [p.numel() for p in training.moving]), strict=True
        ):
            p.add_(gradient / float(step.norm()) * part.reshape(p.shape))
    assert seen.error(seen.ask()) < 1e-2
