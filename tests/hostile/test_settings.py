"""Every option of every command with every kind of value that is not one: one line, status 2, no trace."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from solset.paper import resnet56
from support.commands import ATTACK
from support.hostile_settings import command_lines

LINES = list(command_lines())


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "net.th"
    torch.save(resnet56(generator=torch.Generator().manual_seed(0)).state_dict(), path)
    return path.read_bytes()


@pytest.fixture
def place(solset, weights):
    """A folder with what commands need, and names that lead nowhere good."""
    Path("attack.py").write_text(ATTACK)
    Path("broken.py").write_text("def f(:")
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("years of work")
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    Path("net.th").write_bytes(weights)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.savez("few.npz", images=images, labels=np.arange(4))
    return solset


def tree() -> set[str]:
    return {str(path) for path in Path().rglob("*") if "__pycache__" not in path.parts}


def shown(line: list[str]) -> str:
    return " ".join(line)[:80].encode(errors="backslashreplace").decode()


@pytest.mark.parametrize("command", sorted({line[0] for line in LINES}))
def test_is_refused_in_one_line_with_status_2_and_leaves_nothing(place, command):
    before, wrong = tree(), []
    for line in (line for line in LINES if line[0] == command):
        arguments = line if any(part.startswith("--out") for part in line) else [*line, "--out", "new"]
        try:
            ended = place(*(line if line[0] == "nothing" or len(line) == 1 else arguments))
        except BaseException as error:  # noqa: BLE001 - whatever gets out of the command line is a failure
            wrong.append((shown(line), f"{type(error).__name__}: {error}"[:200]))
            continue
        lines = ended.err.splitlines()
        if ended.code != 2 or len(lines) != 1 or not lines[0].startswith("error: ") or tree() != before:
            wrong.append((shown(line), ended.code, ended.err[:300], sorted(tree() - before)))
            shutil.rmtree("new", ignore_errors=True)
    assert wrong == []


def test_how_many_there_are(capsys):
    counts = Counter(line[0] for line in LINES)
    with capsys.disabled():
        print(f" {len(LINES)} command lines {dict(counts)},", end=" ")
    assert len(LINES) > 200
