"""Whole points that change, from the command line: against closed forms, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from solset import Problem
from solset.reports._changes import PointSettings
from solset.reports._options import indices
from solset.reports._source import load_problem

DECAY = 0.1


def solution(x: Tensor, y: Tensor, factors: Tensor | None = None) -> Tensor:
    """The weights of the ridge regression of the user's file ``decayed``."""
    c = torch.ones(len(x), dtype=x.dtype) if factors is None else factors
    matrix = 2 / c.sum() * (c.unsqueeze(1) * x).T @ x + DECAY * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(matrix, 2 / c.sum() * (c.unsqueeze(1) * x).T @ y).flatten()


def data(folder: Path) -> tuple[Problem, Tensor, Tensor]:
    problem = load_problem(f"{folder / 'mine.py'}:decayed")
    return problem, *problem.risk().points[range(6)]


def new(folder: Path) -> tuple[Tensor, Tensor]:
    x, y = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[1.0], [2.0]])
    np.savez(folder / "new.npz", x=x, y=y)
    return torch.as_tensor(x), torch.as_tensor(y)


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_ranges_name_every_point() -> None:
    assert indices("--points", "0-2,9, 4 - 4") == (0, 1, 2, 9, 4)


def test_a_run_without_points_is_the_solution_without_them(solset, tmp_path) -> None:
    assert solset("run", "mine.py:decayed", "--remove", "1,3-4", "--out", "run").code == 0
    _, x, y = data(tmp_path)
    stored = load_file(tmp_path / "run" / "weights.safetensors")
    expected = solution(x[[0, 2, 5]], y[[0, 2, 5]])
    torch.testing.assert_close(stored["after"], expected, rtol=1e-9, atol=1e-12)
    far = float((expected - stored["trained"]).norm())
    assert f"With points 1, 3 and 4 left out, the nearest solution moves the weights by {far:.3g}" in page(
        tmp_path / "run"
    )
    with (tmp_path / "run" / "losses.csv").open() as file:
        rows = {row["group"]: row for row in csv.DictReader(file)}
    gone = (x[[1, 3, 4]] @ expected - y[[1, 3, 4]].flatten()).square().mean()
    assert float(rows["left out"]["after"]) == pytest.approx(float(gone))
    assert rows["as they were"]["count"] == "3"


def test_a_run_with_everything_at_once_is_the_solution_of_the_changed_data(solset, tmp_path) -> None:
    more_x, more_y = new(tmp_path)
    options = ["--remove", "3", "--relabel", "5=2", "--add", "new.npz", "--reweight", "0=0"]
    assert solset("run", "mine.py:decayed", *options, "--out", "run").code == 0
    _, x, y = data(tmp_path)
    y[5] = 2.0
    stays = [1, 2, 4, 5]
    expected = solution(torch.cat([x[stays], more_x]), torch.cat([y[stays], more_y]))
    stored = load_file(tmp_path / "run" / "weights.safetensors")
    torch.testing.assert_close(stored["after"], expected, rtol=1e-9, atol=1e-12)
    result = json.loads((tmp_path / "run" / "change.json").read_text())
    assert [row["group"] for row in result["groups"]][:2] == ["left out", "relabelled"]
    assert result["status"] == "converged"


def test_a_path_ends_at_the_solution_of_the_changed_data(solset, tmp_path) -> None:
    more_x, more_y = new(tmp_path)
    save_file({"x": more_x, "y": more_y}, tmp_path / "new.safetensors")
    options = ["--reweight", "0-1=0.5", "--add", "new.safetensors", "--out", "way"]
    assert solset("path", "mine.py:decayed", *options).code == 0
    _, x, y = data(tmp_path)
    factors = torch.tensor([0.5, 0.5, 1, 1, 1, 1, 1, 1], dtype=x.dtype)
    expected = solution(torch.cat([x, more_x]), torch.cat([y, more_y]), factors)
    stored = load_file(tmp_path / "way" / "weights.safetensors")
    torch.testing.assert_close(stored["after"], expected, rtol=1e-5, atol=1e-7)
    assert "With points 0 and 1 counted with the weight 0.5 and the points of new.safetensors added" in page(
        tmp_path / "way"
    )
    last = json.loads((tmp_path / "way" / "change.json").read_text())["stations"][-1]
    concerned = (x[:2] @ stored["after"] - y[:2].flatten()).square().mean()
    assert last["moved_loss"] == pytest.approx(float(concerned))  # whatever the points count


