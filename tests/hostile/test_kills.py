"""Runs that are killed (SIGKILL) at random moments end with the files of those that were left alone."""

import sys
from pathlib import Path

import pytest

from support.kills import Killable, kill_and_resume, kill_rank, solset
from support.processes import launcher
from support.reference import cifar10_file, resnet56_file

PROBLEM = """
import torch
from torch import nn
from solset import Problem
from solset.paper import digits

def build():
    # Wide enough to be fitted by its last layer alone; many small batches.
    part, generator = digits().part(0, 40), torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 60), nn.Tanh(), nn.Linear(60, 10)).double().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
        hidden = torch.cat([model[:2](part.inputs), torch.ones(40, 1, dtype=torch.float64)], dim=1)
        solved = torch.linalg.pinv(hidden) @ part.one_hot()
        model[2].weight.copy_(solved[:-1].T)
        model[2].bias.copy_(solved[-1])
    return Problem(model, nn.MSELoss(), part.inputs, part.one_hot(), batch_size=6)
"""


def audit_run() -> Killable:
    options = ("--joint", "no", "--resume", "--out")
    return Killable(
        "audit", lambda folder: solset("audit", "mine.py:build", *options, str(folder)), {"mine.py": PROBLEM}
    )


def path_run() -> Killable:
    options = ("--points", "3,17", "--direction", "random", "--size", "10%,20%", "--max-error", "1e-3")
    return Killable(
        "path",
        lambda folder: solset("path", "mine.py:build", *options, "--resume", "--out", str(folder)),
        {"mine.py": PROBLEM},
    )


def demo_run() -> Killable:
    return Killable("demo", lambda folder: [sys.executable, "-m", "support.small_demo", str(folder)])


def resnet56_run() -> Killable:
    try:
        files = ("--data", str(cifar10_file().resolve()), "--weights", str(resnet56_file().resolve()))
    except FileNotFoundError as error:
        pytest.skip(f"the images or the weights are not here: {error}")
    options = [
        "--points",
        "8",
        "--moved",
        "1",
        "--size",
        "0.5%,1%",
        "--retraining",
        "0",
        "--figure",
        "3",
        "--resolution",
        "3",
    ]
    return Killable(
        "resnet56",
        lambda folder: solset(
            "resnet56", *options, *files, "--resolution", "3", "--resume", "--out", str(folder)
        ),
    )


RUNS = {"demo": demo_run, "resnet56": resnet56_run, "audit": audit_run, "path": path_run}


def strike(name: str, place: Path, capsys, *, kills: int, seed: int) -> None:
    course = kill_and_resume(RUNS[name](), place, kills=kills, seed=seed)
    with capsys.disabled():
        print(f" {name}: {course.kills} kills, {course.ended} runs ended the same, {course.moments}")
    assert course.kills == kills


def shared_run() -> Killable:
    """An audit and its page by two processes."""
    options = ("--joint", "no", "--resume", "--out")
    return Killable(
        "audit by two processes",
        lambda folder: launcher(2, "-m", "solset", "audit", "mine.py:build", *options, str(folder)),
        {"mine.py": PROBLEM},
    )


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "kills"), [(1, 1), pytest.param(0, 3, marks=pytest.mark.long)])
def test_one_process_of_two_is_killed(tmp_path, capsys, rank, kills):
    strike_at = kill_rank(rank)
    course = kill_and_resume(shared_run(), tmp_path / "place", kills=kills, seed=rank, strike=strike_at)
    with capsys.disabled():
        print(
            f" rank {rank} of two: {course.kills} kills, {course.ended} runs ended the same, {course.moments}"
        )
    assert course.kills == kills


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_few_kills(tmp_path, capsys, name):
    strike(name, tmp_path / "place", capsys, kills=1, seed=0)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("name", "kills"), [("demo", 14), ("resnet56", 10), ("audit", 13), ("path", 13)])
def test_fifty_kills(tmp_path, capsys, name, kills):
    strike(name, tmp_path / "place", capsys, kills=kills, seed=1)
