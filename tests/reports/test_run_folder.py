"""The run folder: nothing half-written, nothing of anybody else's touched."""

import csv
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from solset import SolsetWarning
from solset.plotting import scatter_agreement
from solset.reports._records import csv_bytes, json_bytes
from solset.reports._run_folder import RunFolder
from solset.storage import _seal

SETTINGS = {"seed": 0, "steps": (0.1, 0.5), "tol": 1e-8}


def open_run(path, on_existing="refuse", **changes) -> RunFolder:
    return RunFolder.open(path / "run", settings=SETTINGS | changes, on_existing=on_existing)


def test_opening_states_settings_and_versions(tmp_path):
    run = open_run(tmp_path / "made" / "on the way")
    stated = json.loads((run.path / "run.json").read_text())
    assert stated["settings"] == {"seed": 0, "steps": [0.1, 0.5], "tol": 1e-8} == run.settings
    assert set(stated["versions"]) == {"solset", "torch", "numpy", "scipy", "python", "platform"}
    assert stated["versions"]["numpy"] == np.__version__


def test_an_earlier_run_is_refused_with_the_way_on(tmp_path):
    open_run(tmp_path)
    with pytest.raises(ValueError, match=r"earlier run.*--resume.*--overwrite"):
        open_run(tmp_path)


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    assert open_run(tmp_path).settings["seed"] == 0


@pytest.mark.parametrize("on_existing", ["refuse", "resume", "overwrite"])
@pytest.mark.parametrize("content", [b"", b"not json", b'{"name": "of another tool"}', b"[1]"])
def test_a_foreign_folder_is_left_alone(tmp_path, on_existing, content):
    foreign = tmp_path / "run"
    foreign.mkdir()
    (foreign / "run.json").write_bytes(content)
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="files come from elsewhere"):
        open_run(tmp_path, on_existing)
    assert (foreign / "thesis.txt").read_text() == "years of work"
    assert (foreign / "run.json").read_bytes() == content


def test_overwrite_deletes_what_the_run_wrote_and_nothing_else(tmp_path):
    earlier = open_run(tmp_path)
    earlier.write_json("losses.json", [1])
    (earlier.path / "thesis.txt").write_text("years of work")
    later = open_run(tmp_path, "overwrite", seed=1)
    assert sorted(entry.name for entry in later.path.iterdir()) == ["run.json", "thesis.txt"]
    assert json.loads((later.path / "run.json").read_text())["settings"]["seed"] == 1


def test_a_marker_that_lists_names_outside_deletes_nothing(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("years of work")
    run = open_run(tmp_path)
    stated = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(stated | {"files": {"../outside.txt": None}}))
    with pytest.raises(ValueError, match=r"run\.json is damaged or was changed.*--overwrite"):
        open_run(tmp_path, "resume")
    open_run(tmp_path, "overwrite")
    assert outside.read_text() == "years of work"


def test_a_reserved_file_is_the_runs_own(tmp_path):
    run = open_run(tmp_path)
    path = run.reserve("rows.json")
    assert path == run.path / "rows.json"
    assert not path.exists()
    assert not run.has("rows.json")
    assert json.loads((run.path / "run.json").read_text())["files"] == {"rows.json": None}
    path.write_text("[1]")
    assert not run.has("rows.json"), "what is in it, only its reader knows"
    assert run.reserve("rows.json") == path
    assert path.read_text() == "[1]"


def test_a_reserved_file_survives_resuming_and_not_overwriting(tmp_path):
    path = open_run(tmp_path).reserve("rows.json")
    path.write_text("[1]")
    resumed = open_run(tmp_path, "resume")
    assert resumed.reserve("rows.json").read_text() == "[1]"
    later = open_run(tmp_path, "overwrite")
    assert not path.exists()
    assert not later.has("rows.json")


def test_a_reservation_without_a_file_does_not_stop_overwriting(tmp_path):
    open_run(tmp_path).reserve("rows.json")
    later = open_run(tmp_path, "overwrite")
    assert json.loads((later.path / "run.json").read_text())["files"] == {}


def test_a_file_of_somebody_else_is_not_reserved(tmp_path):
    run = open_run(tmp_path)
    (run.path / "rows.json").write_text("mine")
    with pytest.raises(ValueError, match=r"'rows\.json', which is already in"):
        run.reserve("rows.json")
    assert json.loads((run.path / "run.json").read_text())["files"] == {}
    open_run(tmp_path, "overwrite")
    assert (run.path / "rows.json").read_text() == "mine"


