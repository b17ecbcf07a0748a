"""Designed perturbations on a user's own model: what is loaded, refused, computed, kept and said."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from solset import Move, Problem, SolsetWarning
from solset.goals import HeldOutLoss, WeightFunction
from solset.poisoning import Reason
from solset.reports._poison import CHECKPOINT, PoisonRun
from solset.reports._poison_report import poison_experiment
from solset.reports._poison_task import PoisonSettings, PoisonTask, check_poison_settings, task_of
from solset.reports._report_parts import as_images
from solset.reports._run_folder import RunFolder
from solset.reports._source import returned_by

SOURCE = """
import torch
from torch import nn
from solset import Problem
from solset.goals import HeldOutLoss

def problem():
    x, y = torch.eye(3, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double().eval()
    nn.init.ones_(model.weight)
    return Problem(model, nn.MSELoss(), x, y)

def goal():
    return HeldOutLoss(torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))

def pair():
    return problem(), goal()

def three():
    return problem(), goal(), lambda inputs, targets, seed: problem().weights()

def swapped():
    return goal(), problem()

def fourth():
    return problem(), goal(), 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "attack.py"
    path.write_text(SOURCE)
    return path


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def task() -> PoisonTask:
    """A linear fit with a residual: training from any start ends at the same weights."""
    inputs, targets = draw(8, 4), draw(8, 2, seed=1)
    model = nn.Linear(4, 2, bias=False).double().eval()

    def solved(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (torch.linalg.pinv(x) @ y).T

    with torch.no_grad():
        model.weight.copy_(solved(inputs, targets))
    problem = Problem(model, nn.MSELoss(), inputs, targets)
    goal = HeldOutLoss(draw(5, 4, seed=2), draw(5, 2, seed=3))
    return PoisonTask(problem, goal, lambda x, y, _: solved(x, y).reshape(-1))


SETTINGS = PoisonSettings(
    "attack.py:three", points=(2, 5), radius=0.1, training=0, rounds=4, random=3, seeds=(1,), image=(2, 2)
)


def run(tmp_path: Path, settings: PoisonSettings = SETTINGS, on_existing="refuse") -> PoisonRun:
    folder = RunFolder.open(tmp_path / "run", settings={"radius": settings.radius}, on_existing=on_existing)
    return PoisonRun(task(), settings, folder, progress=False)


class TestLoading:
    def test_takes_a_pair_or_three(self, file):
        assert task_of(returned_by(f"{file}:pair")).train is None
        assert task_of(returned_by(f"{file}:three")).train is not None

    @pytest.mark.parametrize(
        ("name", "got"),
        [("problem", r"\(Problem\)"), ("swapped", r"\(HeldOutLoss, Problem\)"), ("fourth", "int")],
    )
    def test_says_what_came_instead(self, file, name, got):
        with pytest.raises(TypeError, match=rf"returns \(problem, goal\) or .*; got .*{got}"):
            task_of(returned_by(f"{file}:{name}"))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, dict, bytes]:
    """One run, its numbers and its page."""
    made = run(tmp_path_factory.mktemp("poison"))
    page = poison_experiment(made)
    return page, json.loads((page.parent / "result.json").read_text()), page.read_bytes()


class TestRun:
    def test_the_effect_is_predicted_and_confirmed_by_every_retraining(self, done):
        _, result, _ = done
        assert result["judgement"]["is_confirmed"]
        first = result["gain"][0]
        assert first["name"] == "Newton's method"
        # One solution whatever the start: all retrainings agree, with each other and with the prediction.
        for row in result["gain"]:
            assert row["change"] == pytest.approx(first["predicted_change"], rel=1e-4)
            assert row["change"] > row["random_best"]
            assert row["is_success"]
        assert {row["name"] for row in result["gain"]} >= {"from scratch, seed 1"}

    def test_ranks_all_points_to_guard(self, done):
        _, result, _ = done
        assert sorted(row["point"] for row in result["guard"]) == list(range(8))
        effects = [row["effect"] for row in result["guard"]]
        assert effects == sorted(effects, reverse=True)
        assert [row["point"] for row in result["guard"] if row["may_move"]] != []

    def test_writes_page_tables_tensors_and_figures(self, done):
        page, _, content = done
        names = {entry.name for entry in page.parent.iterdir()}
        assert {CHECKPOINT, "perturbation.safetensors", "retraining.csv", "guard.csv", "points.png"} <= names
        text = content.decode()
        for words in (
            "Predicted against actual effect",
            "Which points to guard",
            "The course of the ascent",
            "The perturbation is within the budget and the valid features",
        ):
            assert words in text
        assert "Not confirmed" not in text

    def test_the_same_run_writes_the_same_page_and_resumes_without_computing(
        self, done, tmp_path, monkeypatch
    ):
        _, _, content = done
        assert poison_experiment(run(tmp_path)).read_bytes() == content
        monkeypatch.setattr("solset.poisoning._judgement.judge_poisoning", None)
        monkeypatch.setattr("solset.poisoning._adjoint.adjoint_gradient", None)
        assert poison_experiment(run(tmp_path, on_existing="resume")).read_bytes() == content

    def test_what_retraining_does_not_confirm_is_named(self, tmp_path):
        fails = task()
        stubborn = PoisonTask(fails.problem, fails.goal, lambda *_: fails.problem.weights())
        folder = RunFolder.open(tmp_path / "run", settings={}, on_existing="refuse")
        page = poison_experiment(PoisonRun(stubborn, SETTINGS, folder, progress=False)).read_text()
        assert "Not confirmed by from scratch, seed 1: no success is claimed there." in page

    def test_counting_on_gradient_descent(self, tmp_path):
        settings = PoisonSettings("a.py:b", points=(2, 5), radius=0.1, training=30, rounds=2, random=0)
        result = run(tmp_path, settings).numbers()
        first = result["gain"][0]
        assert first["name"] == "30 steps of gradient descent"
        assert first["change"] == pytest.approx(first["predicted_change"], rel=1e-6)
        assert (first["random_mean"], first["times_chance"]) == (None, None)