@pytest.mark.slow
def test_settings_repeat_a_run_of_whole_points(solset, tmp_path) -> None:
    new(tmp_path)
    options = ["--remove", "1-2", "--relabel", "4=2", "--add", "new.npz"]
    assert solset("run", "mine.py:decayed", *options, "--out", "first").code == 0
    assert solset("run", "first/settings.toml", "--out", "second").code == 0
    for name in ("change.json", "report.html"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "`--points` must be given, or one of --remove, --relabel, --reweight and --add"),
        (["--points", "0", "--remove", "1"], "got both"),
        (["--remove", "0-5"], "`points` must be fewer than all points"),
        (["--remove", "5-0"], "`--remove` must be indices such as 0,3,7 or 0-5,9; got '5-0'"),
        (["--remove", "1,1"], "distinct"),
        (["--remove", "9"], "in 0..5"),
        (["--relabel", "5"], "`--relabel` must be indices with a number, such as 5=2,6-8=0; got '5'"),
        (["--relabel", "5=cat"], "indices with a number"),
        (["--reweight", "5=-1"], "finite and at least -1"),
        (["--remove", "3", "--relabel", "3=1"], "in one way"),
        (["--add", "absent.npz"], "an existing .npz or .safetensors file; got 'absent.npz'"),
        (["--add", "wrong.npz"], "arrays x and y; got ['z'] in wrong.npz"),
        (["--add", "narrow.npz"], "x of shape (k, 2) and k targets y; got (2, 1) and (2, 1)"),
        (["--add", "mine.py"], "an existing .npz or .safetensors file"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(solset, tmp_path, options, says) -> None:
    np.savez(tmp_path / "wrong.npz", z=np.ones(2))
    np.savez(tmp_path / "narrow.npz", x=np.ones((2, 1)), y=np.ones((2, 1)))
    ended = solset("run", "mine.py:decayed", *options, "--out", "run")
    assert ended.code == 2
    assert says in ended.error
    assert not (tmp_path / "run").exists()


def test_class_labels_are_whole_numbers() -> None:
    model, x = torch.nn.Linear(2, 3).double().eval(), torch.eye(2, dtype=torch.float64).repeat(3, 1)
    loss, labels = torch.nn.CrossEntropyLoss(), torch.tensor([0, 1, 2, 0, 1, 2])
    problem = Problem(model, loss, x, labels, gradient_tol=10.0)
    with pytest.raises(ValueError, match="class labels"):
        PointSettings("mine.py:build", relabel=("5=0.5",)).point_changes(problem)
    change = PointSettings("mine.py:build", relabel=("0-1=2",)).point_changes(problem).whole
    assert repr(change) == "Relabel(points 0, 1; to 2, 2)"


@pytest.mark.parametrize("kind", ["relabel", pytest.param("reweight", marks=pytest.mark.slow), "remove"])
def test_an_audit_of_another_change_says_what_moves(solset, tmp_path, kind: str) -> None:
    assert solset("audit", "mine.py:decayed", "--change", kind, "--out", "audit").code == 0
    result = json.loads((tmp_path / "audit" / "result.json").read_text())
    assert len(result["ranking"]) == 6
    assert f"Point {result['ranking'][0]['point']} moves it most" in page(tmp_path / "audit")


def test_an_audit_of_candidates_ranks_them(solset, tmp_path) -> None:
    more_x, more_y = new(tmp_path)
    assert solset("audit", "mine.py:decayed", "--add", "new.npz", "--out", "audit").code == 0
    problem, x, y = data(tmp_path)
    far = [
        float(
            (
                solution(torch.cat([x, more_x[k : k + 1]]), torch.cat([y, more_y[k : k + 1]]))
                - problem.weights()
            ).norm()
        )
        for k in range(2)
    ]
    ranking = json.loads((tmp_path / "audit" / "result.json").read_text())["ranking"]
    assert {row["point"]: row["modulus"] for row in ranking} == pytest.approx(dict(enumerate(far)))
    assert f"Candidate {int(np.argmax(far))} moves it most" in page(tmp_path / "audit")
    refused = solset("audit", "mine.py:decayed", "--add", "new.npz", "--points", "0", "--out", "other")
    assert "given without --points and --change" in refused.error
