"""An audit of a user's own model as a run: the command, its files, and going on after an interrupt."""

import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from solset.cli import app
from solset.reports._report_parts import as_images, as_maps

SOURCE = """
import torch
from torch import nn
from solset import Problem
from solset.paper import digits
from solset.paper._training import fit_exactly
from solset.zoo import DFCNN

def build():
    part = digits().part(0, 10)
    model = DFCNN([64, 12, 4, 2], activation=torch.tanh, generator=torch.Generator().manual_seed(0)).eval()
    targets = torch.stack([torch.sin(part.labels), torch.cos(part.labels)], 1).double()
    fit_exactly(model, part.inputs, targets)
    return Problem(model, nn.MSELoss(), part.inputs, targets)

def held_out():
    part = digits().part(500, 520)
    return part.inputs, torch.zeros(20, 2, dtype=torch.float64)

def wrong():
    return 3

def fails():
    raise RuntimeError("no data")
"""

UNFINISHED = """
import torch
from torch import nn
from solset import Problem

x = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
y = torch.tensor([[1.0], [0.3], [0.2], [2.0]], dtype=torch.float64)

def at(weights):
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64).eval()
    model.weight.data = weights.reshape(1, 2)
    return Problem(model, nn.MSELoss(), x, y, weight_decay=0.1)

def finished():
    return at(torch.linalg.solve(x.T @ x / 2 + 0.1 * torch.eye(2), x.T @ y / 2))

def unfinished():
    return at(torch.tensor([0.3, 0.9], dtype=torch.float64))
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "audited.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return "audited.py:build"


def run(*arguments: str):
    return CliRunner().invoke(app(), ["audit", *arguments])


def test_the_command_writes_ranking_maps_and_page(source: str, tmp_path: Path) -> None:
    outcome = run(source, "--validation", "held_out", "--top", "4", "--out", "out")
    assert outcome.exit_code == 0, outcome.output
    assert "Open the report: out/report.html" in outcome.output
    with (tmp_path / "out" / "ranking.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [int(row["rank"]) for row in table] == list(range(1, 11))
    values = [float(row["modulus"]) for row in table]
    assert values == sorted(values, reverse=True)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["optimality"] == "interpolating"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Which training points move this network most?" in page
    assert (tmp_path / "out" / "maps_most.png").is_file()


@pytest.mark.filterwarnings("ignore::solset.SolsetWarning")
@pytest.mark.parametrize("command", ["audit", "path", "run"])
def test_every_page_says_that_training_had_not_stopped(command, tmp_path, monkeypatch):
    (tmp_path / "unfinished.py").write_text(UNFINISHED)
    monkeypatch.chdir(tmp_path)
    options = [] if command == "audit" else ["--points", "0", "--size", "1%"]
    for function, is_said in (("unfinished", True), ("finished", False)):
        out = f"{command} {function}"
        outcome = CliRunner().invoke(app(), [command, f"unfinished.py:{function}", *options, "--out", out])
        assert outcome.exit_code == 0, outcome.output
        page = (tmp_path / out / "report.html").read_text()
        assert ("Training had not stopped: the gradient norm" in page) == is_said


def test_resuming_gives_the_same_ranking_and_another_audit_is_refused(source: str, tmp_path: Path) -> None:
    assert run(source, "--out", "out").exit_code == 0
    before = (tmp_path / "out" / "ranking.csv").read_bytes()
    (tmp_path / "out" / "audit_00000.safetensors").unlink()
    assert run(source, "--out", "out", "--resume").exit_code == 0
    assert (tmp_path / "out" / "ranking.csv").read_bytes() == before
    other = run(source, "--out", "out", "--resume", "--joint", "no")
    assert isinstance(other.exception, ValueError)


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--validation", "nothing", "validation"),
        ("--validation", "wrong", "validation"),
        ("--validation", "fails", "no data"),
        ("--joint", "perhaps", "joint"),
        ("--points", "0,99", "99"),
        ("--top", "0", "top"),
        ("--optimality", "best", "optimality"),
    ],
)
def test_bad_options_are_named_before_a_folder_is_made(
    source: str, tmp_path: Path, option: str, value: str, word: str
) -> None:
    outcome = run(source, option, value, "--out", "out")
    assert isinstance(outcome.exception, ValueError | TypeError)
    assert word in str(outcome.exception)
    assert not (tmp_path / "out").exists()


def test_images_are_recognised_by_their_shape() -> None:
    assert as_images(torch.zeros(2, 64)).shape == (2, 8, 8)
    assert as_images(torch.zeros(2, 3, 5, 4)).shape == (2, 5, 4, 3)
    assert as_images(torch.zeros(2, 1, 5, 4)).shape == (2, 5, 4)
    assert as_images(torch.zeros(2, 7)) is None
    assert as_images(torch.zeros(2, 9, 5, 4)) is None
    assert as_maps(3 * torch.ones(1, 3, 1, 1)).item() == pytest.approx(27**0.5)
