"""What a solver keeps: the transposed system, the curvature, the rank, the weighted rows."""

import pytest
import torch

from solset.derivatives import Constraint
from solset.errors import Status
from solset.linalg import BlockDiagonal, DenseOperator
from solset.sets import AffineSet
from solset.solvers import LSMR, Dense, Dual, FirstToConverge
from solset.solvers.filters import Tikhonov
from support.systems import NORMAL, POSITIVE, ROWS, SIGNED, TIGHT, WIDE, NormalFree, consistent_rhs, rng


def test_the_gram_side_needs_no_room_for_the_rows():
    rows = NormalFree(WIDE)
    budget = 24 * 16 + 2 * 9 * 16
    b = consistent_rhs(WIDE)
    prepared = Dual(memory_budget=budget).prepare(rows)
    assert prepared.operator is rows
    torch.testing.assert_close(prepared.solve(b).value, torch.linalg.pinv(WIDE) @ b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", [LSMR(tol=TIGHT), Dense(), Dual(), FirstToConverge((LSMR(tol=TIGHT),))])
@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.name)
class TestTransposedAndCurvature:
    def test_the_transposed_system(self, solver, case):
        matrix = case.matrix()
        c = consistent_rhs(matrix.T.contiguous())
        solution = solver.prepare(case.operator(torch.float64)).solve_transposed(c)
        assert solution.status is Status.CONVERGED
        torch.testing.assert_close(solution.value, torch.linalg.pinv(matrix.T) @ c, rtol=0, atol=1e-8)

    def test_the_curvature_is_the_normal_operator(self, solver, case):
        matrix = case.matrix()
        curvature = solver.prepare(case.operator(torch.float64)).curvature()
        torch.testing.assert_close(curvature.operator.to_dense(), matrix.T @ matrix)
        c = consistent_rhs(matrix.T @ matrix)
        expected = torch.linalg.pinv(matrix.T @ matrix, rtol=1e-10) @ c
        torch.testing.assert_close(curvature.solve(c).value, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("solver", [LSMR(tol=TIGHT), Dense(), Dual(), FirstToConverge((LSMR(tol=TIGHT),))])
@pytest.mark.parametrize(
    "case", [case for case in ROWS if case.name != "tall"], ids=lambda case: case.name
)  # a tall matrix of full column rank has no such right-hand side
def test_the_transposed_system_without_a_solution(solver, case):
    matrix = case.matrix()
    c = torch.randn(matrix.shape[1], generator=rng(17), dtype=torch.float64)
    solution = solver.prepare(case.operator(torch.float64)).solve_transposed(c)
    assert solution.status is Status.INCONSISTENT
    torch.testing.assert_close(solution.value, torch.linalg.pinv(matrix.T, rtol=1e-10) @ c, rtol=0, atol=1e-8)


@pytest.mark.parametrize("case", POSITIVE + SIGNED + ROWS, ids=lambda case: case.name)
def test_numerical_rank(case):
    expected = int(torch.linalg.matrix_rank(case.matrix()))
    assert Dense().prepare(case.operator(torch.float64)).rank == expected
    if case in NORMAL + ROWS:
        assert Dual().prepare(case.operator(torch.float64)).rank == expected
    assert LSMR().prepare(case.operator(torch.float64)).rank is None


def test_row_weights_reuse_the_gram_matrix():
    weights = BlockDiagonal(torch.randn(2, 2, 2, generator=rng(18), dtype=torch.float64))
    b = torch.randn(4, generator=rng(19), dtype=torch.float64)
    weighted = Dual().prepare(DenseOperator(WIDE)).weighted(weights)
    assert weighted is not None
    matrix = weights.to_dense() @ WIDE
    torch.testing.assert_close(weighted.operator.to_dense(), matrix)
    torch.testing.assert_close(weighted.solve(b).value, torch.linalg.pinv(matrix) @ b, rtol=0, atol=1e-9)
    assert Dense().prepare(DenseOperator(WIDE)).weighted(weights) is None


def test_a_constraint_is_prepared_once_and_only_when_needed():
    made = []

    class Watched(Dense):
        def prepare(self, operator):
            made.append(operator)
            return super().prepare(operator)

    constraint = Constraint(DenseOperator(WIDE), Watched())
    b = consistent_rhs(WIDE)
    answer = AffineSet(lambda: constraint.system, b, torch.zeros(9, dtype=torch.float64))
    assert constraint.operator.shape == (4, 9)
    assert not made
    torch.testing.assert_close(answer.min_norm().value, torch.linalg.pinv(WIDE) @ b, rtol=0, atol=1e-10)
    assert constraint.system.rank == 4
    constraint.system.filtered(Tikhonov(1.0), b)
    assert len(made) == 1
