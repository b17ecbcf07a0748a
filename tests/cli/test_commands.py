"""The command line: what it prints, how it ends, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from solset import cli
from solset.paper import _toy_report as toy_report
from solset.reports import _users_report as users
from support.commands import SOURCE, contents


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--help"],
            [
                "toy",
                "demo",
                "run",
                "plan",
                "poison",
                "resnet56",
                "Where would a trained network have ended up",
            ],
        ),
        (["toy", "--help"], ["--out", "--seed", "--overwrite", "--resume"]),
        (["plan", "--help"], ["--points", "--json"]),
        (["demo", "--help"], ["--activation", "--direction", "--fixed-output", "--resume"]),
        (["run", "--help"], ["--points", "--size", "--optimality", "--samples", "--resume"]),
        (
            ["poison", "--help"],
            ["--points", "--radius", "--scope", "--training", "--from-scratch", "--resume"],
        ),
        (["choose", "--help"], ["--change", "--most", "--labels", "--random", "--resume"]),
        (["path", "--help"], ["--points", "--size", "--max-error", "--nearest", "--resume"]),
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
    assert (other.code, "seed (now 1, was 0)" in other.error) == (2, True)
    assert contents("mine") == first


VALIDATION = """
def unseen():
    inputs = torch.eye(2, dtype=torch.float64)
    return inputs, torch.ones(2, 1, dtype=torch.float64)
"""


@pytest.mark.parametrize(
    ("command", "source", "options"),
    [
        ("run", "mine.py:build", ["--points", "4,1"]),
        ("path", "mine.py:decayed", ["--points", "4,1"]),
        ("audit", "mine.py:build", ["--validation", "unseen"]),
    ],
)
def test_a_run_on_other_data_is_not_resumed(solset, command, source, options):
    Path("mine.py").write_text(SOURCE + VALIDATION)
    arguments = [command, source, *options, "--out", "kept"]
    assert solset(*arguments).code == 0
    kept = contents("kept")
    first = "return Problem(model, nn.MSELoss(), inputs, targets)\n\ndef fitted"
    assert SOURCE.count(first) == 1
    other = first.replace("inputs, targets)", "inputs.flip(0), targets.flip(0))")
    Path("mine.py").write_text(SOURCE.replace(first, other) + VALIDATION)
    ended = solset(*arguments, "--resume")
    assert ended.code == 2
    assert "differ in data" in ended.error
    if command == "audit":
        Path("mine.py").write_text(SOURCE + VALIDATION.replace("torch.ones", "torch.zeros"))
        assert "differ in validation data" in solset(*arguments, "--resume").error
    assert contents("kept") == kept


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
        (["mine.py:build", "--points", "a"], "`--points` must be indices such as 0,3,7 or 0-5,9; got 'a'"),
        (["mine.py:build", "--points", ""], "`--points` must be indices such as 0,3,7 or 0-5,9; got ''"),
        (["mine.py:build", "--size", "abc"], "`--size` must be positive steps such as 0.5%,1%; got 'abc'"),
        (["mine.py:build", "--size", "1%,"], "`--size` must be positive steps such as 0.5%,1%; got ''"),
        (["mine.py:build", "--size", "-1%"], "`--size` must be positive steps such as 0.5%,1%; got '-1%'"),
        (["mine.py:build", "--size", "nan"], "`--size` must be positive steps such as 0.5%,1%; got 'nan'"),
        (["mine.py:build", "--size", "inf"], "`--size` must be positive steps such as 0.5%,1%; got 'inf'"),
        (["mine.py:build", "--size", "1%,0.01"], "`sizes` must be distinct to six digits"),
        (["mine.py:build", "--samples", "-1"], "`samples` must be at least 0; got -1"),
        (["mine.py:build", "--optimality", "best"], "`optimality` must be one of 'auto', 'interpolating',"),
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
    assert "`optimality` must be one of 'auto', 'interpolating', 'stationary'" in refused.error
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [("activation", "gelu", "'relu', 'tanh'"), ("direction", "up", "'cross_entropy', 'random'")],
)
def test_demo_refuses_what_it_does_not_know(solset, option, value, choices):
    ended = solset("demo", f"--{option}", value, "--out", "new")
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
        "settings.toml",
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
    assert contents("toy").keys() == {"run.json", "settings.toml"}


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


def test_a_path_that_is_refused_leaves_its_folder_free(solset):
    path = ("path", "mine.py:build", "--points", "4,1", "--size", "5%", "--direction", "random")
    refused = solset(*path, "--out", "way")
    assert refused.code == 2
    assert "`problem` must be a fitted one whose rows of J are independent" in refused.error
    assert not Path("way").exists()
    assert solset(path[0], "mine.py:decayed", *path[2:], "--out", "way").code == 0
