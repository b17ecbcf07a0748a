"""The command line: what it prints, how it ends, and what it leaves behind."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from solset import cli
from solset.datasets import DownloadError, find_cifar10, find_resnet56_weights, places
from solset.experiments import poison, toy_report, users
from solset.experiments.resnet56 import ResNet56Settings
from solset.zoo import resnet20, resnet56

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


@pytest.fixture
def solset(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder with a user's file; all that the process keeps is put back."""
    monkeypatch.chdir(tmp_path)
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


def contents(folder: str) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in Path(folder).iterdir()}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--help"],
            ["toy", "demo", "run", "poison", "resnet56", "Where would a trained network have ended up"],
        ),
        (["toy", "--help"], ["--out", "--seed", "--overwrite", "--resume"]),
        (["demo", "--help"], ["--activation", "--direction", "--fixed-output", "--resume"]),
        (["run", "--help"], ["--points", "--size", "--optimality", "--samples", "--resume"]),
        (
            ["poison", "--help"],
            ["--points", "--radius", "--scope", "--training", "--from-scratch", "--resume"],
        ),
        (["path", "--help"], ["--points", "--size", "--tol", "--nearest", "--resume"]),
        (["resnet56", "--help"], ["--data", "--weights", "--moved", "--memory", "--figure", "--resume"]),
    ],
)
def test_help(solset, arguments, says):
    ended = solset(*arguments)
    assert ended.code == 0
    assert [word for word in says if word not in ended.out.replace("\n", " ")] == []


def test_toy_prints_the_papers_numbers(solset):
    ended = solset("toy", "--out", "toy")
    assert ended.code == 0
    for number in (
        "0.4000000000",
        "0.1788854382",
        "(0.1600000000, 0.0800000000)",
        "0.0121661440",
        "0.2150265267",
    ):
        assert number in ended.out
    assert "0.2 cannot be the modulus" in ended.out
    assert "Open the report: toy/report.html" in ended.out
    assert "0.2 cannot be the modulus" in Path("toy/report.html").read_text(encoding="utf-8")


RUN = ("run", "mine.py:build", "--points", "4,1", "--size", "0.5%,1%", "--out", "mine")


def test_run_writes_results_and_refuses_resumes_overwrites_to_the_same_bytes(solset):
    ended = solset(*RUN)
    assert (ended.code, ended.err) == (0, "")
    assert "Problem(Linear, n=6, p=2, c=1" in ended.out
    assert "Open the report: mine/report.html" in ended.out
    first = contents("mine")
    assert {"result.json", "sizes.csv", "weights_0.005.safetensors", "report.html"} <= first.keys()
    assert [row["size"] for row in json.loads(first["result.json"])["sizes"]] == [0.005, 0.01]
    refused = solset(*RUN)
    assert refused.code == 2
    assert (
        "holds an earlier run. Pass --resume to go on with that run, --overwrite to replace" in refused.error
    )
    assert contents("mine") == first
    for choice in ("--resume", "--overwrite"):
        assert solset(*RUN, choice).code == 0
        assert contents("mine") == first
    assert solset(*RUN, "--resume", "--overwrite").error == (
        "error: `--overwrite` must be given without --resume; got both. They exclude each other."
    )
    other = solset(*RUN, "--seed", "1", "--resume")
    assert (other.code, "'seed' is 1 and was 0" in other.error) == (2, True)
    assert contents("mine") == first


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["absent.py:build"],
            "`source` must be FILE.py:FUNCTION with an existing file; got 'absent.py:build'",
        ),
        (["mine.py"], "`source` must be FILE.py:FUNCTION"),
        (
            ["mine.py:fails"],
            "got RuntimeError: no data at all. Call it by itself first, or set SOLSET_TRACEBACK",
        ),
        (["mine.py:other"], "`source` must be a function that returns a Problem; got int. Return one."),
        (["mine.py:nobody"], "`source` must be a function nobody in mine.py; got none. Check the name."),
        (["mine.py:build", "--points", "0,6"], "`points` must be in 0..5; got [6]. Count points from 0."),
        (["mine.py:build", "--points", "0,0"], "`points` must be distinct; got [0] repeated"),
        (["mine.py:build", "--points", "a"], "`--points` must be indices such as 0,3,7; got 'a'"),
        (["mine.py:build", "--points", ""], "`--points` must be indices such as 0,3,7; got ''"),
        (["mine.py:build", "--size", "abc"], "`--size` must be positive steps such as 0.5%,1%; got 'abc'"),
        (["mine.py:build", "--size", "1%,"], "`--size` must be positive steps such as 0.5%,1%; got ''"),
        (["mine.py:build", "--size", "-1%"], "`--size` must be positive steps such as 0.5%,1%; got '-1%'"),
        (["mine.py:build", "--size", "nan"], "`--size` must be positive steps such as 0.5%,1%; got 'nan'"),
        (["mine.py:build", "--size", "inf"], "`--size` must be positive steps such as 0.5%,1%; got 'inf'"),
        (["mine.py:build", "--size", "1%,0.01"], "`sizes` must be distinct to six digits"),
        (["mine.py:build", "--samples", "-1"], "`samples` must be zero or more; got -1"),
        (["mine.py:build", "--optimality", "best"], "`--optimality` must be one of auto, interpolating,"),
        (["mine.py:build", "--optimality", "interpolating"], "`optimality` must be a fitted problem"),
        (
            ["mine.py:build", "--direction", "absent"],
            '`direction` must be "gradient", "random" or a safetensors',
        ),
        (["mine.py:build", "--direction", "long.safetensors"], "of shape (1, 2); got {'directions': (3, 2)}"),
        (["mine.py:fitted"], "fitted to zero residual: use random directions, or give your own."),
        (["mine.py:build", "--out", "mine.py/below"], "`path` must be a folder that can be written to"),
        (["mine.py:build", "--out", "full"], "whose files come from elsewhere"),
    ],
)
def test_a_bad_argument_ends_in_one_line_and_leaves_no_folder(solset, arguments, says):
    save_file({"directions": torch.ones(3, 2)}, "long.safetensors")
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("years of work")
    before = sorted(Path().rglob("*"))
    defaults = ["--points", "0", "--out", "new"]
    ended = solset("run", arguments[0], *defaults, *arguments[1:])
    assert ended.code == 2
    assert ended.error.startswith("error: ")
    assert says in ended.error
    assert sorted(path for path in Path().rglob("*") if "__pycache__" not in path.parts) == before


