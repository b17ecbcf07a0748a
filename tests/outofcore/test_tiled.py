"""``Dual`` with less memory than its Gram matrix takes: planned, kept on the disk, and as exact."""

import gc
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from solset import SolsetWarning, comm
from solset.errors import Status
from solset.linalg import BlockDiagonal, DenseOperator, NormalOperator
from solset.outofcore import DiskDual, StoredRows, TiledPrepared, Tiles, free_bytes
from solset.outofcore import _disk_dual as disk_plan
from solset.outofcore._disk_dual import FILES, DiskSizes
from solset.solvers import Dual, DualPrepared, RowSizes
from solset.solvers.filters import GradientFlow, MinimumNorm, RankCut, Tikhonov
from support.systems import NormalFree, Tiled, plan_rows, rectangular

M, P = 200, 600
WHOLE = 24 * M * M + 24 * M * P  # what it takes in memory
BUDGET = 700_000  # of 960 000 for the Gram matrix and its decomposition alone


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def graded(condition: float) -> Tensor:
    """Rows whose singular values fall from one to the inverse of the condition."""
    left, right = torch.linalg.qr(draw(M, M))[0], torch.linalg.qr(draw(P, M, seed=1))[0]
    return (left * torch.logspace(0, -float(torch.tensor(condition).log10()), M).double()) @ right.T


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def sizes(rows: int) -> DiskSizes:
    return DiskSizes(RowSizes(rows, P, torch.float64), Path())


@pytest.fixture
def dual(tmp_path) -> DiskDual:
    return DiskDual(memory_budget=BUDGET, folder=tmp_path)


