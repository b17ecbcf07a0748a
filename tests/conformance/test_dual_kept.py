"""The Gram side on equilibrated rows, on rows kept on the disk, and with rows added later."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from solset.errors import Status
from solset.linalg import BlockDiagonal, DenseOperator, NormalOperator, Product
from solset.outofcore import DiskDual, gram_solver
from solset.solvers import Dual
from solset.solvers.filters import GradientFlow, MinimumNorm, RankCut, Tikhonov
from support.systems import ROWS, WIDE, WIDE_SINGULAR, Watched, consistent_rhs, orthogonal, rng

SCALES = torch.logspace(-12, 0, 8, dtype=torch.float64)
PLAIN, SCALED = Dual(), Dual(is_equilibrated=True)


def scaled_rows(scales: Tensor = SCALES, p: int = 20) -> Tensor:
    """Well-conditioned rows of full rank, scaled one by one."""
    m = len(scales)
    mix = orthogonal(m, 1) + 0.3 * torch.eye(m, dtype=torch.float64)
    return scales.unsqueeze(1) * (mix @ orthogonal(p, 2)[:m])


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


class TestShortRows:
    """Rows of length 1e-12 to 1 that are as independent as rows can be."""

    MATRIX = scaled_rows()
    TRUTH = torch.randn(20, generator=rng(3), dtype=torch.float64)

    @property
    def exact(self) -> tuple[Tensor, Tensor]:
        """A right-hand side, and the projection of the truth on the rows' span: of the unscaled system."""
        good = self.MATRIX / SCALES.unsqueeze(1)
        return self.MATRIX @ self.TRUTH, torch.linalg.pinv(good) @ (good @ self.TRUTH)

    def test_are_all_kept_once_their_lengths_are_taken_out(self):
        b, exact = self.exact
        prepared = SCALED.prepare(DenseOperator(self.MATRIX))
        solution = prepared.solve(b)
        assert prepared.rank == 8
        assert solution.status is Status.CONVERGED
        assert error(solution.value, exact) <= 1e-12

    def test_are_cut_where_their_lengths_count_as_singular_values(self):
        b, exact = self.exact
        prepared = PLAIN.prepare(DenseOperator(self.MATRIX))
        assert prepared.rank < 8
        assert error(prepared.solve(b).value, exact) > 1e-2

    def test_hold_one_by_one(self):
        b, _ = self.exact
        v = SCALED.solve(DenseOperator(self.MATRIX), b).value
        assert float(((self.MATRIX @ v - b) / b).abs().max()) <= 1e-10

    @pytest.mark.parametrize("size", [1e-12, 1e12])
    def test_the_solution_does_not_depend_on_the_rows_lengths(self, size):
        b, exact = self.exact
        flipped = SCALES.flip(0) * size / SCALES
        found = SCALED.solve(DenseOperator(flipped.unsqueeze(1) * self.MATRIX), flipped * b)
        assert error(found.value, exact) <= 1e-12

    def test_the_transposed_system(self):
        u = torch.randn(8, generator=rng(4), dtype=torch.float64) / SCALES
        found = SCALED.prepare(DenseOperator(self.MATRIX)).solve_transposed(self.MATRIX.T @ u)
        assert found.residual <= 1e-12
        assert error(found.value * SCALES, u * SCALES) <= 1e-8

    def test_samples_of_the_null_space_stay_in_it(self):
        rows = DenseOperator(self.MATRIX)
        v = torch.randn(20, generator=rng(5), dtype=torch.float64)
        left = v - SCALED.solve(rows, rows @ v).value
        assert float(((self.MATRIX @ left) / SCALES).norm()) <= 1e-10

    def test_in_blocks(self):
        b = self.MATRIX @ torch.randn(20, 3, generator=rng(6), dtype=torch.float64)
        prepared = SCALED.prepare(DenseOperator(self.MATRIX))
        single = torch.stack([prepared.solve(b[:, j].contiguous()).value for j in range(3)], dim=1)
        torch.testing.assert_close(prepared.solve(b).value, single, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [case for case in ROWS if "tall" not in case.name], ids=lambda c: c.name)