def test_path_follows_writes_and_resumes(solset):
    path = ("path", "mine.py:decayed", "--points", "4,1", "--size", "5%", "--out", "way")
    ended = solset(*path)
    assert ended.code == 0
    assert "Open the report: way/report.html" in ended.out
    before = contents("way")
    assert {"course_0.05.safetensors", "course_0.05.png", "paths.csv", "report.html"} <= before.keys()
    assert solset(*path).code == 2
    assert solset(*path, "--resume").code == 0
    assert contents("way") == before
    refused = solset(*path[:-1], "new", "--optimality", "gauss_newton")
    assert refused.code == 2
    assert "`--optimality` must be one of auto, interpolating, stationary" in refused.error
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [("--activation", "gelu", "relu, tanh"), ("--direction", "up", "cross_entropy, random")],
)
def test_demo_refuses_what_it_does_not_know(solset, option, value, choices):
    ended = solset("demo", option, value, "--out", "new")
    assert ended.code == 2
    assert f"`{option}` must be one of {choices}; got '{value}'" in ended.error
    assert not Path("new").exists()


def test_a_traceback_is_had_on_request(solset, monkeypatch):
    monkeypatch.setenv("SOLSET_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["solset", "run", "mine.py:fails", "--points", "0"])
    with pytest.raises(ValueError, match="no data at all") as caught:
        cli.main()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_interrupt_keeps_finished_stages_and_resume_completes(solset, monkeypatch):
    solset(*RUN)
    expected = contents("mine")
    arguments = [*RUN[:-1], "stopped"]
    whole, calls = users.training_stability, []

    def stopping(problem, dx, **options):
        calls.append(dx)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(problem, dx, **options)

    monkeypatch.setattr(users, "training_stability", stopping)
    ended = solset(*arguments)
    assert ended.code == 130
    assert "interrupted; finished stages are kept: run again with --resume to go on" in ended.err
    assert contents("stopped").keys() == {
        "run.json",
        "setup.json",
        "size_0.005.json",
        "weights_0.005.safetensors",
    }
    assert solset(*arguments, "--resume").code == 0
    assert len(calls) == 3  # the first step, the interrupted one, and that again
    assert contents("stopped") == expected


def test_an_interrupt_of_the_toy_run(solset, monkeypatch):
    def stopping(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(toy_report, "run_toy", stopping)
    assert solset("toy", "--out", "toy").code == 130
    assert contents("toy").keys() == {"run.json"}


@pytest.mark.slow
def test_a_real_interrupt_signal(solset):
    sizes = ",".join(f"{k / 1000}%" for k in range(1, 101))
    arguments = ["run", "mine.py:interruptible", "--points", "4,1", "--size", sizes, "--out", "stopped"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "solset", *arguments], stderr=subprocess.PIPE, env=environment
    )
    first = Path("stopped/size_1e-05.json")
    while not first.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert b"run again with --resume" in err
    kept = contents("stopped")
    assert "result.json" not in kept
    assert solset(*arguments, "--resume").code == 0
    after = contents("stopped")
    assert len(json.loads(after["result.json"])["sizes"]) == 100
    assert all(after[name] == value for name, value in kept.items() if name != "run.json")


@pytest.fixture
def network(solset):
    """Files for the command in the working folder: checkpoints of random weights and few images."""
    generator, pixels = torch.Generator().manual_seed(0), np.random.default_rng(0)
    for name, architecture in (("net", resnet56), ("other", resnet56), ("shallow", resnet20)):
        torch.save(architecture(generator=generator).state_dict(), f"{name}.th")
    Path("resnet56-4bfd9763.th").write_bytes(Path("net.th").read_bytes()[:1000])
    for name, side in (("few", 32), ("other", 32), ("large", 64)):
        images = pixels.integers(0, 256, (4, side, side, 3), dtype=np.uint8)
        np.savez(f"{name}.npz", images=images, labels=np.arange(4))
    return solset


RESNET56 = ("resnet56", "--points", "4", "--moved", "1,2", "--figure", "0", "--out", "new")
FILES = ("--weights", "net.th", "--data", "few.npz")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--weights", "absent.th"],
            [
                "nothing at absent.th",
                "`--weights PATH` with resnet56-4bfd9763.th",
                "leave it out, to download",
            ],
        ),
        (
            ["--data", "absent.npz"],
            [
                "nothing at absent.npz",
                "`--data PATH` with cifar-10-python.tar.gz",
                "leave it out, to download",
            ],
        ),
        (
            ["--weights", "resnet56-4bfd9763.th"],
            [
                "`path` must be a file whose sha256 begins 4bfd9763",
                "1000 bytes of resnet56-4bfd9763.th",
                "cut short",
            ],
        ),
        (
            ["--weights", "shallow.th"],
            [
                "a checkpoint with the names of the network",
                "shallow.th for resnet56",
                "layer1.3.conv1.weight",
            ],
        ),
        (["--weights", "few.npz"], ["`path` must be a checkpoint", "few.npz"]),
        (
            ["--data", "large.npz"],
            ["images uint8 (n, 32, 32, 3); got uint8 (4, 64, 64, 3) in large.npz"],
        ),
        (["--data", "net.th"], ["got net.th"]),
        (["--points", "5"], ["at most 4, the images in few.npz; got 5"]),
        (["--points", "0"], ["must be numbers in 1..0"]),
        (["--moved", "0"], ["`moved` must be numbers in 1..4; got (0"]),
        (["--moved", "1,5"], ["`moved` must be numbers in 1..4; got (1, 5"]),
        (["--moved", "2000"], ["`moved` must be numbers in 1..4; got (2000"]),
        (["--moved", "abc"], ["`--moved` must be numbers such as 1,10; got 'abc'. Say how many move."]),
        (["--moved", ""], ["`--moved` must be numbers such as 1,10; got ''"]),
        (["--figure", "5"], ["`figure` must be in 0..4; got 5"]),
        (["--figure", "-1"], ["`figure` must be in 0..4; got -1"]),
        (["--resolution", "1"], ["`resolution` must be 2 or more; got 1"]),
        (["--retraining", "-1"], ["`retraining_gradients` must be 0 or more; got -1"]),
        (["--memory", "0"], ["`memory` must be positive and finite; got 0"]),
        (["--size", "0%"], ["`--size` must be positive steps such as 0.5%,1%; got '0%'. 0.01 means 1%."]),
        (["--size", "1%,-1%"], ["`--size` must be positive steps such as 0.5%,1%; got '-1%'"]),
        (["--size", "abc"], ["`--size` must be positive steps such as 0.5%,1%; got 'abc'"]),
        (["--overwrite", "--resume"], ["`--overwrite` must be given without --resume"]),
        (["--out", "net.th/below"], ["`path` must be a folder that can be written to"]),
    ],
)
def test_resnet56_refuses_in_one_line_and_leaves_no_folder(network, arguments, says):
    before = sorted(Path().rglob("*"))
    ended = network(*RESNET56, *FILES, *arguments)
    assert ended.code == 2
    assert ended.error.startswith("error: ")
    assert [part for part in says if part not in ended.error] == []
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(("given", "option"), [(FILES[2:], "--weights"), (FILES[:2], "--data")])
def test_resnet56_without_files_or_network_names_both_cures(network, monkeypatch, given, option):
    def unreachable(*_arguments: object, **_options: object) -> None:
        raise DownloadError("the server cannot be reached")

    monkeypatch.setattr(places, "fetch", unreachable)
    monkeypatch.setenv("SOLSET_HOME", "cache")
    monkeypatch.setenv("SOLSET_SHARED", "shared")
    ended = network(*RESNET56, *given)
    assert ended.code == 2
    for part in (
        f"`{option} PATH`",
        "shared/",
        "cache/",
        "(the download failed: the server cannot be reached)",
    ):
        assert part in ended.error
    assert not Path("new").exists()


