"""A derivative that was saved is the same one when it is loaded, and no other problem's."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from solset import Problem
from solset.derivatives import GraphicalDerivative
from solset.linalg import DenseOperator
from solset.operators import InformativeRows
from solset.outofcore import DiskDual, StoredRows, Tiles
from solset.solvers import Dual
from solset.solvers.filters import GradientFlow, Tikhonov
from solset.storage import Sealed

MOVED, P = [4, 1], 74
ROWS = InformativeRows(tol=0.4, max_rows=500)
CHECKPOINT, ARRAYS = "derivative.safetensors", ["rows.npy", "gram.npy"]
FILES = {CHECKPOINT, *ARRAYS}


def direction(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def derivative(problem: Problem, rows: InformativeRows = ROWS, **options: object) -> GraphicalDerivative:
    return problem.derivative(points=MOVED, optimality="interpolating", rows=rows, **options)


def solver(place: str, folder: Path) -> Dual:
    """One that keeps nine rows of 74 weights there."""
    need = 24 * 9 * (9 + P)
    return {
        "memory": Dual(is_equilibrated=True),
        "disk": DiskDual(memory_budget=need - 1, folder=folder, is_equilibrated=True),
        "recomputed": Dual(memory_budget=need - 1, is_equilibrated=True),
    }[place]


@pytest.fixture
def stored(fitted, tmp_path) -> Path:
    """A derivative on nine of twelve rows."""
    D = derivative(fitted.problem())
    assert " 9 of 12 rows" in D.reason
    D.save(tmp_path / "stored")
    return tmp_path / "stored"


def kept_rows(D: GraphicalDerivative):
    return D._source.prepared.operator


class TestALoadedDerivative:
    def test_has_the_same_numbers_to_the_last_bit(self, fitted, tmp_path, counted):
        problem, dx = fitted.problem(), direction()
        D = derivative(problem)
        D.save(tmp_path / "stored")
        assert sum(counted) == 9
        E = fitted.problem().load_derivative(tmp_path / "stored")
        own, loaded = D._source.prepared, E._source.prepared
        assert isinstance(loaded.operator, DenseOperator)
        assert torch.equal(loaded.operator.matrix, own.operator.matrix)
        assert torch.equal(loaded.gram, own.gram)
        assert torch.equal(E(dx).min_norm().value, D(dx).min_norm().value)
        assert E.check == D.check
        assert (E.reason, E.optimality, E.plan) == (D.reason, D.optimality, D.plan)
        assert E.qualification == D.qualification
        assert sum(counted) == 9

    def test_serves_other_directions_filters_and_samples_without_a_row_computed(
        self, fitted, tmp_path, counted
    ):
        D = derivative(fitted.problem())
        D.save(tmp_path / "stored")
        counted.clear()
        E = fitted.problem().load_derivative(tmp_path / "stored")
        for seed in (1, 2):
            one, two = (side(direction(seed)) for side in (D, E))
            for choice in (None, Tikhonov(0.1), GradientFlow(steps=9, learning_rate=0.01)):
                assert torch.equal(one.element(choice).value, two.element(choice).value)
            draws = [
                side.sample(2, radius=1.0, generator=torch.Generator().manual_seed(3)) for side in (one, two)
            ]
            for first, second in zip(*draws, strict=True):
                assert torch.equal(first.value, second.value)
        assert counted == []

    @pytest.mark.parametrize("place", ["memory", "disk", "recomputed"])
    def test_is_the_same_wherever_the_rows_were(self, fitted, tmp_path, place):
        (tmp_path / "spill").mkdir()
        D = derivative(fitted.problem(), solver=solver(place, tmp_path / "spill"))
        expected = D(direction()).min_norm().value
        D.save(tmp_path / "stored")
        found = fitted.problem().load_derivative(tmp_path / "stored")
        torch.testing.assert_close(found(direction()).min_norm().value, expected, rtol=0, atol=1e-12)
        assert {path.name for path in (tmp_path / "stored").iterdir()} == FILES

    def test_reads_its_rows_from_the_disk_where_they_do_not_fit(self, fitted, stored, counted):
        dx = direction()
        small = fitted.problem(memory_budget=24 * 9 * (9 + P) - 1)
        E = small.load_derivative(stored)
        assert isinstance(kept_rows(E), StoredRows)
        expected = derivative(fitted.problem())(dx).min_norm().value
        counted.clear()
        torch.testing.assert_close(E(dx).min_norm().value, expected, rtol=0, atol=1e-12)
        assert counted == []

    def test_saved_from_the_disk_has_the_same_numbers_to_the_last_bit(self, fitted, tmp_path):
        (tmp_path / "spill").mkdir()
        D = derivative(fitted.problem(), solver=solver("disk", tmp_path / "spill"))
        D.save(tmp_path / "stored")
        E = fitted.problem(memory_budget=24 * 9 * (9 + P) - 1).load_derivative(tmp_path / "stored")
        assert isinstance(kept_rows(D), StoredRows)
        assert isinstance(kept_rows(E), StoredRows)
        assert torch.equal(E(direction()).min_norm().value, D(direction()).min_norm().value)

    def test_grows_as_the_first_did_and_computes_only_the_new_rows(self, fitted, stored, counted):
        E = fitted.problem().load_derivative(stored)
        E._source.settings = InformativeRows(tol=1e-6)
        assert E.verify(direction()).is_accurate
        assert (E.check.rows, sum(counted)) == (12, 3)
        full = fitted.problem().derivative(points=MOVED, optimality="interpolating")
        expected = full(direction()).min_norm().value
        torch.testing.assert_close(E(direction()).min_norm().value, expected, rtol=0, atol=1e-10)

    def test_after_it_grew_has_all_rows(self, fitted, tmp_path, counted):
        D = derivative(fitted.problem())
        D._source.settings = InformativeRows(tol=1e-6)
        D.verify(direction())
        D.save(tmp_path / "stored")
        counted.clear()
        E = fitted.problem().load_derivative(tmp_path / "stored")
        assert torch.equal(kept_rows(E).to_dense(), kept_rows(D).to_dense())
        expected = D(direction()).min_norm().value
        torch.testing.assert_close(E(direction()).min_norm().value, expected, rtol=0, atol=1e-13)
        assert (E.check.rows, counted) == (12, [])

    def test_keeps_points_and_settings(self, fitted, stored):
        E = fitted.problem().load_derivative(stored)
        assert (E._source.moved, E._source.settings) == (MOVED, ROWS)
        with pytest.raises(ValueError, match="of shape \\(2, 3\\)"):
            E(torch.zeros(3, 3).double())

    def test_can_be_saved_again_elsewhere(self, fitted, stored, tmp_path):
        fitted.problem().load_derivative(stored).save(tmp_path / "again")
        for name in FILES:
            assert (tmp_path / "again" / name).read_bytes() == (stored / name).read_bytes()

    def test_of_a_float32_net(self, fitted, tmp_path):
        case = fitted.to(torch.float32)
        D = derivative(case.problem())
        D.save(tmp_path / "stored")
        E = case.problem().load_derivative(tmp_path / "stored")
        assert kept_rows(E).dtype is torch.float32
        assert torch.equal(E(direction().float()).min_norm().value, D(direction().float()).min_norm().value)

    def test_does_not_depend_on_how_the_data_is_batched(self, fitted, stored):
        """Six points in batches of two."""
        E = fitted.problem(batch_size=2).load_derivative(stored)
        expected = fitted.problem().load_derivative(stored)(direction()).min_norm().value
        torch.testing.assert_close(E(direction()).min_norm().value, expected, rtol=0, atol=1e-12)


def changed(part: str, fitted) -> Problem:
    """The same problem with one thing changed."""
    options: dict = {}
    match part:
        case "weights":
            model = copy.deepcopy(fitted.model)
            with torch.no_grad():
                model[2].bias[0] += 1e-9
            fitted = dataclasses.replace(fitted, model=model)
        case "data":
            inputs = fitted.inputs.clone()
            inputs[5, 2] += 1e-12
            fitted = dataclasses.replace(fitted, inputs=inputs)
        case "order":
            order = [0, 1, 2, 3, 5, 4]
            fitted = dataclasses.replace(fitted, inputs=fitted.inputs[order], targets=fitted.targets[order])
        case "loss":
            fitted = dataclasses.replace(fitted, loss=nn.SmoothL1Loss())
        case "reduction":
            fitted = dataclasses.replace(fitted, loss=nn.MSELoss(reduction="sum"))
        case "weight decay":
            options = {"weight_decay": 1e-3}
        case "model":
            layers = [fitted.model[0], nn.Softsign(), fitted.model[2]]
            fitted = dataclasses.replace(fitted, model=nn.Sequential(*layers).eval())
        case "parameters":
            options = {"parameters": ["0.*"]}
        case "dtype":
            fitted = fitted.to(torch.float32)
    return fitted.problem(**options)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("weights", "weights"),
        ("data", "data"),
        ("order", "data"),
        ("loss", "loss"),
        ("reduction", "reduction"),
        ("weight decay", "weight decay"),
        ("model", "model"),
        ("parameters", "weights that move"),
        ("dtype", "data, weights"),
    ],
)
def test_of_another_problem_is_refused_by_what_differs(fitted, stored, part, named):
    with pytest.raises(ValueError, match=f"`folder` must be of this problem.*differs in .*{named}"):
        changed(part, fitted).load_derivative(stored)


def named_parts(content: Sealed) -> tuple[dict, dict]:
    assert content.arrays is not None
    return dict(content.records), dict(content.arrays)


class TestADamagedFolder:
    """Whatever is wrong with the files is a ValueError about ``folder``, with a cure."""

    def refused(self, fitted, stored: Path, words: str) -> None:
        with pytest.raises(ValueError, match=f"`folder` must be .*{words}") as caught:
            fitted.problem().load_derivative(stored)
        assert type(caught.value) is ValueError

    def test_that_is_not_there(self, fitted, tmp_path):
        self.refused(fitted, tmp_path / "nowhere", "stored derivative")

    @pytest.mark.parametrize("name", sorted(FILES))
    def test_with_a_file_missing(self, fitted, stored, name):
        (stored / name).unlink()
        self.refused(fitted, stored, "stored derivative" if name not in ARRAYS else f"{name}'.*missing")

    @pytest.mark.parametrize("name", sorted(FILES))
    def test_with_an_empty_file(self, fitted, stored, name):
        (stored / name).write_bytes(b"")
        self.refused(fitted, stored, "")

    @pytest.mark.parametrize("text", ["{", "[]", "null", '"derivative"', "{}", "\udc80"])
    def test_with_a_foreign_checkpoint(self, fitted, stored, text):
        (stored / CHECKPOINT).write_bytes(text.encode("utf-8", "surrogateescape"))
        self.refused(fitted, stored, "which is not a checkpoint of solset")

    def test_of_another_version(self, fitted, stored):
        (stored / CHECKPOINT).write_text('{"format": "solset derivative 1"}')
        self.refused(fitted, stored, "of format 'solset derivative 1'")

    @pytest.mark.parametrize(
        "key",
        ["rows", "gram", "side", "accuracy", "moved", "moved_rows", "discarded", "points", "importance"],
    )
    def test_with_a_checkpoint_that_lacks_a_part(self, fitted, stored, key):
        content = Sealed.from_bytes((stored / CHECKPOINT).read_bytes())
        parts = [{name: part for name, part in of.items() if name != key} for of in named_parts(content)]
        (stored / CHECKPOINT).write_bytes(Sealed(content.kind, content.identity, *parts).to_bytes())
        self.refused(fitted, stored, "damaged")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("settings", [1]),
            ("moved", [999]),
            ("moved", ["a"]),
            ("moved", [4]),
            ("moved", [1, 4]),
            ("moved_rows", "x"),
            ("moved_rows", 2),
            ("discarded", "x"),
            ("accuracy", "x"),
            ("accuracy", {"tol": 7}),
            ("accuracy", {"tol": None}),
        ],
    )
    def test_with_a_checkpoint_that_was_changed(self, fitted, stored, key, value):
        path = stored / CHECKPOINT
        with safe_open(path, "pt") as file:
            content = json.loads(file.metadata()["solset"])
        save_file(load_file(path), path, {"solset": json.dumps({**content, key: value})})
        self.refused(fitted, stored, "damaged")

    @pytest.mark.parametrize("keep", [8, 100, -1])
    def test_with_tensors_cut_short(self, fitted, stored, keep):
        path = stored / "derivative.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        words = "as it was written.*" if keep != 8 else ""  # of eight bytes nobody knows whose they are
        self.refused(fitted, stored, f"{words}derivative.safetensors")

    def test_with_one_bit_of_the_tensors_changed(self, fitted, stored):
        path = stored / "derivative.safetensors"
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(bytes(data))
        self.refused(fitted, stored, "as it was written.*derivative.safetensors")

    @pytest.mark.parametrize("lost", [*(pytest.param(lost) for lost in (1, 64, 127)), 128, 4096])
    @pytest.mark.parametrize("name", ARRAYS)
    def test_with_an_array_cut_short(self, fitted, stored, lost, name):
        path = stored / name
        path.write_bytes(path.read_bytes()[:-lost])
        self.refused(fitted, stored, name)

    @pytest.mark.parametrize("name", ARRAYS)
    def test_without_an_array(self, fitted, stored, name):
        (stored / name).unlink()
        self.refused(fitted, stored, name)

    @pytest.mark.parametrize("name", ARRAYS)
    def test_with_an_array_of_another_derivative(self, fitted, stored, name):
        np.save(stored / name, -np.load(stored / name))
        self.refused(fitted, stored, name)

    @pytest.mark.parametrize("name", ARRAYS)
    @pytest.mark.parametrize("added", [8, 64])
    def test_with_bytes_behind_an_array(self, fitted, stored, added, name):
        with (stored / name).open("ab") as file:
            file.write(bytes(added))
        self.refused(fitted, stored, name)

    @pytest.mark.parametrize("side", [-1, 0, 1, 8, 10, 10**9, "9", None, True])
    def test_with_another_side_of_its_tiles_under_a_new_seal(self, fitted, stored, side):
        content = Sealed.from_bytes((stored / CHECKPOINT).read_bytes())
        records = {**content.records, "side": side}
        sealed = Sealed(content.kind, content.identity, records, content.arrays)
        (stored / CHECKPOINT).write_bytes(sealed.to_bytes())
        self.refused(fitted, stored, "damaged")

    @pytest.mark.parametrize(
        ("key", "value"), [("moved", [999]), ("moved", ["a"]), ("moved_rows", "x"), ("accuracy", {"tol": 7})]
    )
    def test_with_numbers_that_cannot_be_under_a_new_seal(self, fitted, stored, key, value):
        content = Sealed.from_bytes((stored / CHECKPOINT).read_bytes())
        records = {**content.records, key: value}
        sealed = Sealed(content.kind, content.identity, records, content.arrays)
        (stored / CHECKPOINT).write_bytes(sealed.to_bytes())
        self.refused(fitted, stored, "damaged")

    def test_holds_no_paths_that_could_lead_elsewhere(self, stored, tmp_path):
        records = Sealed.from_bytes((stored / CHECKPOINT).read_bytes()).records
        assert str(tmp_path).encode() not in (stored / CHECKPOINT).read_bytes()
        assert not [key for key in records if "path" in key or "file" in key or "folder" in key]


class TestSaving:
    def test_leaves_these_files_and_no_partial_ones(self, stored):
        assert {path.name for path in stored.iterdir()} == FILES

    def test_never_replaces_a_stored_derivative(self, fitted, stored):
        before = {name: (stored / name).read_bytes() for name in FILES}
        with pytest.raises(ValueError, match="one without a stored derivative"):
            derivative(fitted.problem()).save(stored)
        assert before == {name: (stored / name).read_bytes() for name in FILES}

    def test_goes_into_an_existing_folder_and_through_the_path_as_text(self, fitted, tmp_path):
        (tmp_path / "note.txt").write_text("mine")
        derivative(fitted.problem()).save(str(tmp_path))
        assert (tmp_path / "note.txt").read_text() == "mine"
        assert fitted.problem().load_derivative(str(tmp_path)).check is None

    @pytest.mark.parametrize(("written", "done"), [(StoredRows, []), (Tiles, ["rows.npy"])])
    def test_that_was_interrupted_leaves_nothing_that_can_be_loaded_and_may_be_repeated(
        self, fitted, tmp_path, monkeypatch, written, done
    ):
        D = derivative(fitted.problem())

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(written, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                D.save(tmp_path / "stored")
        assert [path.name for path in (tmp_path / "stored").iterdir()] == done
        with pytest.raises(ValueError, match="one with a stored derivative"):
            fitted.problem().load_derivative(tmp_path / "stored")
        D.save(tmp_path / "stored")
        assert fitted.problem().load_derivative(tmp_path / "stored").reason == D.reason

    def test_is_refused_where_all_rows_are_in_use(self, fitted, tmp_path):
        with pytest.raises(ValueError, match="selection of rows"):
            fitted.problem().derivative(points=MOVED).save(tmp_path / "stored")
        assert not (tmp_path / "stored").exists()

    def test_where_rows_are_recomputed_keeps_them_all_the_same(self, fitted, tmp_path):
        D = derivative(fitted.problem(), solver=solver("recomputed", tmp_path))
        D.save(tmp_path / "stored")
        found = np.concatenate(np.load(tmp_path / "stored" / "rows.npy"), axis=1)[:, :P]
        assert found.shape == (9, P)
        assert np.allclose(found @ found.T, D._source.prepared.gram.numpy(), rtol=1e-12, atol=1e-12)