class TestThePlan:
    def test_puts_both_on_the_disk_and_says_so(self, dual):
        plan = dual.plan(NormalFree(graded(10)))
        assert (plan.place, plan.sweeps) == ("disk", 1.0)
        assert plan.side >= sizes(M).least_side
        assert plan.memory == sizes(M).tile_memory(plan.side) <= BUDGET
        rows = StoredRows.bytes_for((M, P), torch.float64)
        assert plan.disk == rows + FILES * Tiles.bytes_for(M, plan.side)
        assert f"the Gram matrix too, in tiles of {plan.side}" in str(plan)

    def test_takes_the_largest_tiles_that_fit(self, dual):
        side = dual.plan(NormalFree(graded(10))).side
        count = -(-M // side)
        assert sizes(M).tile_memory(-(-M // (count - 1))) > BUDGET
        assert side == -(-M // count)  # and no room beyond the matrix is wasted

    def test_works_from_the_smallest_budget_named(self, tmp_path):
        least = DiskDual(folder=tmp_path).smallest_budget(NormalFree(graded(10)))
        assert least < WHOLE / 4
        assert plan_rows((M, P), torch.float64, memory_budget=least, folder=tmp_path).side
        with pytest.raises(ValueError, match=f"at least {least} bytes"):
            plan_rows((M, P), torch.float64, memory_budget=least - 1, folder=tmp_path)

    def test_without_a_folder_there_is_none(self):
        with pytest.raises(ValueError, match="memory_budget"):
            Dual(memory_budget=BUDGET).plan(NormalFree(graded(10)))

    def test_tiles_are_never_so_small_that_there_are_too_many(self, tmp_path):
        for rows in (10, 5_000, 100_000):
            assert rows / sizes(rows).least_side <= 64


class TestRowsReadInParts:
    """The Gram matrix fits the memory, a panel of all rows does not."""

    BUDGET = 24 * M * M + 50 * P * 32

    def test_is_planned(self, tmp_path):
        plan = plan_rows((M, P), torch.float64, memory_budget=self.BUDGET, folder=tmp_path)
        assert (plan.place, plan.rows_per_part, plan.side, plan.memory) == ("disk", 50, 0, self.BUDGET)

    def test_is_the_decomposition_of_the_same_matrix(self, tmp_path):
        matrix, b = graded(1e3), draw(M, seed=2)
        found = DiskDual(memory_budget=self.BUDGET, folder=tmp_path).prepare(NormalFree(matrix))
        exact = Dual().prepare(DenseOperator(matrix))
        torch.testing.assert_close(found.gram, exact.gram, rtol=1e-13, atol=1e-15)
        assert found.rank == M
        assert error(found.solve(b).value, exact.solve(b).value) <= 1e-8
        assert len(found.operator.parts) == 4

    def test_is_extended(self, tmp_path):
        matrix, b = graded(10), draw(M, seed=2)
        dual = DiskDual(memory_budget=self.BUDGET, folder=tmp_path)
        grown = dual.extend(dual.prepare(NormalFree(matrix[:150])), NormalFree(matrix))
        assert error(grown.solve(b).value, torch.linalg.pinv(matrix) @ b) <= 1e-10


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_all_processes_come_to_the_same_plan(tmp_path, monkeypatch, processes):
    """Of 1001 columns some keep one more than others, and some more tiles."""
    monkeypatch.setattr(comm, "size", lambda: processes)
    monkeypatch.setattr(disk_plan, "free_bytes", lambda _: 3_000_000)
    for budget in range(150_000, 3_000_000, 9_973):
        plans = set()
        for rank in range(processes):
            monkeypatch.setattr(comm, "rank", lambda rank=rank: rank)
            try:
                plans.add(plan_rows((300, 1001), torch.float64, memory_budget=budget, folder=tmp_path))
            except ValueError as error:
                plans.add(str(error))
        assert len(plans) == 1


@pytest.mark.parametrize(
    ("processes", "told", "here"), [(1, None, 1), (4, None, 4), (4, "2", 2), (1, "8", 1)]
)
def test_those_on_one_machine_share_its_disk(tmp_path, monkeypatch, processes, told, here):
    monkeypatch.setattr(comm, "size", lambda: processes)
    monkeypatch.setattr(comm, "from_first", lambda read: read())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    if told is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", told)
    assert free_bytes(tmp_path) == 1000 // here


class TestWhatIsTaken:
    def test_memory_stays_inside_the_budget(self, tmp_path):
        """Of tensors and arrays, as the allocator of NumPy counts what is read from the disk."""
        rows = NormalFree(graded(10))
        dual = DiskDual(memory_budget=BUDGET, folder=tmp_path)
        dual.prepare(rows).solve(draw(M, seed=2))  # imports what a first solve imports
        tracemalloc.start()
        prepared = dual.prepare(rows)
        prepared.solve(draw(M, seed=2))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= BUDGET

    def test_the_disk_is_as_foretold_and_given_back(self, dual, tmp_path):
        prepared = dual.prepare(NormalFree(graded(10)))
        assert prepared.rank == M
        prepared.filtered(Tikhonov(0.1), draw(M))
        taken = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert 0 <= taken - dual.plan(prepared.operator).disk <= 4 * 256
        del prepared
        gc.collect()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("condition", [10, 1e4, 1e6])
class TestEqualsTheDecomposition:
    """Up to what the condition of the rows makes of rounding."""

    def both(self, dual: Dual, condition: float) -> tuple[TiledPrepared, DualPrepared]:
        rows = DenseOperator(graded(condition))
        found = dual.prepare(rows)
        assert isinstance(found, TiledPrepared)
        return found, Dual().prepare(rows)

    def test_the_rank_and_the_ends_of_the_spectrum(self, dual, condition):
        found, exact = self.both(dual, condition)
        assert found.rank == exact.rank == M
        assert 0.3 * exact.conditioning <= found.inverse.conditioning <= 1.001 * exact.conditioning
        assert 0.3 * exact.smallest <= found.smallest <= 1.001 * exact.smallest

    def test_solutions(self, dual, condition):
        found, exact = self.both(dual, condition)
        b, c = draw(M, 2, seed=2), graded(condition).T @ draw(M, seed=3)
        one, two = found.solve(b), exact.solve(b)
        assert one.status is two.status is Status.CONVERGED
        assert error(one.value, two.value) <= max(1e-13, 1e-15 * condition)
        transposed = [side.solve_transposed(c).value for side in (found, exact)]
        assert error(*transposed) <= max(
            1e-12, 1e-16 * condition**2
        )  # of which the decomposition has its part

    @pytest.mark.parametrize("steps", [0, 1, 30, 3000, 10**7])
    def test_training_of_any_length(self, dual, condition, steps):
        found, exact = self.both(dual, condition)
        flow, b = GradientFlow(steps=steps, learning_rate=1.0), draw(M, 2, seed=2)
        one, two = found.filtered(flow, b), exact.filtered(flow, b)
        assert one.status is Status.CONVERGED
        assert float((one.value - two.value).norm()) <= 1e-9 * float(two.value.norm())

    def test_damping(self, dual, condition):
        found, exact = self.both(dual, condition)
        b = draw(M, seed=2)
        one, two = (side.filtered(Tikhonov(1e-3), b).value for side in (found, exact))
        assert error(one, two) <= 1e-11

    @pytest.mark.parametrize("damping", [0.0, 1e-3])
    @pytest.mark.parametrize("k", [None, 100])
    def test_the_curvature(self, dual, condition, damping, k):
        """Of ``AᵀA + λI`` with a right-hand side of which a part lies off the rows, if that has an answer."""
        rows = DenseOperator(graded(condition))
        left, values, right = torch.linalg.svd(rows.matrix, full_matrices=False)
        along, across = draw(M, seed=3), draw(P, seed=4) * (damping > 0)
        across = across - right.T @ (right @ across)
        prepared = dual.prepare(NormalOperator(rows, damping))
        choice = MinimumNorm() if k is None else GradientFlow(steps=k, learning_rate=0.5)
        phi = lambda s: choice(s, s > 0)  # noqa: E731
        level = torch.tensor([damping], dtype=torch.float64)
        exact = right.T @ (phi(values.square() + damping) * values * (left.T @ along)) + phi(level) * across
        found = prepared.filtered(choice, rows.T @ along + across)
        assert found.status is Status.CONVERGED
        assert error(found.value, exact) <= max(1e-11, 1e-15 * condition)

    def test_the_curvature_damped_further(self, dual, condition):
        rows, c = DenseOperator(graded(condition)), draw(P, seed=4)
        found = dual.prepare(NormalOperator(rows, 1e-3)).filtered(Tikhonov(1e-2), c).value
        exact = torch.linalg.solve(rows.matrix.T @ rows.matrix + 1.1e-2 * torch.eye(P).double(), c)
        assert error(found, exact) <= max(1e-13, 1e-16 * condition)


class TestTrainingCloseToWhereItDiverges:
    """The largest eigenvalue is one: its part swings for as long as the training lasts."""

    def both(self) -> tuple[TiledPrepared, DualPrepared, Tensor]:
        rows = DenseOperator(rectangular(20, 60, [10 ** (-k / 10) for k in range(20)]))
        return Tiled(side=20).prepare(rows), Dual().prepare(rows), draw(20, seed=2)

    @pytest.mark.parametrize("rate", [0.9, 1.0, 1.5, 1.9, 1.99, 1.9999])
    @pytest.mark.parametrize("steps", [2, 31, 100, 2000])
    def test_equals_the_decomposition(self, rate, steps):
        found, exact, b = self.both()
        flow = GradientFlow(steps=steps, learning_rate=rate)
        one, two = found.filtered(flow, b), exact.filtered(flow, b)
        assert one.status is Status.CONVERGED
        assert error(one.value, two.value) <= 1e-9

    def test_beyond_it_says_so_as_in_memory(self):
        found, exact, b = self.both()
        flow = GradientFlow(steps=40, learning_rate=2.2)
        with pytest.warns(SolsetWarning, match="diverges"):
            one = found.filtered(flow, b)
        with pytest.warns(SolsetWarning, match="diverges"):
            two = exact.filtered(flow, b)
        assert error(one.value, two.value) <= 1e-9
        endless = GradientFlow(steps=10**6, learning_rate=2.2)
        with pytest.warns(SolsetWarning, match="diverges"):
            assert found.filtered(endless, b).status is Status.NONFINITE

    def test_too_long_to_be_run_step_by_step_is_said_to_be_so(self):
        found, _, b = self.both()
        assert found.filtered(GradientFlow(steps=10**6, learning_rate=1.99999), b).status is Status.MAX_STEPS


class TestTheSpectrumThatIsNotSeen:
    def test_a_cut_below_all_of_it_is_the_solution(self, dual):
        b = draw(M, seed=2)
        found = dual.prepare(DenseOperator(graded(10)))
        assert torch.equal(found.filtered(RankCut(1e-4), b).value, found.solve(b).value)

    def test_a_cut_inside_it_is_refused_with_the_cure(self, dual):
        found = dual.prepare(DenseOperator(graded(10)))
        with pytest.raises(ValueError, match="Raise memory_budget"):
            found.filtered(RankCut(0.1), draw(M, seed=2))

    @pytest.mark.parametrize("is_equilibrated", [False, True])
    @pytest.mark.parametrize("decades", [0, 1, 2, 3])
    @pytest.mark.parametrize("shape", [(30, 80), (50, 20)], ids=["wide", "tall"])
    def test_dependent_rows_of_any_lengths_are_solved_as_in_memory(self, shape, decades, is_equilibrated):
        m, p = shape
        lengths = torch.logspace(0, -decades, m).double().unsqueeze(1)
        matrix = lengths * draw(m, p)
        matrix[20:25] = 3.0 * matrix[5:10]
        options = {"is_equilibrated": is_equilibrated, "tol": 1e-9}
        found = Tiled(side=7, **options).prepare(DenseOperator(matrix))
        exact = Dual(**options).prepare(DenseOperator(matrix))
        assert found.rank is None
        b, c = matrix @ draw(p, seed=2), matrix.T @ draw(m, seed=3)
        for rhs in (b, b + lengths.flatten() * draw(m, seed=4)):  # the second has no solution
            one, two = found.solve(rhs), exact.solve(rhs)
            assert one.status is two.status
            assert error(one.value, two.value) <= 1e-10
        one, two = found.solve_transposed(c), exact.solve_transposed(c)
        assert one.status is two.status is Status.CONVERGED
        assert error(one.value, two.value) <= 1e-10
        one, two = found.curvature().solve(c), exact.curvature().solve(c)
        assert one.status is Status.CONVERGED
        assert error(one.value, two.value) <= 1e-10

    def test_no_solution_is_claimed_only_where_eigenvalues_that_count_as_zero_carry_the_residual(self):
        """One singular value is below what the shift lets through, and above the tolerance."""
        left, right = torch.linalg.qr(draw(30, 30))[0], torch.linalg.qr(draw(60, 30, seed=1))[0]
        values = torch.logspace(0, -2, 30).double()
        values[-1], values[-2] = 0.0, 1e-6
        matrix = (left * values) @ right.T
        found = Tiled(side=7).prepare(DenseOperator(matrix))
        solution = found.solve(matrix @ draw(60, seed=2))
        assert solution.status is not Status.INCONSISTENT
        assert (solution.status is Status.CONVERGED) == (solution.residual <= 1e-8)
        assert found.solve(left[:, -1].contiguous()).status is Status.INCONSISTENT

    @pytest.mark.parametrize("size", [0.0, 1e-170])
    def test_rows_of_a_dead_network(self, size):
        found = Tiled(side=7).prepare(DenseOperator(size * graded(10)[:30]))
        solution = found.solve(torch.ones(30).double())
        assert found.rank is None
        assert solution.status is Status.INCONSISTENT
        assert not solution.value.any()
        assert found.solve(torch.zeros(30).double()).status is Status.CONVERGED

    @pytest.mark.parametrize("gap", [1e-6, 1e-7, 1e-8, 1e-9])
    def test_nearly_dependent_rows_are_solved_or_said_to_be_beyond_it(self, dual, gap):
        matrix = graded(10)
        matrix[7] = matrix[3] + gap * draw(P, seed=5) / P**0.5
        found = dual.prepare(DenseOperator(matrix))
        b = matrix @ draw(P, seed=2)
        solution = found.solve(b)
        assert solution.residual <= 1e-8
        assert found.rank == M or gap < 1e-6


@pytest.mark.parametrize("is_equilibrated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_rows_are_as_if_they_had_been_there_from_the_start(tmp_path, is_equilibrated, dtype):
    matrix = (torch.logspace(-2, 0, M).double().unsqueeze(1) * graded(10)).to(dtype)
    dual = DiskDual(memory_budget=BUDGET, folder=tmp_path, is_equilibrated=is_equilibrated)
    grown = dual.prepare(DenseOperator(matrix[:40]))
    for count in (90, 150, M):
        grown = dual.extend(grown, DenseOperator(matrix[:count]))
    whole, b = dual.prepare(DenseOperator(matrix)), matrix @ draw(P, seed=2).to(dtype)
    assert isinstance(grown, TiledPrepared)
    assert grown.rank == whole.rank == M
    assert torch.equal(grown.operator.to_dense(), matrix)
    torch.testing.assert_close(grown.matrix.to_dense(), whole.matrix.to_dense(), rtol=1e-12, atol=1e-14)
    tight = 1e-9 if dtype == torch.float64 else 1e-4
    assert error(grown.solve(b).value, torch.linalg.pinv(matrix.double()).to(dtype) @ b) <= tight


@pytest.mark.parametrize("is_equilibrated", [False, True])
def test_rows_weighted_one_by_one_need_no_new_products(is_equilibrated):
    matrix, weights = graded(10)[:20], torch.rand(20, 1, 1, dtype=torch.float64)
    weights[4] = 0.0
    found = Tiled(side=6, is_equilibrated=is_equilibrated).prepare(DenseOperator(matrix))
    weighted = found.weighted(BlockDiagonal(weights))
    assert weighted.matrix.tiles is found.matrix.tiles
    flow, b = GradientFlow(steps=200, learning_rate=0.7), draw(20, seed=2)
    exact = Dual().prepare(DenseOperator(weights.flatten().unsqueeze(1) * matrix)).filtered(flow, b)
    assert error(weighted.filtered(flow, b).value, exact.value) <= 1e-10
    assert found.weighted(BlockDiagonal(draw(10, 2, 2))) is None


@pytest.mark.parametrize(
    "choice", [MinimumNorm(), RankCut(1e-6), Tikhonov(0.1), GradientFlow(100, 0.1), GradientFlow(5, 0.1)]
)
def test_a_right_hand_side_that_is_not_finite_is_said_to_be_so(choice):
    prepared, rhs = Tiled(side=5).prepare(DenseOperator(graded(10)[:12])), draw(12)
    rhs[3] = float("nan")
    assert prepared.filtered(choice, rhs).status is Status.NONFINITE


def test_a_disk_with_room_for_smaller_tiles_only_gets_these(tmp_path, monkeypatch):
    shape, budget = (2000, P), sizes(2000).tile_memory(400)
    least = sizes(shape[0]).least_side
    needs = [
        StoredRows.bytes_for(shape, torch.float64) + FILES * Tiles.bytes_for(shape[0], side)
        for side in (least, 400)
    ]
    assert needs[0] < needs[1]
    for free, side in ((needs[1], 400), (needs[1] - 1, least)):
        monkeypatch.setattr(disk_plan, "free_bytes", lambda _, free=free: free)
        plan = plan_rows(shape, torch.float64, memory_budget=budget, folder=tmp_path)
        assert (plan.side, plan.disk <= free) == (side, True)


def test_a_gram_matrix_that_no_shift_makes_definite_is_refused_with_the_cure():
    matrix = graded(10)[:12]
    matrix[5, 3] = float("nan")
    prepared = Tiled(side=5).prepare(DenseOperator(matrix))
    assert not prepared.is_finite
    assert prepared.rank is None
    with pytest.raises(ValueError, match="must be finite.*LSMR"):
        prepared.solve(draw(12))