@pytest.fixture
def asked(network, monkeypatch):
    """The command without its computations: calls it and returns how it ended and what it would have run."""
    runs = []

    def stopping(run):
        runs.append(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "resnet56_experiment", stopping)
    return lambda *arguments: (network(*RESNET56, *FILES, *arguments), runs)


def test_resnet56_passes_on_what_it_is_asked(asked):
    options = (
        "--size",
        "0.5%,0.02",
        "--retraining",
        "7",
        "--figure",
        "3",
        "--resolution",
        "5",
        "--memory",
        "0.5",
    )
    ended, (run,) = asked(*options, "--moved", "3,1", "--seed", "6")
    assert ended.code == 130
    assert "run again with --resume to go on" in ended.err
    assert run.settings == ResNet56Settings(
        seed=6,
        points=4,
        moved=(3, 1),
        sizes=(0.005, 0.02),
        retraining_gradients=7,
        figure_moved=3,
        resolution=5,
        memory_gigabytes=0.5,
    )
    assert run.start.problem.memory_budget == 500_000_000
    assert not run.start.model.training
    assert run.start.data.labels.tolist() == [0, 1, 2, 3]


def test_the_steps_of_resnet56_are_the_papers_to_the_last_bit(asked):
    # Tables look the paper's figures up by the step.
    _, (run,) = asked("--size", "0.2%,0.5%,1%,2%,5%,10%")
    assert run.settings.sizes == ResNet56Settings().sizes == (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--weights", "other.th"], "'weights' is "),
        (["--data", "other.npz"], "'data' is "),
        (["--seed", "1"], "'seed' is 1 and was 0"),
        (["--memory", "2"], "'memory_gigabytes' is 2.0 and was 3.0"),
    ],
)
def test_resnet56_resumes_nothing_else(asked, arguments, says):
    asked()
    before = contents("new")
    ended, runs = asked(*arguments, "--resume")
    assert (ended.code, len(runs)) == (2, 1)
    assert says in ended.error
    assert contents("new") == before
    assert asked("--resume")[0].code == 130
    assert len(runs) == 2


