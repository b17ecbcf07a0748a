"""The command line audits a training, and says what it does not know about one."""

import csv
import json

import numpy as np
import pytest

from solset.training import _verdict

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

def attack():
    return build(), lambda model: model(X[:1]).sum()
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


@pytest.mark.filterwarnings("ignore:training is not differentiable:solset.errors.SolsetWarning")
def test_the_page_of_an_audit_warns_where_reruns_contradict_the_scores(solset, here, monkeypatch):
    words = "Training is not differentiable at this scale: the scores may not hold"
    arguments = ("audit", "mine.py:build", "--validation", "unseen")
    assert solset(*arguments, "--out", "smooth").code == 0
    assert words not in (here / "smooth" / "report.html").read_text()
    monkeypatch.setattr(_verdict, "TOLERANCE", -1.0)
    assert solset(*arguments, "--out", "rough").code == 0
    assert words in (here / "rough" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("audit", "mine.py:build"), "`--validation` must be given for a Training"),
        (
            ("audit", "mine.py:build", "--validation", "unseen", "--layer", "weight"),
            "`--layer` must be left out for a Training",
        ),
        (("path", "mine.py:build", "--points", "0"), "take a Training too"),
        (
            ("run", "mine.py:build", "--points", "0", "--samples", "3"),
            "`--samples` must be left out for a Training",
        ),
        (("run", "mine.py:build", "--relabel", "0=1,70=2"), "`points` must be in 0..9"),
    ],
    ids=["validation", "layer", "path", "samples", "points"],
)
def test_what_a_training_does_not_know_is_refused(solset, here, arguments, words):
    ended = solset(*arguments, "--out", "other")
    assert ended.code != 0
    assert words in ended.error
    assert not (here / "other").exists()


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (("--points", "1,4", "--size", "0.01,0.02"), 2),
        (("--points", "1", "--direction", "random"), 1),
        (("--remove", "3", "--relabel", "5=2.5", "--reweight", "7=0.5", "--add", "new.npz"), 1),
    ],
    ids=["moves", "random move", "whole points"],
)
def test_a_training_is_run_on_changed_data(solset, here, options, rows):
    np.savez(here / "new.npz", x=np.ones((1, 3)), y=np.ones((1, 1)))
    ended = solset("run", "mine.py:build", *options, "--out", "run")
    assert ended.code == 0, ended.error
    with (here / "run" / "changes.csv").open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == rows
    assert all(float(row["error"]) < 0.3 for row in written)
    page = (here / "run" / "report.html").read_text()
    assert f"moved by {'2' if rows == 2 else '1'} %, the same recipe" in page or "--remove" in options
    assert all(abs(float(row["after"]) - float(row["loss"])) < 0.02 for row in written)


def test_a_training_is_poisoned_and_judged_from_other_seeds(solset, here):
    options = ("--points", "1,4", "--radius", "0.5", "--rounds", "2", "--from-scratch", "10,11")
    ended = solset("poison", "mine.py:attack", *options, "--out", "design")
    assert ended.code == 0, ended.error
    record = json.loads((here / "design" / "design.json").read_text())
    assert record["reached"] > record["clean"]
    assert [row["name"] for row in record["judgement"]] == ["seed 10", "seed 11"]
    assert all(row["poisoned"] > row["clean"] for row in record["judgement"])
    refused = solset("poison", "mine.py:attack", "--points", "1", "--radius", "1", "--random", "3")
    assert "`--random` must be left out for a Training" in refused.error
