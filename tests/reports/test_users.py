"""The main job on a user's own problem: what is loaded, refused, computed and kept."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from solset import Problem
from solset.reports._run_folder import RunFolder
from solset.reports._source import load_problem
from solset.reports._users_report import UserSettings, run_user_problem, user_experiment

SOURCE = """
import torch
from torch import nn
from solset import Problem

def build():
    x, y = torch.eye(3, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double().eval()
    nn.init.ones_(model.weight)
    return Problem(model, nn.MSELoss(), x, y)

def fails():
    raise RuntimeError("no data\\nat all")

def leaves():
    raise SystemExit(7)

def wants(what):
    return what

def other():
    return 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """A user's file; the paths that Python searches are put back after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def regression() -> Problem:
    """A least-squares fit of one weight per input, with a residual."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    targets = torch.randn(6, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(2, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_((torch.linalg.pinv(inputs) @ targets).T)
    return Problem(model, nn.MSELoss(), inputs, targets)


SETTINGS = UserSettings("mine.py:build", points=(4, 1), sizes=(0.02, 0.01), samples=3)


def opened(path: Path, settings: UserSettings = SETTINGS, on_existing="refuse") -> RunFolder:
    return RunFolder.open(path, settings=dataclasses.asdict(settings), on_existing=on_existing)


class TestLoading:
    def test_calls_the_function(self, file):
        problem = load_problem(f"{file}:build")
        assert torch.equal(problem.weights(), torch.ones(3, dtype=torch.float64))

    @pytest.mark.parametrize(
        ("name", "error", "says"),
        [
            (
                "fails",
                ValueError,
                r"fails\(\) that run; got RuntimeError: no data at all\. Call it by itself",
            ),
            ("leaves", ValueError, r"leaves\(\) that run; got SystemExit: 7\."),
            ("wants", ValueError, r"got TypeError: wants\(\) missing 1 required positional argument"),
            ("other", TypeError, r"a function that returns a Problem; got int\. Return one\."),
            ("nobody", ValueError, r"a function nobody in mine\.py; got none\. Check the name\."),
        ],
    )
    def test_says_what_is_wrong_with_the_function(self, file, name, error, says):
        with pytest.raises(error, match=says) as caught:
            load_problem(f"{file}:{name}")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("source", ["absent.py:build", "mine.py", "mine:build", ":build", "mine.py:", ""])
    def test_says_how_a_source_is_written(self, file, monkeypatch, source):
        monkeypatch.chdir(file.parent)
        with pytest.raises(ValueError, match="`source` must be FILE.py:FUNCTION with an existing file"):
            load_problem(source)

    def test_a_file_that_does_not_parse(self, file):
        file.write_text("def build(:")
        with pytest.raises(ValueError, match="got SyntaxError: invalid syntax"):
            load_problem(f"{file}:build")

    def test_finds_the_modules_beside_the_file(self, file):
        (file.parent / "beside_mine.py").write_text("from mine_too import *\n" + SOURCE)
        (file.parent / "mine_too.py").write_text("")
        file.write_text("from beside_mine import build")
        assert load_problem(f"{file}:build").point_count == 3

    def test_a_file_named_like_a_module_in_use_replaces_nothing(self, file):
        named = file.with_name("json.py")
        named.write_text(SOURCE)
        load_problem(f"{named}:build")
        assert sys.modules["json"] is json


class TestSettings:
    def test_a_direction_file_is_taken_and_made_unit(self, tmp_path):
        problem, stored = regression(), torch.tensor([[3.0, 4.0], [0.0, -2.0]], dtype=torch.float64)
        save_file({"directions": stored}, tmp_path / "directions.safetensors")
        settings = dataclasses.replace(SETTINGS, direction=str(tmp_path / "directions.safetensors"))
        folder = opened(tmp_path / "run", settings)
        run_user_problem(problem, settings, folder)
        dx = folder.read_tensors("weights_0.01.safetensors")["dx"]
        lengths = problem.risk().points[[4, 1]][0].norm(dim=1, keepdim=True)
        unit = torch.tensor([[0.6, 0.8], [0.0, -1.0]], dtype=torch.float64)
        torch.testing.assert_close(dx, 0.01 * lengths * unit, rtol=1e-14, atol=1e-16)

    @pytest.mark.parametrize(
        ("tensors", "says"),
        [
            (
                {"directions": torch.ones(3, 2)},
                r"key 'directions' of shape \(2, 2\); got \{'directions': \(3, 2\)",
            ),
            ({"moves": torch.ones(2, 2)}, r"key 'directions' of shape \(2, 2\); got \{'moves'"),
            (
                {"directions": torch.zeros(2, 2)},
                "`directions` must be finite and not zero for every moved point",
            ),
            (None, "a safetensors file; got directions.safetensors: "),
        ],
    )
    def test_a_direction_file_that_does_not_fit(self, tmp_path, tensors: dict[str, Tensor] | None, says):
        path = tmp_path / "directions.safetensors"
        path.write_bytes(b"{}") if tensors is None else save_file(tensors, path)
        with pytest.raises(ValueError, match=says):
            dataclasses.replace(SETTINGS, direction=str(path)).check(regression())

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"points": (0, 6)}, r"`points` must be in 0\.\.5; got \[6\]"),
            ({"points": (1, 1)}, r"`points` must be distinct; got \[1\] repeated"),
            ({"direction": "sideways"}, '`direction` must be "gradient", "random" or a safetensors file'),
            ({"optimality": "interpolating"}, '`optimality` must be a fitted problem for "interpolating"'),
            ({"sizes": (0.01, 0.01)}, r"`sizes` must be distinct to six digits; got \(0\.01, 0\.01\)"),
            ({"samples": -1}, "`samples` must be at least 0; got -1"),
        ],
    )
    def test_impossible_settings_are_refused(self, change, says):
        with pytest.raises(ValueError, match=says):
            dataclasses.replace(SETTINGS, **change).check(regression())

    @pytest.mark.parametrize("residual", [0.0, 1e-15])
    def test_the_gradient_of_a_perfect_fit_is_noise_and_is_refused(self, residual):
        model = nn.Linear(2, 1, bias=False).double().eval()
        nn.init.ones_(model.weight)
        inputs = torch.ones(1, 2, dtype=torch.float64)
        problem = Problem(
            model, nn.MSELoss(), inputs, torch.full((1, 1), 2.0 + residual, dtype=torch.float64)
        )
        settings = dataclasses.replace(SETTINGS, points=(0,))
        with pytest.raises(ValueError, match=r"`direction` .*fitted to zero residual: use random directions"):
            settings.check(problem)
        dataclasses.replace(settings, direction="random").check(problem)


