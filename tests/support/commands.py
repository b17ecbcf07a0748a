"""A user's file, and commands run on it: what the tests of the command line share."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from solset import cli

SOURCE = """
import signal
import torch
from torch import nn
from solset import Problem

def build():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    targets = torch.randn(6, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(2, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_((torch.linalg.pinv(inputs) @ targets).T)
    return Problem(model, nn.MSELoss(), inputs, targets)

def fitted():
    model = nn.Linear(2, 1, bias=False).double().eval()
    nn.init.ones_(model.weight)
    inputs = torch.ones(1, 2, dtype=torch.float64)
    return Problem(model, nn.MSELoss(), inputs, torch.full((1, 1), 2.0, dtype=torch.float64))

def decayed():
    problem = build()
    inputs, targets = problem.risk().points[range(6)]
    model, decay = nn.Linear(2, 1, bias=False).double().eval(), 0.1
    square = 2 / 6 * inputs.T @ inputs + decay * torch.eye(2, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.solve(square, 2 / 6 * inputs.T @ targets).T)
    return Problem(model, nn.MSELoss(), inputs, targets, weight_decay=decay)

def interruptible():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    return build()

def fails():
    raise RuntimeError("no data\\nat all")

def other():
    return 3
"""


ATTACK = """
import torch
from mine import build
from solset.goals import HeldOutLoss

def attack():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    goal = HeldOutLoss(inputs, torch.ones(4, 1, dtype=torch.float64))
    return build(), goal, lambda x, y, seed: (torch.linalg.pinv(x) @ y).reshape(-1)
"""


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a refusal."""
        (line,) = self.err.splitlines()
        return line


def contents(folder: str) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in Path(folder).iterdir()}


def command_runner(folder: Path, monkeypatch, capsys) -> Callable[..., Ended]:
    """Runs commands in a folder with a user's file; all that the process keeps is put back."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("SOLSET_TRACEBACK", raising=False)
    Path("mine.py").write_text(SOURCE)

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["solset", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return Ended(end.value.code or 0, printed.out, printed.err)

    return call
