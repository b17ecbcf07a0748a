"""A run that was stopped at any moment goes on; a file that was changed is named and computed again."""

import json
import os
import shutil
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from solset import Problem, SolsetWarning
from solset.reports._commands import problem_facts
from solset.reports._run_folder import RunFolder
from support.tiny import tiny_model

SETTINGS = {"seed": 0}


def open_run(path: Path, on_existing="resume") -> RunFolder:
    return RunFolder.open(path / "run", settings=SETTINGS, on_existing=on_existing)


def work(run: RunFolder) -> None:
    """Stages, a file that is replaced by another version of itself, a table, and a result of all."""
    first = run.stage("first", lambda: [1.0])
    run.tensor_stage("weights", lambda: {"w": torch.ones(2)})
    run.write_json("course.json", [*first, 2.0])
    run.write_json("course.json", [*first, 2.0, 3.0])
    run.reserve("rows.safetensors")
    run.write_csv("table.csv", [{"a": 1.0}])
    run.write_json("result.json", {"first": first})


def contents(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in (path / "run").iterdir()}


class KilledError(BaseException):
    """What no cleaning up survives."""


class Killing:
    """Lets so many operations on files happen, then none: nothing is cleaned up either."""

    def __init__(self, monkeypatch, allowed: int) -> None:
        self.left = allowed
        for owner, name in (
            (Path, "open"),
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "mkdir"),
            (os, "fsync"),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, operation):
        def counted(*arguments, **options):
            self.left -= 1
            if self.left < 0:
                raise KilledError
            return operation(*arguments, **options)

        return counted


def test_a_run_that_is_killed_at_any_operation_goes_on_to_the_same_files(tmp_path, monkeypatch):
    work(open_run(tmp_path / "whole"))
    expected, moments, is_done = contents(tmp_path / "whole"), 0, False
    while not is_done:
        place = tmp_path / "killed"
        shutil.rmtree(place, ignore_errors=True)
        with monkeypatch.context() as patch:
            Killing(patch, moments)
            try:
                work(open_run(place))
                is_done = True
            except KilledError:
                moments += 1
        place.mkdir(exist_ok=True)
        work(open_run(place))  # a warning of damage would be an error here
        assert contents(place) == expected, f"after {moments} operations"
    assert moments > 60


def test_a_run_killed_again_while_it_goes_on_loses_nothing_either(tmp_path, monkeypatch):
    work(open_run(tmp_path / "whole"))
    expected, place = contents(tmp_path / "whole"), tmp_path / "killed"
    place.mkdir()
    for kills in range(200):
        with monkeypatch.context() as patch:
            Killing(patch, 9 + kills % 13)
            try:
                work(open_run(place))
                break
            except KilledError:
                pass
    work(open_run(place))
    assert contents(place) == expected


@pytest.mark.parametrize("name", ["first.json", "weights.safetensors", "result.json"])
def test_a_damaged_result_is_named_and_computed_again(tmp_path, name):
    work(open_run(tmp_path))
    before, path = contents(tmp_path), tmp_path / "run" / name
    for damaged in (before[name][:-1], b"", b"\x80" + before[name][1:]):
        path.write_bytes(damaged)
        with pytest.warns(SolsetWarning, match=rf"damaged in '.*': {name}; computed again"):
            run = open_run(tmp_path)
        assert not run.has(name)
        work(run)
        assert contents(tmp_path) == before


def test_damage_during_the_run_is_noticed_too(tmp_path):
    run = open_run(tmp_path)
    work(run)
    (run.path / "first.json").write_text("[2.0]")
    with pytest.warns(SolsetWarning, match=r"first\.json"):
        assert run.stage("first", lambda: [1.0]) == [1.0]


def test_a_stage_is_done_only_with_all_its_files(tmp_path):
    run, calls = open_run(tmp_path), []

    def compute():
        calls.append(1)
        run.write_tensors("extra.safetensors", {"w": torch.ones(1)})
        return 1

    for _ in range(2):
        assert run.stage("one", compute, beside=["extra.safetensors"]) == 1
    assert len(calls) == 1
    (run.path / "extra.safetensors").unlink()
    run.stage("one", compute, beside=["extra.safetensors"])
    assert len(calls) == 2


def test_a_file_that_was_deleted_is_computed_again_without_a_warning(tmp_path):
    work(open_run(tmp_path))
    before = contents(tmp_path)
    (tmp_path / "run" / "first.json").unlink()
    work(open_run(tmp_path))
    assert contents(tmp_path) == before


def test_every_changed_byte_of_run_json_is_noticed(tmp_path):
    run = open_run(tmp_path)
    work(run)
    marker = run.path / "run.json"
    whole = marker.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        marker.write_bytes(bytes(changed))
        with pytest.raises(ValueError, match="`path` must be .*") as caught:
            open_run(tmp_path)
        assert str(run.path) in str(caught.value)
        assert marker.read_bytes() == bytes(changed)


@pytest.mark.parametrize("keep", [30, 200, -2])
def test_a_damaged_run_json_is_refused_with_the_cure_and_overwritten(tmp_path, keep):
    run = open_run(tmp_path)
    work(run)
    before = contents(tmp_path)
    (run.path / "thesis.txt").write_text("years of work")
    (run.path / "run.json").write_bytes(before["run.json"][:keep])
    for choice in ("refuse", "resume"):
        with pytest.raises(ValueError, match=r"run\.json is damaged or was changed. Pass --overwrite"):
            open_run(tmp_path, choice)
    if keep == -2:  # the names are still in it
        work(open_run(tmp_path, "overwrite"))
        assert contents(tmp_path) == before | {"thesis.txt": b"years of work"}
    else:
        open_run(tmp_path, "overwrite")
    assert (run.path / "thesis.txt").read_text() == "years of work"


