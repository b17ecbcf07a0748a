"""The plan of where rows are kept: what it says is so, and it says so before any row is computed."""

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from solset.linalg import WIDTH, DenseOperator
from solset.outofcore import DiskDual, StoredRows, gram_solver, keep_on_disk
from solset.solvers import Dual, RowPlan
from solset.solvers._row_plan import keep_in_memory
from solset.solvers.filters import Tikhonov
from support.systems import Watched, plan_rows

SHAPE = (7, WIDTH + 5)
ITEM = {torch.float32: 4, torch.float64: 8}


def draw(m: int, p: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(m, p, generator=torch.Generator().manual_seed(0), dtype=dtype)


def smallest(shape: tuple[int, int], dtype: torch.dtype, folder: Path | None) -> int:
    """The smallest budget for which there is a plan, by bisection: more memory never hurts."""
    low, high = 0, 2**40
    while high - low > 1:
        middle = (low + high) // 2
        try:
            plan_rows(shape, dtype, memory_budget=middle, folder=folder)
        except ValueError:
            low = middle
        else:
            high = middle
    return high


def whole(m: int, p: int, item: int) -> int:
    """Three squares in float64, a panel as stored and in float64, and the rows."""
    return 24 * m * m + m * min(p, WIDTH) * (item + 8) + m * p * item


@pytest.mark.parametrize("dtype", ITEM)
class TestThePlace:
    def test_is_memory_where_rows_fit(self, tmp_path, dtype):
        need = whole(*SHAPE, ITEM[dtype])
        plan = plan_rows(SHAPE, dtype, memory_budget=need, folder=tmp_path)
        assert (plan.place, plan.memory, plan.disk, plan.sweeps) == ("memory", need, 0, 1.0)

    def test_is_the_disk_one_byte_below(self, tmp_path, dtype):
        need = whole(*SHAPE, ITEM[dtype])
        plan = plan_rows(SHAPE, dtype, memory_budget=need - 1, folder=tmp_path)
        assert (plan.place, plan.sweeps) == ("disk", 1.0)
        assert plan.memory == need - SHAPE[0] * SHAPE[1] * ITEM[dtype]
        assert plan.disk == StoredRows.bytes_for(SHAPE, dtype) == 2 * WIDTH * SHAPE[0] * ITEM[dtype]
        assert list(tmp_path.iterdir()) == []

    def test_is_nowhere_one_byte_below_without_a_folder(self, dtype):
        plan = plan_rows(SHAPE, dtype, memory_budget=whole(*SHAPE, ITEM[dtype]) - 1)
        assert (plan.place, plan.disk) == ("recomputed", 0)

    def test_is_nowhere_where_the_disk_is_full(self, tmp_path, monkeypatch, dtype):
        free = StoredRows.bytes_for(SHAPE, dtype) - 1
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free}))
        budget = whole(*SHAPE, ITEM[dtype]) - 1
        plan = plan_rows(SHAPE, dtype, memory_budget=budget, folder=tmp_path)
        assert plan.place == "recomputed"
        assert str(tmp_path) in plan.note
        free += 1
        assert plan_rows(SHAPE, dtype, memory_budget=budget, folder=tmp_path).place == "disk"


SMALLEST = [
    pytest.param((30, 40), False, id="square"),
    pytest.param((3, 2 * WIDTH), False, id="wide"),
    pytest.param((1, 100 * WIDTH), False, id="one row"),
    pytest.param((10, 100 * WIDTH), False, id="ten rows"),
    pytest.param((10, 100 * WIDTH), True, id="ten rows, with a disk"),
    pytest.param((30, 40), True, id="square, with a disk"),
]


@pytest.mark.parametrize(("shape", "has_disk"), SMALLEST)
def test_a_refusal_names_the_smallest_budget_that_works(tmp_path, shape, has_disk):
    folder = tmp_path if has_disk else None
    budget = smallest(shape, torch.float32, folder)
    with pytest.raises(ValueError, match=f"at least {budget} bytes"):
        plan_rows(shape, torch.float32, memory_budget=budget - 1, folder=folder)
    with pytest.raises(ValueError, match=f"at least {budget} bytes"):
        plan_rows(shape, torch.float32, memory_budget=0, folder=folder)