def real_files() -> tuple[str, ...]:
    """The public weights and images as options."""
    try:
        weights, images = find_resnet56_weights(download=False), find_cifar10(download=False)
    except FileNotFoundError as error:
        pytest.skip(f"the images or the weights are not here: {error}")
    return "--weights", str(weights.resolve()), "--data", str(images.resolve())


REAL_FILES_ARE_LOOKED_FOR_FROM = Path.cwd()
FEW = ("resnet56", "--points", "10", "--moved", "1", "--size", "1%", "--retraining", "0", "--figure", "0")


@pytest.mark.slow
def test_resnet56_says_the_least_memory_that_works(solset, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(REAL_FILES_ARE_LOOKED_FOR_FROM)
        files = real_files()

    def call(memory: float, out: str) -> Ended:
        return solset(*FEW, *files, "--memory", str(memory), "--out", out)

    says = r"error: `memory_budget` must be at least (\d+) bytes"
    refused = call(1e-4, "small")
    assert refused.code == 2
    (least,) = re.findall(says, refused.err)
    assert re.findall(says, call(0.99 * int(least) / 1e9, "less").err) == [least]
    enough = call(2 * int(least) / 1e9, "new")  # the check asks for a few rows more
    assert enough.code == 0
    assert "on the disk, each row computed once" in enough.out
    assert "Open the report: new/report.html" in enough.out
    gc.collect()
    listed = json.loads(Path("new/run.json").read_bytes())["files"]
    assert contents("new").keys() == {"run.json", *listed}  # the rows on the disk went with the problem
    assert call(3.0, "roomy").code == 0
    (few,), (many,) = (
        json.loads(Path(name, "result.json").read_bytes())["moved"]["1"]["sizes"] for name in ("new", "roomy")
    )
    assert few["distance"] == pytest.approx(many["distance"], rel=1e-3)


ATTACK = """
import torch
from torch import nn
from mine import build
from solset import HeldOutLoss

def attack():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    goal = HeldOutLoss(inputs, torch.ones(4, 1, dtype=torch.float64))
    return build(), goal, lambda x, y, seed: (torch.linalg.pinv(x) @ y).reshape(-1)

def nowhere():
    from solset import WeightFunction
    return build(), WeightFunction(lambda weights: weights.detach().sum())
"""
POISON = (
    "poison",
    "attack.py:attack",
    "--points",
    "4,1",
    "--radius",
    "0.1",
    "--training",
    "0",
    "--random",
    "2",
)


class TestPoison:
    @pytest.fixture(autouse=True)
    def attack(self, solset):
        Path("attack.py").write_text(ATTACK)

    def test_writes_results_and_resumes_to_the_same_bytes(self, solset, monkeypatch):
        arguments = [*POISON, "--from-scratch", "1,2", "--image", "1x2"]
        ended = solset(*arguments, "--out", "whole")
        assert ended.code == 0
        assert "Open the report: whole/report.html" in ended.out
        whole = contents("whole")
        result = json.loads(whole["result.json"])
        assert [row["name"] for row in result["gain"]][-2:] == [
            "from scratch, seed 1",
            "from scratch, seed 2",
        ]
        assert all(row["is_success"] for row in result["gain"])
        judge, calls = poison.judge_poisoning, []

        def stopping(*given, **options):
            calls.append(given)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return judge(*given, **options)

        monkeypatch.setattr(poison, "judge_poisoning", stopping)
        assert solset(*arguments, "--out", "stopped").code == 130
        assert solset(*arguments, "--out", "stopped", "--resume").code == 0
        assert len(calls) == 4
        assert contents("stopped") == whole
        refused = solset(*arguments, "--radius", "0.2", "--out", "stopped", "--resume")
        assert (refused.code, "'radius' is 0.2 and was 0.1" in refused.error) == (2, True)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["attack.py:build"], "returns (problem, goal) or (problem, goal, train); got (Problem)"),
            (["attack.py:nowhere"], "`goal` must be differentiable in the weights"),
            (["attack.py:attack", "--points", "9"], "`points` must be in 0..5; got [9]"),
            (["attack.py:attack", "--radius", "0"], "`radius` must be positive; got 0.0"),
            (["attack.py:attack", "--radius", "nan"], "`radius` must be positive; got nan"),
            (["attack.py:attack", "--norm", "l1"], "`--norm` must be one of l2, linf; got 'l1'"),
            (["attack.py:attack", "--scope", "all"], "`--scope` must be one of per_point, total; got 'all'"),
            (["attack.py:attack", "--lower", "5"], "got an empty feasible set"),
            (["attack.py:attack", "--image", "8"], "`--image` must be height and width such as 8x8; got '8'"),
            (["attack.py:attack", "--image", "3x3"], "`image` must be of 2 pixels; got (3, 3)"),
            (["attack.py:attack", "--from-scratch", "a"], "`--from-scratch` must be seeds such as 1,2"),
            (["attack.py:attack", "--rounds", "0"], "`rounds` must be one or more; got 0"),
        ],
    )
    def test_a_bad_argument_ends_in_one_line_and_leaves_no_folder(self, solset, arguments, says):
        defaults = ["--points", "0", "--radius", "0.1", "--out", "new"]
        ended = solset("poison", arguments[0], *defaults, *arguments[1:])
        assert ended.code == 2
        assert says in ended.error
        assert not Path("new").exists()
