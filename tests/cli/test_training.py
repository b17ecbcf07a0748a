"""The command line audits a training, and says what it does not know about one."""

import csv

import pytest

FILE = """
from functools import partial
import torch
from torch import nn
from solset import Training

X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))

def build():
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Training(lambda: nn.Linear(3, 1), nn.MSELoss(), X, X[:, :1], optimizer=sgd, batch_size=5)

def unseen():
    return X[:4] + 1, X[:4, :1]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["move", "remove"])
def test_a_training_is_audited_by_its_validation_loss(solset, here, kind):
    out = ("--change", kind, "--validation", "unseen", "--out", "audit")
    assert solset("audit", "mine.py:build", *out).code == 0
    with (here / "audit" / "ranking.csv").open() as file:
        rows = list(csv.DictReader(file))
    sizes = [abs(float(row["validation_change"])) for row in rows]
    assert len(rows) == 10
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("audit", "mine.py:build"), "`--validation` must be given for a Training"),
        (
            ("audit", "mine.py:build", "--validation", "unseen", "--layer", "weight"),
            "`--layer` must be left out for a Training",
        ),
        (("run", "mine.py:build", "--points", "0"), "`solset audit` takes a Training too"),
    ],
    ids=["validation", "layer", "run"],
)
def test_what_a_training_does_not_know_is_refused(solset, here, arguments, words):
    ended = solset(*arguments, "--out", "other")
    assert ended.code != 0
    assert words in ended.error
    assert not (here / "other").exists()