def test_overwriting_a_damaged_run_deletes_only_what_is_surely_its_own(tmp_path):
    run = open_run(tmp_path)
    work(run)
    (run.path / "table.csv").write_text("changed by hand")
    (run.path / "run.json").write_bytes((run.path / "run.json").read_bytes()[:-2])
    open_run(tmp_path, "overwrite")
    assert {entry.name for entry in run.path.iterdir()} == {"run.json", "table.csv"}
    assert (run.path / "table.csv").read_text() == "changed by hand"


def test_a_run_of_an_earlier_format_says_so(tmp_path):
    run = open_run(tmp_path)
    content = {"files": [], "format": "solset run 1", "settings": SETTINGS, "versions": {}}
    (run.path / "run.json").write_text(json.dumps(content, indent=2))
    for choice in ("refuse", "resume", "overwrite"):
        with pytest.raises(
            ValueError, match=r"whose run\.json is of format 'solset run 1', not 'solset file"
        ):
            open_run(tmp_path, choice)


def test_partial_files_of_a_killed_process_are_cleared_on_resuming(tmp_path):
    run = open_run(tmp_path)
    work(run)
    outside = tmp_path / "outside.txt"
    outside.write_text("years of work")
    (run.path / ".solset-partial-1-result.json").write_text("{")
    (run.path / ".solset-partial-rows-abc.npy").write_bytes(b"")
    (run.path / ".solset-partial-2-link").symlink_to(outside)
    (run.path / ".solset-partial-folder").mkdir()
    open_run(tmp_path)
    assert [name for name in os.listdir(run.path) if name.startswith(".")] == [".solset-partial-folder"]
    assert outside.read_text() == "years of work"


class TestLinks:
    """Whatever is linked, nothing outside the run folder is read, replaced or deleted."""

    @pytest.fixture
    def outside(self, tmp_path) -> Path:
        (tmp_path / "outside.json").write_text("[7.0]\n")
        return tmp_path / "outside.json"

    def test_a_result_that_became_a_link_is_computed_again_in_its_place(self, tmp_path, outside):
        run = open_run(tmp_path)
        work(run)
        before = contents(tmp_path)
        (run.path / "first.json").unlink()
        outside.write_bytes(before["first.json"])  # even what it should be
        (run.path / "first.json").symlink_to(outside)
        with pytest.warns(SolsetWarning, match=r"first\.json"):
            again = open_run(tmp_path)
        outside.write_text("[7.0]\n")
        work(again)
        assert contents(tmp_path) == before
        assert not (run.path / "first.json").is_symlink()
        assert outside.read_text() == "[7.0]\n"

    def test_a_reserved_file_that_became_a_link_is_unlinked(self, tmp_path, outside):
        run = open_run(tmp_path)
        run.reserve("rows.safetensors").symlink_to(outside)
        assert not os.path.lexists(run.reserve("rows.safetensors"))
        assert outside.exists()

    def test_overwriting_deletes_the_link_alone(self, tmp_path, outside):
        run = open_run(tmp_path)
        run.reserve("rows.safetensors").symlink_to(outside)
        open_run(tmp_path, "overwrite")
        assert outside.read_text() == "[7.0]\n"
        assert os.listdir(run.path) == ["run.json"]

    def test_a_marker_that_is_a_link_is_not_ours(self, tmp_path):
        run = open_run(tmp_path / "other")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "run.json").symlink_to(run.path / "run.json")
        for choice in ("refuse", "resume", "overwrite"):
            with pytest.raises(ValueError, match="come from elsewhere"):
                open_run(tmp_path, choice)

    def test_a_link_under_the_name_of_a_partial_file_is_not_written_through(self, tmp_path, outside):
        run = open_run(tmp_path)
        (run.path / f".solset-partial-{os.getpid()}-first.json").symlink_to(outside)
        run.write_json("first.json", [1.0])
        assert outside.read_text() == "[7.0]\n"


def sealed(run: RunFolder, **changes: object) -> None:
    """A ``run.json`` with a right seal over whatever is given."""
    from solset.reports._marker import Marker

    marker = Marker.read(run.path)
    assert marker is not None
    content = replace(marker, **{"files": {}, "replaced": {}} | changes)
    (run.path / "run.json").write_bytes(content.to_bytes())


@pytest.mark.parametrize("choice", ["refuse", "resume", "overwrite"])
@pytest.mark.parametrize("part", ["files", "replaced"])
@pytest.mark.parametrize(
    "name", ["../outside.json", "/{outside}", "..", ".", "a/../../outside.json", "\\x", ".x"]
)
def test_a_sealed_marker_that_leads_outside_touches_nothing(tmp_path, choice, part, name):
    outside = tmp_path / "outside.json"
    outside.write_text("years of work")
    run = open_run(tmp_path)
    sealed(run, **{part: {name.format(outside=outside): "0" * 64}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if choice == "overwrite":
            open_run(tmp_path, choice)
        else:
            with pytest.raises(ValueError, match=r"run\.json is damaged or was changed"):
                open_run(tmp_path, choice)
    assert outside.read_text() == "years of work"


def test_what_a_run_depends_on_is_the_same_in_the_next_process():
    class Scaled:
        """A loss without a name of its own."""

        reduction = "mean"

        def __call__(self, outputs, targets):
            return (outputs - targets).square().mean()

    model, inputs, targets = tiny_model()
    facts = [problem_facts(Problem(model, partial(_scaled, Scaled()), inputs, targets)) for _ in range(2)]
    assert facts[0] == facts[1]
    assert facts[0] != problem_facts(Problem(model, torch.nn.MSELoss(), inputs, targets))


def _scaled(loss, outputs, targets):
    return loss(outputs, targets)
