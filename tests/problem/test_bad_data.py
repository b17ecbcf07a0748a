"""Data that is not an ordered, finite, repeatable collection of float features is refused at the door."""

import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

NAN, INF = float("nan"), float("inf")


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


class SizedStream(Stream):
    def __len__(self) -> int:
        return 12


class Shaky(TensorDataset):
    """Augments at random at every read."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, y = super().__getitem__(index)
        return x + torch.rand(x.shape), y


class Records(TensorDataset):
    """Inputs by name."""

    def __getitem__(self, index: int) -> tuple:
        x, y = super().__getitem__(index)
        return {"features": x}, y


DATA = (
    (
        "token ids",
        lambda m: m.problem(inputs=m.LABELS.reshape(-1, 1)),
        TypeError,
        "model | Long | embeddings",
    ),
    (
        "inputs of another dtype",
        lambda m: m.problem(inputs=m.INPUTS.float()),
        ValueError,
        "inputs | float32 | inputs.to",
    ),
    (
        "inputs elsewhere",
        lambda m: m.problem(inputs=m.INPUTS.to("meta")),
        ValueError,
        "inputs | meta | inputs.to",
    ),
    (
        "targets elsewhere",
        lambda m: m.problem(targets=m.TARGETS.to("meta")),
        ValueError,
        "targets | meta | targets.to",
    ),
    ("model elsewhere", lambda m: m.problem(m.network().to("meta")), ValueError, "model | meta | cpu"),
    (
        "lengths differ",
        lambda m: m.problem(targets=m.TARGETS[:-1]),
        ValueError,
        "targets | (11, 2) | first dimension",
    ),
    ("no targets", lambda m: m.problem(targets=None), TypeError, "targets | NoneType | labels"),
    (
        "targets beside a dataset",
        lambda m: m.problem(inputs=TensorDataset(m.INPUTS, m.TARGETS), targets=m.TARGETS),
        TypeError,
        "targets | Tensor | Leave it out",
    ),
    (
        "no points",
        lambda m: m.problem(inputs=m.INPUTS[:0], targets=m.TARGETS[:0]),
        ValueError,
        "inputs | none | training data",
    ),
    (
        "empty dataset",
        lambda m: m.problem(inputs=TensorDataset(m.INPUTS[:0], m.TARGETS[:0])),
        ValueError,
        "inputs | none | training data",
    ),
    ("inputs are a path", lambda m: m.problem(inputs=7), TypeError, "inputs | int | index"),
    (
        "NaN in the first input",
        lambda m: m.problem(inputs=m.spoiled(m.INPUTS, NAN, 0, 1)),
        ValueError,
        "inputs | points [0] | Clean",
    ),
    (
        "NaN deep in the inputs",
        lambda m: m.problem(inputs=m.spoiled(m.INPUTS, NAN, 10, 1)),
        ValueError,
        "inputs | points [10] | Clean",
    ),
    (
        "infinity deep in a dataset",
        lambda m: m.problem(inputs=TensorDataset(m.spoiled(m.INPUTS, INF, 10, 1), m.TARGETS), batch_size=4),
        ValueError,
        "inputs | points [10] | Clean",
    ),
    (
        "infinity behind frozen layers",
        lambda m: m.problem(inputs=m.spoiled(m.INPUTS, INF, 10, 1), parameters=["2.*"]),
        ValueError,
        "inputs | points [10] | Clean",
    ),
    (
        "NaN deep in the targets",
        lambda m: m.problem(targets=m.spoiled(m.TARGETS, NAN, 10, 1)),
        ValueError,
        "targets | points [10] | Clean",
    ),
    (
        "shuffling loader",
        lambda m: m.problem(inputs=DataLoader(TensorDataset(m.INPUTS, m.TARGETS), shuffle=True)),
        ValueError,
        "inputs | RandomSampler | shuffle=False",
    ),
    (
        "shuffling batch sampler",
        lambda m: m.problem(
            inputs=DataLoader(
                TensorDataset(m.INPUTS, m.TARGETS),
                batch_sampler=BatchSampler(RandomSampler(m.INPUTS), 4, False),
            )
        ),
        ValueError,
        "inputs | RandomSampler | shuffle=False",
    ),
    (
        "loader that does not batch",
        lambda m: m.problem(inputs=DataLoader(TensorDataset(m.INPUTS, m.TARGETS), batch_size=None)),
        ValueError,
        "inputs | NoneType | batch_size",
    ),
    (
        "iterable dataset",
        lambda m: m.problem(inputs=Stream()),
        TypeError,
        "inputs | iterable Stream | by index",
    ),
    (
        "iterable dataset with a length",
        lambda m: m.problem(inputs=SizedStream()),
        TypeError,
        "inputs | iterable SizedStream | by index",
    ),
    (
        "loader over an iterable dataset",
        lambda m: m.problem(inputs=DataLoader(Stream(), batch_size=4)),
        TypeError,
        "inputs | iterable Stream | by index",
    ),
    (
        "random augmentation",
        lambda m: m.problem(inputs=Shaky(m.INPUTS, m.TARGETS)),
        ValueError,
        "inputs | two reads | augmentation",
    ),
    (
        "triples",
        lambda m: m.problem(inputs=TensorDataset(m.INPUTS, m.TARGETS, m.LABELS)),
        ValueError,
        "moves | ['0', '1'] | all other tensors are held",
    ),
    (
        "records",
        lambda m: m.problem(inputs=Records(m.INPUTS, m.TARGETS)),
        TypeError,
        "model | dict | go in by name",
    ),
)


@pytest.mark.parametrize(("call", "error", "says"), [row[1:] for row in DATA], ids=[row[0] for row in DATA])
def test_refused_with_a_message_that_helps(assert_refused, call, error, says):
    assert_refused(call, error, says)