def test_a_retraining_that_diverges_is_told_and_is_no_success(tmp_path):
    settings = PoisonSettings(
        "a.py:b", points=(2, 5), radius=0.1, training=300, learning_rate=5.0, rounds=2, random=2
    )
    with pytest.warns(SolsetWarning, match="diverges"):
        page = poison_experiment(run(tmp_path, settings))
    content = page.read_bytes()
    assert b"Training diverged by 300 steps of gradient descent" in content
    result = json.loads((page.parent / "result.json").read_text())
    first, second = result["gain"]
    assert (first["change"], first["is_success"], first["times_chance"]) == ("NaN", False, "NaN")
    assert not result["judgement"]["is_confirmed"]
    assert isinstance(second["change"], float)
    assert result["design"]["reason"] == Reason.NOT_FINITE.value
    assert poison_experiment(run(tmp_path, settings, on_existing="resume")).read_bytes() == content


def test_training_that_had_not_stopped_is_told(tmp_path):
    whole = task()
    still = whole.problem
    off = still.moved_to(Move(None, torch.zeros(8, 4).double()), still.weights() + 0.2 * draw(8, seed=9))
    folder = RunFolder.open(tmp_path / "run", settings={}, on_existing="refuse")
    settings = PoisonSettings("a.py:b", points=(2, 5), radius=0.1, training=30, rounds=2, random=0)
    made = PoisonRun(PoisonTask(off, whole.goal), settings, folder, progress=False)
    with pytest.warns(SolsetWarning, match="training had not stopped"):
        page = poison_experiment(made).read_text()
    assert "Training had not stopped: on data that did not move the goal goes from" in page
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    design, first = result["design"], result["gain"][0]
    assert design["drift"] > 0.1
    assert abs(design["clean"] - design["trained"]) > 0.1 * abs(first["change"])
    assert first["predicted_change"] == pytest.approx(first["change"], rel=1e-9)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"points": (9,)}, r"`points` must be in 0\.\.7; got \[9\]"),
        ({"lower": 50.0, "upper": 60.0}, "an empty feasible set"),
        ({"lower": -0.5, "upper": 0.5, "radius": 99.0}, "a box of valid features that holds the points"),
        ({"image": (3, 3)}, "`image` must be of 4 pixels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, says):
    settings = PoisonSettings(**{"source": "a.py:b", "points": (0,), "radius": 1.0, **options})
    with pytest.raises(ValueError, match=says):
        check_poison_settings(task(), settings)


def test_seeds_need_a_trainer_and_goals_must_be_differentiable():
    whole, settings = task(), PoisonSettings("a.py:b", points=(0,), radius=1.0, seeds=(1,))
    with pytest.raises(ValueError, match=r"returns \(problem, goal, train\) where seeds are given"):
        check_poison_settings(PoisonTask(whole.problem, whole.goal), settings)
    flat = PoisonTask(whole.problem, WeightFunction(lambda w: w.detach().sum()), whole.train)
    with pytest.raises(ValueError, match="`goal` must be differentiable in the weights"):
        check_poison_settings(flat, settings)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"radius": 0.0}, "`radius` must be positive and finite; got 0.0"),
        ({"training": -1}, "`training` must be at least 0; got -1"),
        ({"random": -1}, "`random` must be at least 0; got -1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive and finite; got 0.0"),
    ],
)
def test_impossible_settings_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        PoisonSettings(**{"source": "a.py:b", "points": (0,), "radius": 1.0, **options})


def test_points_are_shown_as_the_images_they_are():
    assert as_images(draw(2, 6), (2, 3)).shape == (2, 2, 3)
    assert as_images(draw(2, 4, 5), None).shape == (2, 4, 5)
    assert as_images(draw(2, 1, 4, 5), None).shape == (2, 4, 5)
    assert as_images(draw(2, 3, 4, 5), None).shape == (2, 4, 5, 3)
    assert as_images(draw(2, 6), None) is None
