"""The demo's mechanics on a tiny net: interrupted, resumed, repeated; its numbers are tested elsewhere."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from solset.paper import _digits as digits
from solset.paper._digits import DigitsRun, DigitsSettings
from solset.paper._digits_report import digits_experiment
from solset.reports._run_folder import RunFolder

TINY = DigitsSettings(
    points=10, moved=3, hidden=(32, 16), steps=(20,), sizes=(0.005,), nearest_at=(0.005,), samples=2
)
STAGES = {
    "trained.safetensors",
    "setup.json",
    "size_0.005.json",
    "warm_retraining.json",
    "modulus.json",
    "large.json",
}
POISONING = {
    *("guard.json", "design.json", "judgement.json", "random_0.json", "random_1.json", "random_2.json"),
    *("ascent.safetensors", "perturbation.safetensors"),
}


def start(path, settings: DigitsSettings = TINY, on_existing="refuse") -> DigitsRun:
    folder = RunFolder.open(path, settings=dataclasses.asdict(settings), on_existing=on_existing)
    return DigitsRun(settings, folder, progress=False)


def result_bytes(run: DigitsRun) -> bytes:
    return (run.folder.path / "result.json").read_bytes()


def interrupt(*_args, **_options):
    raise KeyboardInterrupt


def fail(*_args, **_options):
    raise AssertionError("a finished stage was computed again")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> SimpleNamespace:
    """A run from beginning to end, and its numbers."""
    run = start(tmp_path_factory.mktemp("whole") / "run")
    return SimpleNamespace(run=run, numbers=run.numbers(), bytes=result_bytes(run))


def test_writes_every_stage(whole):
    written = set(json.loads((whole.run.folder.path / "run.json").read_text())["files"])
    assert written == STAGES | POISONING | {"result.json", "weights_0.005.safetensors"}
    assert json.loads(whole.bytes) == whole.numbers


def test_the_net_sits_on_its_solution_set(whole):
    setup = whole.numbers["setup"]
    assert setup["largest_fit_error"] <= 1e-13
    assert setup["gradient_norm"] <= 1e-13
    assert setup["optimality"] == "interpolating"
    assert (setup["rank"], setup["dimension"]) == (100, 64 * 32 + 32 * 16 + 16 * 10 - 100)


def test_moves_each_point_by_the_stated_share_of_its_norm(whole):
    run = whole.run
    torch.testing.assert_close(
        run.dx(0.005).norm(dim=1), 0.005 * run.train.inputs[run.moved].norm(dim=1), rtol=1e-12, atol=0
    )


def test_an_interrupted_run_resumes_to_the_same_bytes(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(DigitsRun, "_race", interrupt)  # in the last stage
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "run").numbers()
    assert not (tmp_path / "run" / "result.json").exists()
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == STAGES - {
        "warm_retraining.json",
        "modulus.json",
        "large.json",
    } | {
        "run.json",
        "weights_0.005.safetensors",
    }
    for name in ("fit_exactly", "training_stability", "LevenbergMarquardt"):
        monkeypatch.setattr(digits, name, fail)
    resumed = start(tmp_path / "run", on_existing="resume")
    resumed.numbers()
    assert result_bytes(resumed) == whole.bytes


def test_an_interrupt_before_the_first_stage_leaves_a_folder_that_resumes(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(digits, "fit_exactly", interrupt)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "run")
    assert {entry.name for entry in (tmp_path / "run").iterdir()} <= {"run.json"}
    resumed = start(tmp_path / "run", on_existing="resume")
    assert torch.equal(resumed.problem.weights(), whole.run.problem.weights())
    assert resumed.moved == whole.run.moved


def test_a_finished_run_is_read_back_and_not_computed(whole, monkeypatch):
    for name in ("fit_exactly", "training_stability", "retrain", "GaussNewton"):
        monkeypatch.setattr(digits, name, fail)
    assert start(whole.run.folder.path, on_existing="resume").numbers() == whole.numbers


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(whole, tmp_path):
    again = start(tmp_path / "run")
    again.numbers()
    assert result_bytes(again) == whole.bytes


def test_another_seed_gives_another_net(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "fit_exactly", lambda *_args, **_options: 0.0)
    one, same, other = (
        start(tmp_path / name, dataclasses.replace(TINY, seed=seed))
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    )
    first, again, changed = (
        nn.utils.parameters_to_vector(run.model.parameters()) for run in (one, same, other)
    )
    assert torch.equal(first, again)
    assert torch.equal(one.directions, same.directions)
    assert not torch.equal(first, changed)
    assert not torch.equal(one.random, other.random)


@pytest.mark.slow
def test_another_seed_gives_another_result(whole, tmp_path):
    other = start(tmp_path / "run", dataclasses.replace(TINY, seed=1))
    assert other.numbers()["sizes"] != whole.numbers["sizes"]


def test_other_settings_are_not_resumed(whole):
    with pytest.raises(
        ValueError,
        match=r"`settings` must be those of the run to resume; got .* differ in seed \(now 1, was",
    ):
        start(whole.run.folder.path, dataclasses.replace(TINY, seed=1), "resume")
    assert result_bytes(whole.run) == whole.bytes


@pytest.mark.filterwarnings("ignore:the weights are not stationary")
def test_the_page_says_when_the_net_was_not_fitted(whole, tmp_path, monkeypatch):
    # Then the map is stationary, and on a larger net no solver sees the rank.
    setup = {**whole.numbers["setup"], "largest_fit_error": 0.3, "rank": None, "dimension": None}
    numbers = {
        **whole.numbers,
        "modulus": {},
        "large": {},
        "setup": {**setup, "qualification": "no rank was verified"},
    }
    del numbers["poisoning"]  # it would linearise the net that is not fitted
    monkeypatch.setattr(digits, "fit_exactly", lambda *_args, **_options: 0.3)
    run = start(tmp_path / "run")
    monkeypatch.setattr(run, "numbers", lambda: numbers)
    text = digits_experiment(run).read_text(encoding="utf-8")
    assert "The network was fitted only to 3.0e-01." in text
    assert "The dimension of the solution set is not known: no rank was verified." in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"moved": 0}, r"`moved` must be from 1 to 10; got 0"),
        ({"moved": 11}, r"`moved` must be from 1 to 10; got 11"),
        ({"nearest_at": (0.1,)}, r"`nearest_at` must be among sizes; got \(0\.1,\)"),
        ({"sizes": (), "nearest_at": ()}, r"`sizes` must be one or more; got \(\)"),
        ({"steps": ()}, r"`steps` must be one or more; got \(\)"),
        ({"samples": 0}, "`samples` must be one or more; got 0"),
    ],
)
def test_impossible_settings_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(TINY, **change)


def test_retraining_at_a_large_step_is_followed_better_than_by_one_linearisation(whole):
    large = whole.numbers["large"]
    assert large["size"] == 0.2
    assert large["rows"]["retraining"]["error"] == 0.0
    assert large["rows"]["followed"]["error"] < large["rows"]["one linearisation"]["error"]