@pytest.mark.parametrize("name", ["../a.json", "a/b.json", "a\\b.json", ".a.json", "", "/a.json", "run.json"])
def test_a_reservation_stays_inside_and_off_the_marker(tmp_path, name):
    run = open_run(tmp_path)
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(ValueError, match="`name` must be"):
        run.reserve(name)
    assert (run.path / "run.json").read_bytes() == before


def test_a_file_of_somebody_else_is_never_replaced(tmp_path):
    run = open_run(tmp_path)
    (run.path / "losses.json").write_text("mine")
    with pytest.raises(ValueError, match="already in"):
        run.write_json("losses.json", [1])
    assert (run.path / "losses.json").read_text() == "mine"
    assert not run.has("losses.json")


def test_resume_keeps_results_and_refuses_other_settings(tmp_path):
    open_run(tmp_path).write_json("losses.json", [1])
    resumed = open_run(tmp_path, "resume")
    assert resumed.has("losses.json")
    assert resumed.read_json("losses.json") == [1]
    with pytest.raises(
        ValueError, match=r"in extra \(now true, was absent\), seed \(now 1, was 0\)\."
    ) as error:
        open_run(tmp_path, "resume", seed=1, extra=True)
    assert "tol" not in str(error.value)
    assert resumed.read_json("losses.json") == [1]


def test_resume_of_nothing_starts_a_run(tmp_path):
    assert open_run(tmp_path, "resume").write_json("a.json", 1).exists()


def test_resume_under_other_versions_warns(tmp_path, monkeypatch):
    first = open_run(tmp_path)
    monkeypatch.setattr(_seal, "package_versions", lambda: dict(first.versions) | {"torch": "9.9"})
    with pytest.warns(SolsetWarning, match=r'torch \(now "9.9", was'):
        resumed = open_run(tmp_path, "resume")
    assert resumed.versions == first.versions


def test_a_folder_that_cannot_be_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match=r"`path` must be a folder that can be written to.*Not a directory"):
        open_run(tmp_path / "file")
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(ValueError, match="`path` must be a folder that can be written to"):
        open_run(tmp_path)


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises((ValueError, TypeError), match="on_existing"):
        open_run(tmp_path, "perhaps")


def failing_fsync(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_failing_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    run = open_run(tmp_path)
    target = run.write_json("losses.json", [1])
    before = sorted(run.path.iterdir())
    stated = (run.path / "run.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_fsync)
        with pytest.raises(OSError, match="No space left"):
            run.write_json("losses.json", [2])
    assert json.loads(target.read_text()) == [1]
    assert (run.path / "run.json").read_bytes() == stated
    assert run.has("losses.json")
    assert sorted(run.path.iterdir()) == before
    with pytest.raises(TypeError, match="`value` must be"):
        run.write_json("losses.json", object())
    assert run.read_json("losses.json") == [1]


def test_the_data_are_on_the_disk_before_they_are_in_place(tmp_path, monkeypatch):
    run = open_run(tmp_path)
    run.write_json("a.json", 1)
    events = []
    monkeypatch.setattr(os, "fsync", lambda _: events.append("fsync"))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("replace"), replace(self, to))[1])
    run.write_json("a.json", 2)
    assert events == 3 * ["fsync", "replace", "fsync"], "content, name, folder: run.json, the file, run.json"


def test_what_a_killed_process_leaves_is_cleared(tmp_path):
    (tmp_path / "run").mkdir()
    leftover = tmp_path / "run" / ".solset-partial-1-run.json"
    leftover.write_text("{")
    open_run(tmp_path)
    assert not leftover.exists()


@pytest.mark.parametrize(
    "name", ["../a.json", "a/b.json", "a\\b.json", ".a.json", ".json", "a.csv", "", "/a.json"]
)
def test_names_stay_inside_and_say_what_they_are(tmp_path, name):
    run = open_run(tmp_path)
    with pytest.raises(ValueError, match="`name` must be"):
        run.write_json(name, 1)
    assert not (tmp_path / "a.json").exists()
    assert sorted(entry.name for entry in run.path.iterdir()) == ["run.json"]


def test_the_marker_is_not_a_result(tmp_path):
    run = open_run(tmp_path)
    with pytest.raises(ValueError, match=r"run\.json"):
        run.write_json("run.json", {})
    assert not run.has("run.json")


