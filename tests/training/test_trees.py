"""Models that take dicts and return objects with logits train and are differentiated like others."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Remove, Training
from solset.training import Run

IDS = torch.randint(0, 9, (20, 5), generator=torch.Generator().manual_seed(0))
MASK = (torch.rand(20, 5, generator=torch.Generator().manual_seed(1)) > 0.3).long()
LABELS = IDS[:, 0] % 2


class Reader(nn.Module):
    """A small encoder with the interface of a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix, self.head = nn.Embedding(9, 4), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, shade: Tensor | None = None
    ) -> SimpleNamespace:
        words = self.words(input_ids) if shade is None else self.words(input_ids) + shade
        mean = (words * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True).clamp(min=1)
        return SimpleNamespace(logits=self.head(self.mix(mean).tanh()))


def training(**inputs: Tensor) -> Training:
    batch = {"input_ids": IDS, "attention_mask": MASK, **inputs}
    sgd = partial(torch.optim.SGD, lr=0.2, momentum=0.9)
    recipe = {"optimizer": sgd, "epochs": 3, "batch_size": 8, "outputs": "logits"}
    return Training(lambda: Reader().double(), nn.CrossEntropyLoss(), batch, LABELS, **recipe)


def goal(model: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(model(IDS, MASK).logits, LABELS)


def slope(run: Run, change: Move | Remove) -> float:
    """The central difference of the goal over real reruns."""
    with torch.no_grad():
        ends = [float(goal(run.retrain(change, scale=s, progress=False).model)) for s in (1e-4, -1e-4)]
    return (ends[0] - ends[1]) / 2e-4


def test_documents_are_removed_from_a_model_of_token_ids():
    run = training().run()
    worth = run.attribute(goal)
    assert worth.features is None
    assert -float(worth.weights[[3, 8]].sum()) == pytest.approx(slope(run, Remove([3, 8])), rel=1e-6)


def test_the_real_tensor_of_a_dict_moves():
    run = training(shade=torch.zeros(20, 5, 4, dtype=torch.float64)).run()
    dx = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    worth = run.attribute(goal)
    expected = slope(run, Move([1, 6], dx))
    assert float((worth.features[[1, 6]] * dx).sum()) == pytest.approx(expected, rel=1e-6)


def test_token_ids_do_not_move():
    with pytest.raises(ValueError, match="`change`.*no input is of real numbers"):
        training().run().estimate(Move([0], torch.zeros(1, 5)))