class TestRun:
    def test_numbers_are_those_of_the_implicit_function_theorem(self, tmp_path):
        problem, folder = regression(), opened(tmp_path / "run")
        row = run_user_problem(problem, SETTINGS, folder)["sizes"][1]
        stored = folder.read_tensors("weights_0.01.safetensors")
        inputs, targets = problem.risk().points[range(6)]
        moved = inputs.index_add(0, torch.tensor([4, 1]), stored["dx"])
        retrained = (torch.linalg.pinv(moved) @ targets)[:, 0]
        change = stored["estimate"] - stored["trained"]
        assert row["distance"] == pytest.approx(float(change.norm()), rel=1e-12)
        assert row["perturbation"] == pytest.approx(float(stored["dx"].norm()), rel=1e-12)
        # Steps of 1 %: first order leaves about 1 % of the change.
        assert (stored["estimate"] - retrained).norm() <= 0.05 * (retrained - stored["trained"]).norm()
        losses = (moved @ stored["estimate"] - targets[:, 0]) ** 2
        assert row["estimate"]["all"] == pytest.approx(float(losses.mean()), rel=1e-12)
        assert row["estimate"]["moved"] == pytest.approx(float(losses[[4, 1]].mean()), rel=1e-12)

    def test_writes_everything(self, tmp_path):
        folder = opened(tmp_path / "run")
        page = user_experiment(regression(), SETTINGS, folder)
        names = {"result.json", "sizes.csv", "setup.json", "report.html", "losses.png", "losses.svg"}
        names |= {f"size_{size}.json" for size in ("0.01", "0.02")}
        names |= {f"weights_{size}.safetensors" for size in ("0.01", "0.02")}
        assert {entry.name for entry in folder.path.iterdir()} == names | {"run.json"}
        assert load_file(folder.path / "weights_0.01.safetensors")["samples"].shape == (3, 2)
        rows = (folder.path / "sizes.csv").read_text().splitlines()
        assert len(rows) == 3
        assert "step_percent" in rows[0]
        # The steps were asked for in falling order; the page speaks of the largest.
        largest = json.loads((folder.path / "size_0.02.json").read_text())["distance"]
        assert f"{largest:.4g}" in page.read_text(encoding="utf-8").partition("<table")[0]

    def test_twice_is_the_same_to_the_byte(self, tmp_path):
        for name in ("one", "two"):
            user_experiment(regression(), SETTINGS, opened(tmp_path / name))
        one, two = (
            {entry.name: entry.read_bytes() for entry in (tmp_path / name).iterdir()}
            for name in ("one", "two")
        )
        assert one == two

    def test_another_seed_draws_other_samples_from_the_same_set(self, tmp_path):
        generator = torch.Generator().manual_seed(2)
        inputs = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        model = nn.Linear(5, 1, bias=False).double().eval()
        nn.init.ones_(model.weight)
        problem = Problem(model, nn.MSELoss(), inputs, inputs.sum(1, keepdim=True))
        save_file({"directions": inputs.flip(0).contiguous()}, tmp_path / "directions.safetensors")
        found = []
        for seed in (0, 1):
            stored = str(tmp_path / "directions.safetensors")
            settings = UserSettings("", points=(0, 1), direction=stored, seed=seed)
            folder = opened(tmp_path / str(seed), settings)
            run_user_problem(problem, settings, folder)
            found.append(folder.read_tensors("weights_0.01.safetensors"))
        assert torch.equal(found[0]["estimate"], found[1]["estimate"])
        assert not torch.equal(found[0]["samples"], found[1]["samples"])

    def test_without_samples(self, tmp_path):
        settings = dataclasses.replace(SETTINGS, samples=0)
        folder = opened(tmp_path / "run", settings)
        row = run_user_problem(regression(), settings, folder)["sizes"][0]
        assert row["sampled_distance"] is None
        assert "samples" not in folder.read_tensors("weights_0.02.safetensors")

    def test_does_not_change_the_model(self, tmp_path):
        problem = regression()
        before = problem.risk().model.weight.detach().clone()
        run_user_problem(problem, SETTINGS, opened(tmp_path / "run"))
        assert torch.equal(problem.risk().model.weight, before)
        assert problem.risk().model.weight.grad is None