@pytest.mark.parametrize("shape", [(40, 10), (6, 300)])
def test_a_plan_stays_inside_its_budget(tmp_path, shape):
    for folder in (None, tmp_path):
        first = smallest(shape, torch.float64, folder)
        for budget in range(first, 2 * whole(*shape, 8), whole(*shape, 8) // 50):
            plan = plan_rows(shape, torch.float64, memory_budget=budget, folder=folder)
            assert plan.memory <= budget


@pytest.mark.parametrize("place", ["memory", "disk", pytest.param("recomputed")])
def test_a_plan_counts_the_decomposition_of_the_gram_matrix(tmp_path, place):
    m, p = 300, 20
    budget = {
        "memory": 2**40,
        "disk": whole(m, p, 8) - 1,
        "recomputed": smallest((m, p), torch.float64, None),
    }
    folder = tmp_path if place == "disk" else None
    plan = plan_rows((m, p), torch.float64, memory_budget=budget[place], folder=folder)
    assert plan.place == place
    assert plan.memory >= 24 * m * m


@pytest.mark.parametrize("budget", [2**40, 24 * 81 + 2 * 3 * 40 * 16, 24 * 81 + 2 * 40 * 16])
def test_rows_are_computed_as_often_as_the_plan_says(budget):
    rows = Watched(draw(9, 40))
    plan = Dual(memory_budget=budget).plan(rows)
    assert rows.asked == []
    Dual(memory_budget=budget).prepare(rows)
    assert plan.sweeps in {1, 2, 5}  # in one, three and nine blocks
    assert len(rows.asked) == plan.sweeps * 9
    assert set(rows.asked) == set(range(9))


def test_the_memory_taken_is_that_of_the_plan():
    m, p = 40, 3 * WIDTH
    matrix = draw(m, p)
    plan = Dual().plan(Watched(matrix))
    kept = keep_in_memory(Watched(matrix))
    held = kept.matrix.untyped_storage().nbytes()
    assert plan.place == "memory"
    assert held == m * p * 8
    assert held + 8 * m * m <= plan.memory <= 2 * held


def test_a_file_read_panel_by_panel_takes_no_more_memory_than_planned(tmp_path):
    m, p = 20, 20 * WIDTH
    dual = DiskDual(memory_budget=whole(m, p, 4) - 1, folder=tmp_path)
    rows = Watched(draw(m, p, torch.float32))
    plan = dual.plan(rows)
    kept = keep_on_disk(rows, tmp_path)
    tracemalloc.start()  # sees the buffers NumPy reads the file into
    kept @ torch.ones(p)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    panel = m * WIDTH * 4
    assert panel <= peak <= plan.memory < plan.disk


class TestTheSentence:
    def test_of_each_place(self, tmp_path):
        assert str(plan_rows((347, 853018), torch.float32, memory_budget=2**40)) == (
            "347 rows of 853018 columns: 1.2 GB in memory, each row computed once"
        )
        on_disk = plan_rows((347, 853018), torch.float32, memory_budget=2**29, folder=tmp_path)
        assert "37.0 MB in memory and 1.2 GB on the disk, each row computed once" in str(on_disk)
        assert "a budget of 536.9 MB" in str(on_disk)
        again = str(plan_rows((347, 853018), torch.float32, memory_budget=2**29))
        assert "each row computed 7.82 times for the Gram matrix and once more a product" in again

    def test_of_few_bytes(self):
        assert "24 bytes" in str(RowPlan(rows=1, columns=1, place="memory", memory=24))


@pytest.mark.parametrize("dtype", ITEM)
def test_results_are_the_same_wherever_the_rows_are(tmp_path, dtype):
    matrix = draw(*SHAPE, dtype)
    b = torch.randn(7, 2, generator=torch.Generator().manual_seed(1), dtype=dtype)
    c = matrix.T @ b
    exact = torch.linalg.pinv(matrix.double()) @ b.double()
    need = whole(*SHAPE, ITEM[dtype])
    places = {
        "memory": Dual(memory_budget=need),
        "disk": DiskDual(memory_budget=need - 1, folder=tmp_path),
        "recomputed": Dual(memory_budget=need - 1),
    }
    found = {}
    for place, dual in places.items():
        rows = Watched(matrix)
        assert dual.plan(rows).place == place
        prepared = dual.prepare(rows)
        parts = [prepared.solve(b).value, prepared.filtered(Tikhonov(0.1), b).value]
        found[place] = [*parts, prepared.solve_transposed(c[:, 0]).value, prepared.gram]
        tol = 1e-12 if dtype is torch.float64 else 1e-5
        torch.testing.assert_close(parts[0].double(), exact, rtol=0, atol=tol)
    for place in ("disk", "recomputed"):
        for part, own in zip(found["memory"], found[place], strict=True):
            size = float(part.norm())
            assert float((own - part).norm()) <= (1e-12 if dtype is torch.float64 else 1e-6) * size


class TestTheFileOfRows:
    def test_holds_all_rows_from_the_one_asked_for(self, tmp_path):
        matrix = draw(200, 5)
        kept = keep_on_disk(Watched(matrix), tmp_path, start=3)
        assert isinstance(kept, StoredRows)
        assert torch.equal(kept.to_dense(), matrix[3:])
        assert len(list(tmp_path.iterdir())) == 1

    def test_vanishes_with_the_operator(self, tmp_path):
        kept = keep_on_disk(Watched(draw(200, 5)), tmp_path)
        assert kept.path.exists()
        del kept
        gc.collect()
        assert list(tmp_path.iterdir()) == []

    def test_vanishes_with_what_a_solver_prepared(self, tmp_path):
        prepared = DiskDual(memory_budget=whole(7, 9, 8) - 1, folder=tmp_path).prepare(Watched(draw(7, 9)))
        assert len(list(tmp_path.iterdir())) == 1
        del prepared
        gc.collect()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("fails_at", [1, 100, 199])
    def test_is_not_left_by_an_interrupt(self, tmp_path, fails_at):
        rows = Watched(draw(200, 5), fails_at=fails_at)
        with pytest.raises(KeyboardInterrupt):
            keep_on_disk(rows, tmp_path)
        assert len(rows.asked) == fails_at // 64 * 64
        assert list(tmp_path.iterdir()) == []

    def test_is_not_left_by_a_full_disk(self, tmp_path, monkeypatch):
        def full(stored: StoredRows, start: int, rows: Tensor) -> None:
            raise OSError(28, "no room")

        monkeypatch.setattr(StoredRows, "write", full)
        with pytest.raises(OSError, match="no room"):
            keep_on_disk(Watched(draw(200, 5)), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_two_at_once_do_not_meet(self, tmp_path):
        one = keep_on_disk(Watched(draw(200, 5)), tmp_path)
        two = keep_on_disk(Watched(-draw(200, 5)), tmp_path)
        assert torch.equal(one.to_dense(), -two.to_dense())


def test_kept_rows_are_not_computed_again():
    rows = DenseOperator(draw(4, 9))
    assert Dual(memory_budget=2**20).prepare(rows).operator is rows


def test_numpy_agrees_on_the_free_disk(tmp_path):
    """A file reserved in full is no larger than what the plan foretold, but for its head."""
    dual = DiskDual(memory_budget=whole(7, 9, 8) - 1, folder=tmp_path)
    plan = dual.plan(Watched(draw(7, 9)))
    prepared = dual.prepare(Watched(draw(7, 9)))
    (file,) = tmp_path.iterdir()
    assert 0 < file.stat().st_size - plan.disk <= 256
    assert np.load(file).nbytes == plan.disk
    assert prepared.rank == 7


def test_the_memory_of_the_gram_matrix_is_a_part_of_that_of_the_plan(tmp_path):
    plans = [
        plan_rows((200, 600), torch.float64, memory_budget=budget, folder=tmp_path)
        for budget in (4_000_000, 3_000_000, 2_000_000, 700_000)
    ]
    assert [plan.place for plan in plans] == ["memory", "disk", "disk", "disk"]
    assert [plan.gram_memory == 24 * 200**2 for plan in plans] == [True, True, True, False]
    assert all(0 < plan.gram_memory < plan.memory for plan in plans)


def test_the_solver_knows_the_disk_only_where_a_folder_is_given(tmp_path):
    assert gram_solver(100, None) == Dual(memory_budget=100)
    solver = gram_solver(100, tmp_path, is_equilibrated=True)
    assert solver == DiskDual(memory_budget=100, folder=tmp_path, is_equilibrated=True)