def test_any_consistent_system_has_its_minimum_norm_solution_either_way(case):
    """Scaling rows changes neither the solution set nor what is orthogonal to its directions."""
    matrix = case.matrix()
    b = consistent_rhs(matrix)
    found = SCALED.solve(case.operator(torch.float64), b)
    assert found.status is Status.CONVERGED
    assert error(found.value, torch.linalg.pinv(matrix, rtol=1e-10) @ b) <= 1e-10


def test_an_inconsistent_system_is_said_to_be_so_and_its_compromise_weighs_rows_alike():
    matrix = torch.tensor([[1.0, 0.0], [100.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([0.0, 100.0], dtype=torch.float64)  # v_1 = 0 and v_1 = 1
    found = SCALED.solve(DenseOperator(matrix), b)
    assert found.status is Status.INCONSISTENT
    torch.testing.assert_close(found.value, torch.tensor([0.5, 0.0]).double(), rtol=0, atol=1e-12)
    plain = PLAIN.solve(DenseOperator(matrix), b).value
    torch.testing.assert_close(plain, torch.linalg.pinv(matrix) @ b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("choice", [GradientFlow(steps=30, learning_rate=0.05), Tikhonov(1e-3)])
def test_filters_that_follow_training_do_not_see_the_scaling(choice):
    matrix = torch.tensor([[1.0], [3.0], [0.1], [1.0]], dtype=torch.float64) * WIDE
    b = consistent_rhs(matrix)
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    phi = choice(values, values > 0)
    exact = matrix.T @ (vectors @ (phi * (vectors.T @ b)))
    for dual in (PLAIN, SCALED):
        assert error(dual.prepare(DenseOperator(matrix)).filtered(choice, b).value, exact) <= 1e-12


def test_a_rank_cut_acts_on_the_scaled_rows():
    scales = torch.tensor([1e-3, 1.0, 1e-2, 1.0], dtype=torch.float64)
    matrix = scales.unsqueeze(1) * WIDE
    b = consistent_rhs(matrix)
    unit = matrix / matrix.norm(dim=1, keepdim=True)
    values, vectors = torch.linalg.eigh(unit @ unit.T)
    cut = float((values[1] * values[2]).sqrt() / values[-1])
    big = vectors[:, 2:]
    exact = unit.T @ (big @ ((big.T @ (b / matrix.norm(dim=1))) / values[2:]))
    found = SCALED.prepare(DenseOperator(matrix)).filtered(RankCut(cut), b).value
    assert error(found, exact) <= 1e-10
    assert error(PLAIN.prepare(DenseOperator(matrix)).filtered(RankCut(cut), b).value, exact) > 1e-2


def test_the_minimum_norm_filter_is_the_solution():
    matrix = scaled_rows(torch.logspace(-3, 0, 5, dtype=torch.float64))
    b = consistent_rhs(matrix)
    prepared = SCALED.prepare(DenseOperator(matrix))
    assert error(prepared.filtered(MinimumNorm(), b).value, prepared.solve(b).value) <= 1e-9


def test_curvature_and_weighted_rows_do_not_see_the_scaling():
    matrix = torch.tensor([[1.0], [3.0], [0.1], [1.0]], dtype=torch.float64) * WIDE
    weights = BlockDiagonal(torch.randn(2, 2, 2, generator=rng(8), dtype=torch.float64))
    b, c = consistent_rhs(matrix), consistent_rhs(matrix.T @ matrix)
    plain, scaled = (dual.prepare(DenseOperator(matrix)) for dual in (PLAIN, SCALED))
    for choice in (MinimumNorm(), Tikhonov(1e-3), GradientFlow(steps=9, learning_rate=0.01)):
        one, two = (side.curvature().filtered(choice, c).value for side in (plain, scaled))
        assert torch.equal(one, two)
        one, two = (side.weighted(weights).filtered(choice, b).value for side in (plain, scaled))
        assert torch.equal(one, two)
    dense = weights.to_dense() @ matrix
    exact = torch.linalg.pinv(dense) @ (weights @ b)
    assert error(scaled.weighted(weights).solve(weights @ b).value, exact) <= 1e-9
    assert error(scaled.curvature().solve(c).value, torch.linalg.pinv(matrix.T @ matrix) @ c) <= 1e-8


def test_a_normal_operator_is_solved_as_without():
    operator = NormalOperator(DenseOperator(WIDE), 0.3)
    c = torch.randn(9, generator=rng(9), dtype=torch.float64)
    exact = torch.linalg.solve(operator.to_dense(), c)
    assert error(SCALED.solve(operator, c).value, exact) <= 1e-12


@pytest.mark.parametrize("size", [0.0, 1e-200])
def test_a_zero_row_is_harmless(size):
    matrix = torch.cat([WIDE[:2], size * WIDE[:1], WIDE[2:]])
    b = matrix @ torch.randn(9, generator=rng(10), dtype=torch.float64)
    prepared = SCALED.prepare(DenseOperator(matrix))
    assert prepared.rank == 4
    assert error(prepared.solve(b).value, torch.linalg.pinv(WIDE) @ b[[0, 1, 3, 4]]) <= 1e-10
    zero = SCALED.prepare(DenseOperator(torch.zeros(2, 3, dtype=torch.float64)))
    assert zero.rank == 0
    assert torch.equal(zero.solve(torch.zeros(2).double()).value, torch.zeros(3).double())
    assert zero.solve(torch.ones(2).double()).status is Status.INCONSISTENT


def test_the_transposed_solution_of_dependent_rows_satisfies_its_equation():
    matrix = torch.tensor([[1.0], [3.0], [0.1], [1.0]], dtype=torch.float64) * WIDE_SINGULAR
    c = consistent_rhs(matrix.T.contiguous())
    found = SCALED.prepare(DenseOperator(matrix)).solve_transposed(c)
    assert found.status is Status.CONVERGED
    torch.testing.assert_close(matrix.T @ found.value, c, rtol=0, atol=1e-10)


def test_the_transposed_solution_of_dependent_rows_has_minimum_norm():
    matrix = torch.tensor([[1.0], [3.0], [0.1], [1.0]], dtype=torch.float64) * WIDE_SINGULAR
    c = consistent_rhs(matrix.T.contiguous())
    found = SCALED.prepare(DenseOperator(matrix)).solve_transposed(c)
    assert error(found.value, torch.linalg.pinv(matrix.T, rtol=1e-10) @ c) <= 1e-8


PLACES = ["memory", "disk", "recomputed"]


def budget(m: int, p: int) -> int:
    """What ``m`` short rows take in memory."""
    return 24 * m * m + m * p * 24


def dual_for(place: str, matrix: Tensor, folder: Path, **options: bool) -> Dual:
    need = budget(matrix.shape[0], matrix.shape[1])
    limit = need if place == "memory" else need - 1
    return gram_solver(limit, folder if place == "disk" else None, **options)


@pytest.mark.parametrize("is_equilibrated", [False, True])
@pytest.mark.parametrize("place", PLACES)
class TestMoreRows:
    MATRIX = scaled_rows(torch.logspace(-2, 0, 9, dtype=torch.float64), p=30)

    def grown(self, place: str, folder: Path, is_equilibrated: bool, steps: list[int]):
        matrix, operators = self.MATRIX, []
        dual = dual_for(place, matrix, folder, is_equilibrated=is_equilibrated)
        if place == "disk":  # the first rows would fit the memory
            dual = replace(dual, memory_budget=24 * 81 + 9 * 30 * 16)
        assert dual.plan(DenseOperator(matrix)).place == place
        prepared = None
        for count in steps:
            operators.append(Watched(matrix[:count]))
            prepared = (
                dual.prepare(operators[0]) if prepared is None else dual.extend(prepared, operators[-1])
            )
        return dual, prepared, operators

    @pytest.mark.parametrize("steps", [[4, 9], [1, 2, 9], [3, 5, 6, 9]])
    def test_are_as_if_they_had_been_there_from_the_start(self, tmp_path, place, is_equilibrated, steps):
        dual, prepared, _ = self.grown(place, tmp_path, is_equilibrated, steps)
        whole = dual.prepare(Watched(self.MATRIX))
        b = consistent_rhs(self.MATRIX)
        torch.testing.assert_close(prepared.gram, whole.gram, rtol=1e-12, atol=1e-14)
        assert (prepared.rank, prepared.tolerance) == (whole.rank, whole.tolerance)
        assert prepared.is_equilibrated == is_equilibrated
        assert error(prepared.solve(b).value, torch.linalg.pinv(self.MATRIX) @ b) <= 1e-10
        for choice in (Tikhonov(0.1), RankCut(1e-3)):
            assert error(prepared.filtered(choice, b).value, whole.filtered(choice, b).value) <= 1e-10


@pytest.mark.parametrize("is_equilibrated", [False, True])
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_no_old_row_is_computed_again_where_rows_are_kept(tmp_path, place, is_equilibrated):
    _, prepared, operators = TestMoreRows().grown(place, tmp_path, is_equilibrated, [4, 6, 9])
    assert [operator.asked for operator in operators] == [[0, 1, 2, 3], [4, 5], [6, 7, 8]]
    parts = getattr(prepared.operator, "parts", (prepared.operator,))
    assert place == "memory" or not any(isinstance(part, DenseOperator) for part in parts)
    assert torch.equal(prepared.operator.to_dense(), TestMoreRows.MATRIX)


def test_rows_that_were_kept_in_memory_do_not_break_a_budget_that_only_the_disk_keeps(tmp_path):
    """Growing must not hold more than the budget: what no longer fits has to move."""
    matrix = torch.randn(12, 8000, generator=rng(11), dtype=torch.float64)
    dual = DiskDual(memory_budget=budget(9, 8000), folder=tmp_path)
    first = dual.prepare(Watched(matrix[:9]))
    assert dual.plan(Watched(matrix[:9])).place == "memory"
    grown = dual.extend(first, Watched(matrix))
    plan = dual.plan(Watched(matrix))
    assert plan.place == "disk"
    parts = getattr(grown.operator, "parts", (grown.operator,))
    held = sum(part.matrix.nbytes for part in parts if isinstance(part, DenseOperator))
    assert held + plan.memory <= dual.memory_budget


def test_weighted_rows_that_were_added_are_weighted(tmp_path):
    weights = BlockDiagonal(torch.rand(4, 1, 1, generator=rng(12), dtype=torch.float64) + 0.5)
    grown = SCALED.extend(SCALED.prepare(DenseOperator(WIDE[:2])), DenseOperator(WIDE))
    dense = weights.to_dense() @ WIDE
    weighted = grown.weighted(weights)
    assert isinstance(weighted.operator, Product)
    torch.testing.assert_close(weighted.operator.to_dense(), dense)
    b = consistent_rhs(dense)
    assert error(weighted.solve(b).value, torch.linalg.pinv(dense) @ b) <= 1e-10


def test_single_precision_products_serve_only_well_conditioned_rows() -> None:
    g = torch.Generator().manual_seed(0)
    apart = torch.randn(20, 4000, generator=g)
    close = apart.clone()
    close[1] = close[0] + 1e-3 * torch.randn(4000, generator=g)
    for rows, is_quick in ((apart, True), (close, False)):
        prepared = Dual().prepare(DenseOperator(rows))
        exact = (rows.double() @ rows.double().T).to(prepared.gram)
        error = float((prepared.gram - exact).norm() / exact.norm())
        assert (error > 1e-12) == is_quick
        assert error <= 1e-6
    rhs = torch.randn(20, generator=g)
    assert Dual().solve(DenseOperator(apart), rhs).residual <= 1e-6
