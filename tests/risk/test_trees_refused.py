"""Batches and models that cannot be right are refused by name, with a cure."""

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import solset
from solset import Problem
from support.trees import (
    DECAY,
    IDS,
    IMAGE,
    LABELS,
    MASK,
    TABLE,
    Heads,
    N,
    TwoInputs,
    drawn,
    regressor,
    text_model,
    text_problem,
)

pytestmark = pytest.mark.usefixtures("seeded")


class Ring(nn.Module):
    """A graph of which each point is a node, with its edges built in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("neighbour", torch.arange(1, N + 1) % N)

    def forward(self, x):
        return self.layer(x) + self.layer(x)[self.neighbour]


REFUSED = {
    "two tensors of real numbers": (
        lambda: Problem(TwoInputs().double().eval(), nn.CrossEntropyLoss(), (IMAGE, TABLE), LABELS),
        ValueError,
        r"`moves` must be .*\['0', '1'\]",
    ),
    "a tensor that is not there": (
        lambda: text_problem(text_model(), moves="pixels"),
        ValueError,
        "attention_mask",
    ),
    "token ids": (
        lambda: text_problem(text_model(), moves="input_ids"),
        TypeError,
        r"embedding_of\('input_ids'\)",
    ),
    "an embedding that is not there": (
        lambda: text_problem(text_model(), moves=solset.embedding_of("nowhere")),
        ValueError,
        r"\['places', 'words'\]",
    ),
    "an output that is not there": (
        lambda: text_problem(text_model(), outputs="scores"),
        ValueError,
        "`outputs` must be .*'scores'",
    ),
    "outputs that the loss does not take": (
        lambda: Problem(Heads().double().eval(), nn.CrossEntropyLoss(), TABLE, LABELS),
        TypeError,
        "outputs='kinds'",
    ),
    "an object as output": (lambda: text_problem(text_model(), outputs=None), TypeError, "SimpleNamespace"),
    "a dict without labels": (
        lambda: Problem(text_model(), nn.CrossEntropyLoss(), {"input_ids": IDS}),
        ValueError,
        'targets="labels"',
    ),
    "an input that the model does not take": (
        lambda: Problem(
            nn.Linear(3, 3).double().eval(),
            nn.CrossEntropyLoss(),
            TensorDataset(TABLE, drawn(N), LABELS),
            moves="0",
        ),
        TypeError,
        "`model` must be a module that takes",
    ),
    "edges that all nodes share": (
        lambda: Problem(
            TwoInputs().double().eval(), nn.CrossEntropyLoss(), (TABLE, torch.zeros(2, 9).long()), LABELS
        ),
        ValueError,
        "buffer of the module",
    ),
    "points of different shapes": (
        lambda: Problem(
            nn.Linear(2, 3).double().eval(),
            nn.CrossEntropyLoss(),
            [(drawn(2, 2), LABELS[0]), (drawn(3, 2), LABELS[1])],
        ),
        ValueError,
        "collate_fn pads",
    ),
    "texts": (
        lambda: Problem(text_model(), nn.CrossEntropyLoss(), [("a", 0), ("b", 1)]),
        TypeError,
        "Turn texts into token ids",
    ),
    "objects": (
        lambda: Problem(text_model(), nn.CrossEntropyLoss(), [(object(), 0), (object(), 1)]),
        ValueError,
        "and makes tensors",
    ),
    "nodes of one graph": (
        lambda: Problem(Ring().double().eval(), nn.CrossEntropyLoss(), TABLE, LABELS),
        ValueError,
        "nodes of a graph",
    ),
    "whole targets beside outputs of one column": (
        lambda: Problem(regressor(), lambda o, t: (o - t).square().mean(), TABLE, LABELS),
        ValueError,
        "every pair of points",
    ),
    "a column of texts": (
        lambda: Problem(
            nn.Linear(1, 3).double().eval(),
            nn.CrossEntropyLoss(),
            pd.DataFrame({"town": list("abcdef")}),
            LABELS,
        ),
        TypeError,
        "Encode categories",
    ),
    "numbers that the dtype does not hold": (
        lambda: (
            text_problem(text_model().float(), weight_decay=DECAY)
            .risk()
            .points.rows({"input_ids": IDS + 2**24, "attention_mask": MASK}, torch.zeros(0))
        ),
        ValueError,
        "holds exactly",
    ),
}


@pytest.mark.parametrize(("call", "error", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_right_is_refused_by_name(call, error, says):
    with pytest.raises(error, match=says):
        call()


def graphs(points):
    nodes = torch.cat([x for x, _ in points])
    return nodes, torch.stack([y for _, y in points])


def test_graphs_with_a_row_per_node_are_refused_by_name():
    data = [(drawn(i + 1, 3, seed=i), LABELS[i]) for i in range(N)]
    loader = DataLoader(data, batch_size=2, collate_fn=graphs)
    with pytest.raises(ValueError, match="nodes of a graph"):
        Problem(nn.Linear(3, 3).double().eval(), nn.CrossEntropyLoss(), loader)
