"""Points of different lengths, padded by the collate function of a loader."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from solset import Move, Problem
from support.trees import DECAY, INF, LABELS, assert_close, dense, drawn, estimated

pytestmark = pytest.mark.usefixtures("seeded")


class MaskedMean(nn.Module):
    def __init__(self, uses_mask=True) -> None:
        super().__init__()
        self.layer, self.uses_mask = nn.Linear(2, 3), uses_mask

    def forward(self, x, mask):
        mask = mask.unsqueeze(-1).to(x.dtype) if self.uses_mask else torch.ones_like(x[..., :1])
        return (torch.tanh(self.layer(x)) * mask).sum(1) / mask.sum(1)


LENGTHS = (3, 1, 5, 2, 3, 4)


def padded_loader(side="right"):
    sequences = [drawn(length, 2, seed=20 + i) for i, length in enumerate(LENGTHS)]

    def collate(points):
        parts, labels = zip(*points, strict=True)
        pad = lambda parts: nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_side=side)  # noqa: E731
        return {
            "x": pad(parts),
            "mask": pad([torch.ones(len(part)).long() for part in parts]),
            "labels": torch.stack(labels),
        }

    return sequences, DataLoader(list(zip(sequences, LABELS, strict=True)), batch_size=2, collate_fn=collate)


@pytest.mark.parametrize("side", ["right", "left"])
def test_ragged_batches_are_those_of_autograd_on_each_point_alone(side):
    sequences, loader = padded_loader(side)
    model = MaskedMean().double().eval()
    problem = Problem(
        model, nn.CrossEntropyLoss(), loader, weight_decay=DECAY, gradient_tol=INF, batch_size=3
    )
    assert problem.input_shape == (5, 2)
    moved = 0.1 * drawn(2, 2, seed=9)
    own = slice(0, 2) if side == "right" else slice(3, 5)
    dx = torch.zeros(1, 5, 2, dtype=torch.float64)
    dx[0, own] = moved

    def value(x):
        ones = [torch.ones(1, len(part)) for part in sequences]
        parts = [model((x if i == 3 else part).unsqueeze(0), ones[i]) for i, part in enumerate(sequences)]
        return functional.cross_entropy(torch.cat(parts), LABELS)

    assert_close(estimated(problem, Move([3], dx)), dense(model, value)(sequences[3], moved))
    with pytest.raises(ValueError, match=r"`dx` must be zero in the padding .* points \[3\]"):
        problem.estimate(Move([3], torch.ones(1, 5, 2, dtype=torch.float64)))


def test_a_model_whose_outputs_depend_on_the_padding_is_refused():
    _, loader = padded_loader()
    with pytest.raises(ValueError, match="do not depend on the padding"):
        Problem(MaskedMean(uses_mask=False).double().eval(), nn.CrossEntropyLoss(), loader, gradient_tol=INF)
