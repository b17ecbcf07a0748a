"""``solset resnet56`` at the door: what it refuses, resumes and passes on."""

import gc
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from solset.paper import DownloadError, resnet20, resnet56
from solset.paper import _commands as commands
from solset.paper import _public_files as public_files
from solset.paper._resnet56_setup import ResNet56Settings
from support.commands import Ended, contents
from support.reference import cifar10_file, resnet56_file


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
                "a checkpoint with the names and shapes of the network",
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
        (["--figure", "5"], ["`figure_moved` must be from 0 to 4; got 5"]),
        (["--figure", "-1"], ["`figure_moved` must be from 0 to 4; got -1"]),
        (["--resolution", "1"], ["`resolution` must be at least 2; got 1"]),
        (["--retraining", "-1"], ["`retraining_gradients` must be at least 0; got -1"]),
        (["--memory", "0"], ["`memory_gigabytes` must be positive and finite; got 0"]),
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

    monkeypatch.setattr(public_files, "fetch", unreachable)
    monkeypatch.setenv("SOLSET_HOME", "cache")
    ended = network(*RESNET56, *given)
    assert ended.code == 2
    for part in (
        f"`{option} PATH`",
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

    monkeypatch.setattr(commands, "resnet56_experiment", stopping)
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
        data=Path("few.npz"),
        weights=Path("net.th"),
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
        (["--weights", "other.th"], "differ in weights"),
        (["--data", "other.npz"], "differ in data"),
        (["--seed", "1"], "seed (now 1, was 0)"),
        (["--memory", "2"], "memory_gigabytes (now 2.0, was 3.0)"),
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
        weights, images = resnet56_file(), cifar10_file()
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
