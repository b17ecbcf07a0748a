"""The paper's second experiment: its tables, a small run of it, and one interrupted at every stage."""

import csv
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from solset.paper import CIFAR10
from solset.paper._resnet56_report import ResNet56Run, resnet56_experiment
from solset.paper._resnet56_setup import ResNet56Settings, TrainedResNet56
from solset.plotting import number_text
from solset.reports import _marker as marker
from solset.reports import _run_folder as run_folder
from solset.reports._run_folder import RunFolder
from solset.storage import _checkpoint as checkpoint
from support.resnet56_runs import DRAWN, SMALL, STAGES, TABLES, Start, real, small


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run."""

    start: Start
    run: ResNet56Run
    page: Path

    @property
    def numbers(self) -> dict[str, Any]:
        return json.loads((self.page.parent / "result.json").read_bytes())


@pytest.fixture(
    scope="module",
    params=[pytest.param(small, id="small"), pytest.param(real, id="real", marks=pytest.mark.slow)],
)
def whole(request, tmp_path_factory) -> Whole:
    """Run once for all tests."""
    start = request.param()
    run = start.open(tmp_path_factory.mktemp("whole") / "run")
    return Whole(start, run, resnet56_experiment(run))


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


class TestRun:
    def test_everything_is_written_and_nothing_else(self, whole):
        names = {"run.json", "result.json", "report.html", *STAGES, *DRAWN, *TABLES}
        assert contents(whole.page.parent).keys() == names
        listed = json.loads((whole.page.parent / "run.json").read_bytes())["files"]
        assert listed.keys() == names - {"run.json"}

    def test_the_estimate_keeps_the_moved_images_fitted(self, whole):
        for count in ("1", "2"):
            part = whole.numbers["moved"][count]
            assert [row["size"] for row in part["sizes"]] == [0.005, 0.01]
            for row in part["sizes"]:
                assert row["estimate"]["moved"] < row["trained"]["moved"]
                assert part["clean"]["moved"] < row["trained"]["moved"]
                assert row["estimate"]["output_change_moved"] < 0.7 * row["trained"]["output_change_moved"]

    def test_the_rows_in_use_are_accurate_on_all(self, whole):
        for count in ("1", "2"):
            check = whole.numbers["moved"][count]["check"]
            assert 0 < check["residual"] <= whole.numbers["tol"] == 3e-3
            assert check["moved_residual"] <= 1e-4
            assert check["rank"] == check["rows"] < check["all_rows"] == 10 * whole.start.settings.points

    def test_the_numbers_of_one_step_follow_from_the_stored_weights(self, whole):
        # By the module itself, called as its user calls it.
        start, folder = whole.start, whole.run.folder
        change = folder.read_tensors("moved_2_changes.safetensors")["change"]
        points = whole.numbers["moved"]["2"]["points"]
        row = whole.numbers["moved"]["2"]["sizes"][1]
        inputs, labels = start.data.inputs, start.data.labels
        leaf = inputs[points].clone().requires_grad_()
        loss = cross_entropy(start.model(leaf), labels[points], reduction="sum")
        along = torch.autograd.grad(loss, leaf)[0]
        lengths = inputs[points].flatten(1).norm(dim=1) / along.flatten(1).norm(dim=1)
        dx = 0.01 * lengths.reshape(-1, 1, 1, 1) * along
        moved = inputs.index_add(0, torch.tensor(points), dx)
        assert row["perturbation"] == pytest.approx(float(dx.norm()), rel=1e-4)
        assert row["distance"] == pytest.approx(0.01 * float(change.norm()), rel=1e-5)
        shapes = dict(start.model.named_parameters())
        parts = change.split([value.numel() for value in shapes.values()])
        weights = {
            name: value.detach() + 0.01 * part.reshape(value.shape)
            for (name, value), part in zip(shapes.items(), parts, strict=True)
        }
        with torch.no_grad():
            clean = start.model(inputs)
            for name, outputs in (
                ("trained", start.model(moved)),
                ("estimate", torch.func.functional_call(start.model, weights, (moved,))),
            ):
                losses = cross_entropy(outputs, labels, reduction="none")
                assert row[name]["moved"] == pytest.approx(float(losses[points].mean()), rel=0.02, abs=1e-6)
                assert row[name]["all"] == pytest.approx(float(losses.mean()), rel=0.02)
                assert row[name]["output_change"] == pytest.approx(float((outputs - clean).norm()), rel=0.01)

    def test_real_retraining_stands_beside_the_estimate(self, whole):
        found = whole.numbers["moved"]["2"]["retraining"]
        assert found.keys() == {"size", "trained", "estimate", "L-BFGS", "Adam, 1e-4"}
        row = whole.numbers["moved"]["2"]["sizes"][1]
        assert found["size"] == row["size"] == 0.01
        assert found["trained"] == row["trained"]
        assert found["estimate"]["moved"] == row["estimate"]["moved"]
        assert found["Adam, 1e-4"]["gradients"] == 1
        for method in ("L-BFGS", "Adam, 1e-4"):
            assert found[method]["all"] < found["trained"]["all"]
            assert 0 < found[method]["cosine"] <= 1

    def test_the_elements_of_the_figure_lie_in_its_plane_and_in_the_valley(self, whole):
        figure = whole.numbers["figure"]
        marks = figure["landscape"]["marks"]
        assert figure["moved"] == 4
        assert len(figure["elements"]) == len(marks["sampled solutions"]["off_plane"]) == 4
        assert max(marks["sampled solutions"]["off_plane"]) <= 1e-3
        assert [len(row) for row in figure["landscape"]["values"]["the moved points"]] == [3, 3, 3]
        assert figure["estimate"]["moved"] < figure["trained"]["moved"]
        assert figure["kernel_ratio"] == pytest.approx(3.0, rel=1e-4)

    def test_the_kernel_direction_of_the_figure_keeps_the_outputs(self, whole):
        start, changes = whole.start, whole.run.folder.read_tensors("figure_changes.safetensors")
        inputs = start.data.inputs[whole.run.start.order[:4]]
        weights = {name: value.detach() for name, value in start.model.named_parameters()}

        def slope(direction: torch.Tensor) -> float:
            parts = direction.split([value.numel() for value in weights.values()])
            along = {
                name: part.reshape(value.shape)
                for (name, value), part in zip(weights.items(), parts, strict=True)
            }
            model = functools.partial(torch.func.functional_call, start.model, args=(inputs,))
            return float(torch.func.jvp(model, (weights,), (along,))[1].norm())

        kernel = changes["kernel"]
        assert slope(changes["change"]) > 0.1
        assert slope(kernel) <= 1e-3 * slope(changes["change"]) * float(
            kernel.norm() / changes["change"].norm()
        )

    def test_the_page_says_what_was_found(self, whole):
        text = whole.page.read_text(encoding="utf-8")
        row = whole.numbers["moved"]["2"]["sizes"][1]
        for number in (row["trained"]["moved"], row["estimate"]["moved"], row["relative_change"]):
            assert f">{number_text(number, '.2g')}" in text
        assert "figure 4: elements of the set in the landscape" in text
        assert "table 2: estimated and retrained weights" in text
        assert "not a stationary point of these" in text
        assert "more than was asked for" not in text

    def test_the_tables_are_those_of_the_numbers(self, whole):
        with (whole.page.parent / "table_3.csv").open(newline="", encoding="utf-8") as stream:
            read = list(csv.DictReader(stream))
        sizes = whole.numbers["moved"]["2"]["sizes"]
        assert [float(row["trained"]) for row in read] == [row["trained"]["moved"] for row in sizes]
        assert [float(row["estimate"]) for row in read] == [row["estimate"]["moved"] for row in sizes]
        assert [row["paper_trained"] for row in read] == ["", ""]  # the paper has ten moved images, not two

    def test_a_finished_run_is_read_back_and_not_computed(self, whole, monkeypatch):
        before = contents(whole.page.parent)
        resumed = whole.start.open(whole.page.parent, "resume")

        def fail(*_arguments: object) -> None:
            raise AssertionError("computed again")

        monkeypatch.setattr(TrainedResNet56, "derivative", fail)
        monkeypatch.setattr(TrainedResNet56, "losses", fail)
        assert json.loads(json.dumps(resumed.numbers())) == whole.numbers
        assert contents(whole.page.parent) == before

    @pytest.mark.parametrize(
        "whole",
        [
            pytest.param(small, id="small"),
            pytest.param(real, id="real", marks=[pytest.mark.slow, pytest.mark.long]),
        ],
        indirect=True,
    )
    def test_interrupted_at_every_stage_and_resumed_it_ends_the_same(self, whole, tmp_path, monkeypatch):
        # The list of files is written before each file, so a stop also falls between the two.
        written: set[tuple[str, bytes]] = set()
        write = run_folder.replace_file

        def once(target: Path, data: bytes) -> None:
            write(target, data)
            if "result.json" not in {name for name, _ in written} and (target.name, data) not in written:
                written.add((target.name, data))
                raise KeyboardInterrupt

        for module in (run_folder, marker, checkpoint):
            monkeypatch.setattr(module, "replace_file", once)
        stops = 0
        while "report.html" not in (contents(tmp_path / "run") if stops else {}):
            try:
                resnet56_experiment(whole.start.open(tmp_path / "run", "resume"))
            except KeyboardInterrupt:
                stops += 1
            assert stops <= 100
        assert {name for name, _ in written} == {"run.json", "result.json", *STAGES}
        assert stops == len(written)
        ended, expected = contents(tmp_path / "run"), contents(whole.page.parent)
        assert ended["result.json"] == expected["result.json"]
        assert ended.keys() == expected.keys()
        assert [name for name in sorted(ended) if ended[name] != expected[name]] == []

    def test_the_model_and_the_random_state_stay_as_they_were(self, tmp_path):
        start = small()
        before, random = {k: v.clone() for k, v in start.model.state_dict().items()}, torch.get_rng_state()
        start.open(tmp_path / "run", moved=(1,), sizes=(0.01,), figure_moved=0).numbers()
        assert all(torch.equal(value, before[name]) for name, value in start.model.state_dict().items())
        assert all(value.requires_grad and value.grad is None for value in start.model.parameters())
        assert not start.model.training
        assert torch.equal(torch.get_rng_state(), random)

    def test_without_retraining_and_landscape(self, tmp_path):
        changes = {"moved": (2,), "sizes": (0.02,), "retraining_gradients": 0, "figure_moved": 0}
        page = resnet56_experiment(small().open(tmp_path / "run", **changes))
        names = contents(tmp_path / "run").keys()
        missing = {"table_2.csv", "surface.png", "contour.png", "figure.json", "landscape_rows.safetensors"}
        assert missing.isdisjoint(names)
        assert {"report.html", "table_1.csv", "table_3.csv", "losses.png", "moved_images.png"} <= names
        text = page.read_text(encoding="utf-8")
        assert "table 3: the size of the step, 2 moved images" in text
        assert "estimated and retrained weights" not in text
        assert "in the landscape" not in text

    def test_another_seed_moves_other_points(self, tmp_path):
        one, same, other = (
            small().open(tmp_path / name, seed=seed).start for name, seed in (("1", 0), ("2", 0), ("3", 1))
        )
        assert one.order == same.order != other.order
        assert sorted(one.order) == list(range(SMALL.points)) == sorted(other.order)

    def test_the_points_of_a_thousand_are_those_of_the_specification(self, tmp_path):
        data = CIFAR10(torch.zeros(1000, 1), torch.zeros(1000))
        settings = ResNet56Settings()
        folder = RunFolder.open(tmp_path / "run", settings={})
        order = TrainedResNet56(settings, folder, small().model, data).order
        assert order[:10] == [44, 37, 675, 775, 947, 209, 719, 500, 561, 264]