def test_files_are_readable_as_any_other_file(tmp_path):
    run = open_run(tmp_path)
    (tmp_path / "plain").write_text("")
    assert run.write_json("a.json", 1).stat().st_mode == (tmp_path / "plain").stat().st_mode


@dataclass(frozen=True)
class Sample:
    step: float
    kind: torch.dtype


def test_json_is_valid_whatever_the_numbers(tmp_path):
    value = {
        "z": [math.nan, math.inf, -math.inf, 0.1 + 0.2],
        "a": Sample(step=np.float64(1e-300), kind=torch.float64),
        "tensor": torch.tensor([[1.5, math.nan]], dtype=torch.float64),
        "path": Path("x") / "y",
        3: np.int64(2**60),
        "none": None,
        "w̄": np.bool_(True),
    }
    run = open_run(tmp_path)
    text = run.write_json("a.json", value).read_text()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    read = json.loads(text, parse_constant=refuse)
    assert read == {
        "z": ["NaN", "Infinity", "-Infinity", 0.1 + 0.2],
        "a": {"step": 1e-300, "kind": "torch.float64"},
        "tensor": [[1.5, "NaN"]],
        "path": os.path.join("x", "y"),
        "3": 2**60,
        "none": None,
        "w̄": True,
    }
    assert [float(number) for number in read["z"][1:]] == value["z"][1:]


def test_json_does_not_depend_on_the_order_of_keys():
    assert json_bytes({"a": 1, "b": [2.0]}) == json_bytes({"b": [2.0], "a": 1})
    with pytest.raises(ValueError, match="keys differ as strings"):
        json_bytes({1: "a", "1": "b"})


def test_csv_keeps_every_digit_and_quotes_what_needs_it(tmp_path):
    run = open_run(tmp_path)
    rows = [
        {"name": 'a "b", c\nd', "value": 0.1 + 0.2, "set": [1, 2]},
        {"set": [], "value": np.float64("nan"), "name": None},
    ]
    with run.write_csv("rows.csv", rows).open(newline="", encoding="utf-8") as stream:
        read = list(csv.DictReader(stream))
    assert read == [
        {"name": 'a "b", c\nd', "value": "0.30000000000000004", "set": "[1, 2]"},
        {"name": "", "value": "NaN", "set": "[]"},
    ]


def test_csv_refuses_rows_that_differ():
    with pytest.raises(ValueError, match=r"\['b'\] in row 1"):
        csv_bytes([{"a": 1}, {"b": 2}])
    with pytest.raises(ValueError, match="at least one row"):
        csv_bytes([])


def test_tensors_come_back_as_they_were(tmp_path):
    run = open_run(tmp_path)
    whole = torch.arange(6.0, dtype=torch.float64).reshape(2, 3).requires_grad_()
    path = run.write_tensors("w.safetensors", {"whole": whole, "view": whole.T, "count": torch.tensor(3)})
    read = run.read_tensors("w.safetensors")
    assert torch.equal(read["whole"], whole)
    assert torch.equal(read["view"], whole.T)
    assert read["count"].item() == 3
    assert read["whole"].dtype == torch.float64
    assert whole.requires_grad
    first = path.read_bytes()
    assert run.write_tensors("w.safetensors", {"count": torch.tensor(3), "view": whole.T, "whole": whole})
    assert path.read_bytes() == first


def test_a_figure_is_written_twice_and_the_same_each_time(tmp_path):
    run = open_run(tmp_path)
    path = run.write_figure("agreement", scatter_agreement([1.0, 2.0], [1.0, 2.5]))
    files = {suffix: (run.path / f"agreement.{suffix}").read_bytes() for suffix in ("png", "svg")}
    assert path.name == "agreement.png"
    assert run.has("agreement.png")
    assert run.has("agreement.svg")
    run.write_figure("agreement", scatter_agreement([1.0, 2.0], [1.0, 2.5]))
    assert files == {suffix: (run.path / f"agreement.{suffix}").read_bytes() for suffix in files}


def test_two_runs_with_the_same_results_have_the_same_files(tmp_path):
    def write(run: RunFolder, names: list[str]) -> dict[str, bytes]:
        for name in names:
            run.write_json(name, {"x": 0.1})
        run.write_csv("rows.csv", [{"a": 1.0}])
        return {entry.name: entry.read_bytes() for entry in run.path.iterdir()}

    one = write(open_run(tmp_path / "1"), ["a.json", "b.json"])
    assert one == write(open_run(tmp_path / "2"), ["b.json", "a.json"])
