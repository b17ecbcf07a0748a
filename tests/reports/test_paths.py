"""Paths of a user's own problem: what is computed, kept and shown, and what is said of a path that stops."""

import dataclasses
import json
import re

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from solset import Move, Problem, SolsetWarning, follow_path
from solset.reports._directions import random_directions, step_of
from solset.reports._moves import ChangeSettings
from solset.reports._options import settings_from
from solset.reports._paths_report import PathSettings, path_experiment, run_paths
from solset.reports._run_folder import RunFolder
from solset.retraining import LevenbergMarquardt

pytestmark = [
    pytest.mark.filterwarnings("ignore:the path ended early"),
    pytest.mark.filterwarnings("ignore:the retraining"),
    pytest.mark.filterwarnings("ignore:training ended with status"),
]

SETTINGS = PathSettings("mine.py:build", points=(4, 1), direction="random", sizes=(0.02, 0.1))


class Curve(nn.Module):
    """``x + w²``: the solutions of ``x + w² = 2`` fold at ``x = 2``."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs() + self.w.square()


def opened(path, settings=SETTINGS, on_existing="refuse") -> RunFolder:
    return RunFolder.open(path, settings=dataclasses.asdict(settings), on_existing=on_existing)


def test_every_size_is_a_path_of_its_own(fitted, tmp_path):
    problem = fitted.problem()
    result = run_paths(problem, SETTINGS, opened(tmp_path))
    inputs, _ = problem.risk().points[[4, 1]]
    unit = random_directions(inputs.shape, inputs, torch.Generator().manual_seed(0))
    for size, row in zip(SETTINGS.sizes, result["paths"], strict=True):
        course = follow_path(problem, Move([4, 1], step_of(inputs, unit, size)))
        assert row["is_complete"]
        assert row["message"] == course.message
        assert row["distance"] == float(course.change.norm())
        assert [s["place"] for s in row["stations"]] == [s.place for s in course.stations]
        kept = load_file(tmp_path / f"weights_{size:g}.safetensors")
        assert torch.equal(kept["end"], course.weights)
        assert torch.equal(kept["trained"], problem.weights())
    assert json.loads((tmp_path / "result.json").read_text())["paths"][0]["size"] == 0.02


def test_the_page_names_the_nearest_and_shows_every_path(fitted, tmp_path):
    settings = dataclasses.replace(SETTINGS, nearest=True)
    page = path_experiment(fitted.problem(), settings, opened(tmp_path, settings)).read_text(encoding="utf-8")
    assert page.count("<img") == 2
    assert "reached the end" in page
    assert "was not completed" not in page
    rows = json.loads((tmp_path / "result.json").read_text())["paths"]
    assert all(row["nearest"]["distance"] <= row["distance"] * (1 + 1e-9) for row in rows)


def test_a_path_that_folds_says_so_on_the_page(tmp_path):
    inputs = torch.ones(1, 1, dtype=torch.float64)
    problem = Problem(Curve().eval(), nn.MSELoss(), inputs, 2 * inputs)
    settings = PathSettings("mine.py:build", points=(0,), direction="random", sizes=(3.0,))
    page = path_experiment(problem, settings, opened(tmp_path, settings)).read_text(encoding="utf-8")
    (row,) = json.loads((tmp_path / "result.json").read_text())["paths"]
    assert row["reason"] == "fold"
    assert re.search(r"The path to 300 % was not completed: fold at τ = 0\.\d+", page)


def test_the_nearest_to_a_path_that_stops_is_for_the_data_that_it_reached(tmp_path):
    inputs = torch.ones(1, 1, dtype=torch.float64)
    problem = Problem(Curve().eval(), nn.MSELoss(), inputs, 2 * inputs)
    settings = PathSettings("mine.py:build", points=(0,), direction="random", sizes=(3.0,), nearest=True)
    page = path_experiment(problem, settings, opened(tmp_path, settings)).read_text(encoding="utf-8")
    (row,) = json.loads((tmp_path / "result.json").read_text())["paths"]
    kept = load_file(tmp_path / "weights_3.safetensors")
    reached = problem.risk().move([0], row["place"] * kept["dx"])
    off = reached.at(kept["nearest"]).outputs() - problem.risk().outputs()
    assert row["nearest"]["residual"] == float(off.abs().max()) <= 1e-9
    assert row["nearest"]["status"] == "converged"
    assert "nearest: status" in page


def test_a_nearest_solution_that_is_not_found_is_called_so(fitted, tmp_path, monkeypatch):
    from solset.paths import _follow as follow

    monkeypatch.setattr(follow, "LevenbergMarquardt", lambda **_: LevenbergMarquardt(max_steps=0))
    settings = dataclasses.replace(SETTINGS, nearest=True)
    with pytest.warns(SolsetWarning, match="training ended with status 'max_steps'"):
        page = path_experiment(fitted.problem(), settings, opened(tmp_path, settings)).read_text("utf-8")
    assert "The path to 10 %: the search for the nearest solution ended with max_steps, at a resid" in page


def test_resuming_computes_nothing_again(fitted, tmp_path, monkeypatch):
    from solset.reports import _paths_report as paths

    path_experiment(fitted.problem(), SETTINGS, opened(tmp_path))
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    monkeypatch.setattr(paths, "follow_path", None)
    path_experiment(fitted.problem(), SETTINGS, opened(tmp_path, on_existing="resume"))
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sizes": (0.1, 0.1)}, "distinct"),
        ({"max_error": 0.0}, "max_error"),
        ({"optimality": "gauss_newton"}, "optimality"),
    ],
)
def test_bad_settings_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        settings_from(PathSettings, {**dataclasses.asdict(SETTINGS), **options})


def test_a_direction_that_cannot_be_had_is_refused_first(fitted):
    with pytest.raises(ValueError, match="fitted to zero residual"):
        dataclasses.replace(SETTINGS, direction="gradient").check(fitted.problem())


def test_a_problem_without_a_path_is_refused_first(build_case):
    problem = build_case("tanh-ce-mean").problem()
    ChangeSettings.check(SETTINGS, problem)
    with pytest.raises(ValueError, match="weight decay"):
        SETTINGS.check(problem)
