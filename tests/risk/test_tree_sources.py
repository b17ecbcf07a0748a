"""Batches of several tensors from any source: the numbers are those of dense autograd on the model."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from solset import Move, Problem
from support.trees import (
    DECAY,
    IMAGE,
    INF,
    LABELS,
    TABLE,
    N,
    TwoInputs,
    assert_close,
    dense,
    drawn,
    estimated,
)

pytestmark = pytest.mark.usefixtures("seeded")


class Pairs(Dataset):
    """Pairs of a tuple of inputs and a label."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return (IMAGE[i], TABLE[i]), LABELS[i]


class Dicts(Dataset):
    """Dicts with labels, as Hugging Face's data sets give them."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"image": IMAGE[i], "table": TABLE[i], "labels": int(LABELS[i])}


def frame(table: Tensor) -> pd.DataFrame:
    return pd.DataFrame(table.numpy(), columns=["a", "b", "c"])


SOURCES = {
    "tuple": ((IMAGE, TABLE), LABELS),
    "dict": ({"table": TABLE, "image": IMAGE}, LABELS),
    "dict with labels": ({"table": TABLE, "image": IMAGE, "labels": LABELS}, None),
    "dict with the name of the labels": ({"table": TABLE, "image": IMAGE, "class": LABELS}, "class"),
    "arrays": ({"image": IMAGE.numpy(), "table": TABLE.numpy()}, LABELS.numpy()),
    "frame and series": ({"image": IMAGE, "table": frame(TABLE)}, pd.Series(LABELS.numpy())),
    "dataset of triples": (TensorDataset(IMAGE, TABLE, LABELS), None),
    "dataset of nested pairs": (Pairs(), None),
    "dataset of dicts": (Dicts(), None),
    "loader of dicts": (DataLoader(Dicts(), batch_size=2), None),
}


@pytest.mark.parametrize("moves", ["image", "table"])
@pytest.mark.parametrize(("inputs", "targets"), SOURCES.values(), ids=SOURCES)
def test_two_inputs_of_any_source_are_those_of_autograd(inputs, targets, moves):
    model = TwoInputs().double().eval()
    place = "01"[moves == "table"] if isinstance(inputs, tuple | TensorDataset | Pairs) else moves
    problem = Problem(
        model,
        nn.CrossEntropyLoss(),
        inputs,
        targets,
        moves=place,
        weight_decay=DECAY,
        gradient_tol=INF,
        batch_size=4,
    )
    parts = {"image": IMAGE, "table": TABLE}
    dx = torch.zeros_like(parts[moves])
    dx[[3, 1]] = 0.1 * drawn(*dx[[3, 1]].shape, seed=5)
    truth = dense(model, lambda x: functional.cross_entropy(model(**{**parts, moves: x}), LABELS))
    assert problem.input_shape == tuple(dx.shape[1:])
    assert_close(estimated(problem, Move([3, 1], dx[[3, 1]])), truth(parts[moves], dx))


def test_arrays_are_read_in_the_dtype_of_the_model():
    model = nn.Linear(3, 3).eval()
    problem = Problem(
        model, nn.CrossEntropyLoss(), TABLE.numpy(), LABELS.numpy().astype(np.int64), gradient_tol=INF
    )
    assert problem.risk().points[[0]][0].dtype == torch.float32


def test_a_frame_with_truth_values_beside_numbers_is_one_of_numbers():
    table = pd.DataFrame({"age": [1.5, 2.0, 3.0], "smokes": [True, False, True], "visits": [1, 2, 3]})
    model = nn.Linear(3, 1).double().eval()
    problem = Problem(model, nn.MSELoss(), table, torch.zeros(3, 1).double(), gradient_tol=float("inf"))
    expected = torch.tensor([[1.5, 1.0, 1.0], [2.0, 0.0, 2.0], [3.0, 1.0, 3.0]]).double()
    assert torch.equal(problem.risk().points[range(3)][0], expected)
