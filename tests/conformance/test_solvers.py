"""Every solver against one table of systems, with dense linear algebra as the oracle."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solset import SolverError
from solset.errors import Status
from solset.linalg import DenseOperator
from solset.solvers import CG, LSMR, MINRES, Dense, Dual, FirstToConverge, LiSSA
from support.systems import (
    DEFINITE,
    INCONSISTENT,
    INDEFINITE,
    REGULAR_INDEFINITE,
    SEMIDEFINITE,
    TABLE,
    TALL,
    TIGHT,
    WIDE,
    consistent_rhs,
    rectangular,
    rng,
)


@pytest.mark.parametrize(("solver", "case"), TABLE)
class TestConsistent:
    def test_one_right_hand_side_gives_the_pseudo_inverse(self, solver, case):
        matrix = case.matrix()
        b = consistent_rhs(matrix)
        solution = solver.solve(case.operator(torch.float64), b)
        assert solution.status is Status.CONVERGED
        assert solution.residual <= 1e-11
        torch.testing.assert_close(solution.value, torch.linalg.pinv(matrix) @ b, rtol=0, atol=1e-8)

    def test_a_block_gives_each_columns_solution(self, solver, case):
        matrix = case.matrix()
        b = consistent_rhs(matrix, (3,))
        b[:, 1] = 0.0
        solution = solver.solve(case.operator(torch.float64), b)
        assert solution.status is Status.CONVERGED
        assert solution.value.shape == (matrix.shape[1], 3)
        torch.testing.assert_close(solution.value, torch.linalg.pinv(matrix) @ b, rtol=0, atol=1e-8)

    def test_zero_right_hand_side_gives_exactly_zero(self, solver, case):
        m, p = case.matrix().shape
        solution = solver.solve(case.operator(torch.float64), torch.zeros(m, dtype=torch.float64))
        assert solution.status is Status.CONVERGED
        assert solution.residual == 0.0
        assert torch.equal(solution.value, torch.zeros(p, dtype=torch.float64))

    def test_float32_stays_float32_and_converges_to_its_precision(self, solver, case):
        matrix = case.matrix()
        b = consistent_rhs(matrix)
        solution = solver.solve(case.operator(torch.float32), b.to(torch.float32))
        expected = torch.linalg.pinv(matrix, rtol=1e-5) @ b
        assert solution.value.dtype is torch.float32
        assert solution.status is Status.CONVERGED
        error = torch.linalg.vector_norm(solution.value.double() - expected)
        singular = torch.linalg.svdvals(matrix)
        condition = float(singular.max() / singular[singular > 1e-5].min())
        # Forward error: condition number times the residual that counts as converged in float32.
        assert error <= condition * 100 * torch.finfo(torch.float32).eps * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize(("solver", "case"), INCONSISTENT)
class TestInconsistent:
    def test_least_squares_of_minimum_norm_with_its_residual(self, solver, case):
        matrix = case.matrix()
        b = torch.randn(matrix.shape[0], generator=rng(8), dtype=torch.float64)
        inverse = torch.linalg.pinv(matrix, rtol=1e-10)
        off_range = torch.linalg.vector_norm(b - matrix @ (inverse @ b)) / torch.linalg.vector_norm(b)
        solution = solver.solve(case.operator(torch.float64), b)
        assert solution.status is Status.INCONSISTENT
        assert solution.residual == pytest.approx(float(off_range), rel=1e-8)
        torch.testing.assert_close(solution.value, inverse @ b, rtol=0, atol=1e-8)

    def test_a_right_hand_side_wholly_off_the_range_has_residual_one(self, solver, case):
        matrix = case.matrix()
        b = torch.randn(matrix.shape[0], generator=rng(9), dtype=torch.float64)
        inverse = torch.linalg.pinv(matrix, rtol=1e-10)
        b = b - matrix @ (inverse @ b)
        b = b - matrix @ (inverse @ b)
        solution = solver.solve(case.operator(torch.float64), b)
        assert solution.status is Status.INCONSISTENT
        assert solution.residual == pytest.approx(1.0, abs=1e-8)
        assert float(torch.linalg.vector_norm(solution.value)) <= 1e-8

    def test_a_block_reports_its_worst_column(self, solver, case):
        matrix = case.matrix()
        b = consistent_rhs(matrix, (2,))
        b[:, 1] = torch.randn(matrix.shape[0], generator=rng(8), dtype=torch.float64)
        solution = solver.solve(case.operator(torch.float64), b)
        worst = solver.solve(case.operator(torch.float64), b[:, 1].contiguous())
        assert solution.status is Status.INCONSISTENT
        assert solution.residual == pytest.approx(worst.residual, rel=1e-8)


@pytest.mark.parametrize("matrix", [INDEFINITE, REGULAR_INDEFINITE])
def test_conjugate_gradients_say_indefinite(matrix):
    b = consistent_rhs(matrix)
    solution = CG().solve(DenseOperator(matrix), b)
    assert solution.status is Status.INDEFINITE
    with pytest.raises(SolverError, match="indefinite") as caught:
        solution.raise_if_failed()
    assert caught.value.solution is solution


@pytest.mark.parametrize("scale", [None, 1.0])
def test_lissa_says_diverged_on_negative_curvature(scale):
    b = consistent_rhs(REGULAR_INDEFINITE)
    solution = LiSSA(scale=scale).solve(DenseOperator(REGULAR_INDEFINITE), b)
    assert solution.status is Status.DIVERGED
    assert solution.residual <= 1.0


def test_lissa_says_diverged_when_its_scale_is_too_small():
    solution = LiSSA(scale=1.5).solve(DenseOperator(DEFINITE), consistent_rhs(DEFINITE))
    assert solution.status is Status.DIVERGED


@pytest.mark.parametrize("solver", [LSMR(max_steps=2), MINRES(max_steps=2), LiSSA(max_steps=2)], ids=repr)
def test_running_out_of_steps_is_said(solver):
    solution = solver.solve(DenseOperator(DEFINITE), consistent_rhs(DEFINITE))
    assert solution.status is Status.MAX_STEPS
    assert solution.residual > solver.tol


@pytest.mark.parametrize("solver", [CG(damping=0.5), LiSSA(damping=0.5)], ids=repr)
def test_damping_solves_the_damped_system(solver):
    b = torch.randn(6, generator=rng(15), dtype=torch.float64)
    solution = solver.solve(DenseOperator(SEMIDEFINITE), b)
    expected = torch.linalg.solve(SEMIDEFINITE + 0.5 * torch.eye(6, dtype=torch.float64), b)
    assert solution.status is Status.CONVERGED
    torch.testing.assert_close(solution.value, expected, rtol=0, atol=1e-6)


def test_damped_least_squares_converge_to_the_damped_system():
    b = torch.randn(9, generator=rng(16), dtype=torch.float64)
    solution = LSMR(tol=TIGHT, damping=0.5).solve(DenseOperator(TALL), b)
    expected = torch.linalg.solve(TALL.T @ TALL + 0.25 * torch.eye(4, dtype=torch.float64), TALL.T @ b)
    assert solution.status is Status.CONVERGED
    torch.testing.assert_close(solution.value, expected, rtol=0, atol=1e-10)


def test_a_perfect_preconditioner_leaves_one_step():
    b = consistent_rhs(DEFINITE)
    plain = CG(tol=TIGHT).solve(DenseOperator(DEFINITE), b)
    inverse = torch.linalg.inv(DEFINITE)
    helped = CG(tol=TIGHT, preconditioner=DenseOperator((inverse + inverse.T) / 2)).solve(
        DenseOperator(DEFINITE), b
    )
    assert helped.steps <= 2 < plain.steps
    torch.testing.assert_close(helped.value, plain.value, rtol=0, atol=1e-10)


class TestFirstToConverge:
    def test_steps_over_a_failure_and_counts_its_steps(self):
        b = consistent_rhs(REGULAR_INDEFINITE)
        operator = DenseOperator(REGULAR_INDEFINITE)
        both = FirstToConverge((CG(tol=TIGHT), MINRES(tol=TIGHT))).solve(operator, b)
        assert both.status is Status.CONVERGED
        parts = CG(tol=TIGHT).solve(operator, b).steps + MINRES(tol=TIGHT).solve(operator, b).steps
        assert both.steps == parts

    def test_returns_the_last_failure_if_none_succeeds(self):
        solution = FirstToConverge((LSMR(max_steps=1), LSMR(max_steps=2))).solve(
            DenseOperator(DEFINITE), consistent_rhs(DEFINITE)
        )
        assert (solution.status, solution.steps) == (Status.MAX_STEPS, 3)

    def test_an_inconsistent_system_is_an_answer(self):
        b = torch.randn(6, generator=rng(8), dtype=torch.float64)
        solution = FirstToConverge((MINRES(tol=TIGHT), LiSSA(max_steps=1))).solve(
            DenseOperator(SEMIDEFINITE), b
        )
        assert solution.status is Status.INCONSISTENT

    def test_without_a_solver_is_refused(self):
        with pytest.raises(ValueError, match="at least one"):
            FirstToConverge(())


@pytest.mark.parametrize("solver", [CG(), MINRES(), LiSSA()], ids=repr)
def test_solvers_for_symmetric_operators_refuse_rows(solver):
    with pytest.raises(TypeError, match="symmetric"):
        solver.prepare(DenseOperator(WIDE))


def test_the_gram_side_refuses_a_bare_hessian():
    with pytest.raises(TypeError, match="Use Dense, CG or MINRES"):
        Dual().prepare(DenseOperator(DEFINITE))


@pytest.mark.parametrize("solver", [Dense(memory_budget=100), Dual(memory_budget=100)], ids=repr)
def test_a_memory_budget_is_kept(solver):
    with pytest.raises(ValueError, match="memory_budget"):
        solver.prepare(DenseOperator(WIDE))


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 5),
    p=st.integers(1, 7),
    rank=st.integers(1, 5),
    seed=st.integers(0, 10_000),
)
def test_solvers_of_rows_agree_on_every_shape_and_rank(m, p, rank, seed):
    singular = torch.linspace(0.5, 3.0, min(m, p, rank)).tolist()
    matrix = rectangular(m, p, singular, seed)
    b = torch.randn(m, generator=rng(seed), dtype=torch.float64)
    expected = torch.linalg.pinv(matrix, rtol=1e-10) @ b
    for solver in (LSMR(tol=TIGHT), Dense(), Dual()):
        if isinstance(solver, Dual) and matrix.shape == (1, 1):
            continue  # a 1 x 1 matrix is symmetric, which Dual refuses
        value = solver.solve(DenseOperator(matrix), b).value
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-8)
