"""Every solver against one table of systems, with dense linear algebra as the oracle."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solset.errors import Status
from solset.linalg import BlockDiagonal, DenseOperator, LinearOperator, NormalOperator
from solset.solvers import CG, LSMR, MINRES, Dense, Dual, FirstToConverge, LiSSA, Solver, SolverError
from solset.solvers.base import Deferred
from solset.solvers.filters import Filter, GradientFlow, MinimumNorm, RankCut, Tikhonov

TIGHT = 1e-12


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthogonal(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=rng(seed), dtype=torch.float64))[0]


def symmetric(eigenvalues: list[float], seed: int = 1) -> Tensor:
    U = orthogonal(len(eigenvalues), seed)
    matrix = (U * torch.tensor(eigenvalues, dtype=torch.float64)) @ U.T
    return (matrix + matrix.T) / 2


def rectangular(m: int, p: int, singular: list[float], seed: int = 2) -> Tensor:
    r = len(singular)
    return (orthogonal(m, seed)[:, :r] * torch.tensor(singular, dtype=torch.float64)) @ orthogonal(
        p, seed + 1
    )[:, :r].T


DEFINITE = symmetric([0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
SEMIDEFINITE = symmetric([0.0, 0.0, 0.5, 1.0, 2.0, 4.0])
INDEFINITE = symmetric([-2.0, -0.5, 0.0, 0.0, 1.0, 3.0])
REGULAR_INDEFINITE = symmetric([-2.0, -0.5, 1.0, 1.5, 2.0, 3.0])
WIDE = rectangular(4, 9, [0.5, 1.0, 2.0, 3.0])
WIDE_SINGULAR = rectangular(4, 9, [0.5, 1.0, 2.0])
TALL = rectangular(9, 4, [0.5, 1.0, 2.0, 3.0])
TALL_SINGULAR = rectangular(9, 4, [0.5, 2.0])


@dataclass(frozen=True)
class Case:
    name: str
    operator: Callable[[torch.dtype], LinearOperator]

    def matrix(self) -> Tensor:
        return self.operator(torch.float64).to_dense()


def dense(name: str, matrix: Tensor) -> Case:
    return Case(name, lambda dtype: DenseOperator(matrix.to(dtype)))


def normal(name: str, factor: Tensor, damping: float) -> Case:
    return Case(name, lambda dtype: NormalOperator(DenseOperator(factor.to(dtype)), damping))


POSITIVE = [
    dense("definite", DEFINITE),
    dense("semidefinite", SEMIDEFINITE),
    normal("normal, wide factor", WIDE, 0.0),
    normal("normal, singular factor", WIDE_SINGULAR, 0.0),
    normal("normal, damped", WIDE_SINGULAR, 0.3),
    normal("normal, tall factor", TALL, 0.1),
]
NORMAL = POSITIVE[2:]
SIGNED = [dense("indefinite", INDEFINITE), dense("regular indefinite", REGULAR_INDEFINITE)]
ROWS = [
    dense("wide", WIDE),
    dense("wide singular", WIDE_SINGULAR),
    dense("tall", TALL),
    dense("tall singular", TALL_SINGULAR),
    Case("wide, not stored", lambda dtype: NormalFree(WIDE.to(dtype))),
]


class NormalFree(LinearOperator):
    """Rows known only by their products."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__((matrix.shape[0], matrix.shape[1]), matrix.dtype, matrix.device)
        self._matrix = matrix

    def _apply(self, block: Tensor) -> Tensor:
        return self._matrix @ block

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._matrix.T @ block


SOLVERS: dict[str, tuple[Solver, list[Case]]] = {
    "LSMR": (LSMR(tol=TIGHT), POSITIVE + SIGNED + ROWS),
    "MINRES": (MINRES(tol=TIGHT), POSITIVE + SIGNED),
    "CG": (CG(tol=TIGHT), POSITIVE),
    "LiSSA": (LiSSA(tol=TIGHT, max_steps=1000), [POSITIVE[0], POSITIVE[1], POSITIVE[4]]),
    "Dense": (Dense(tol=1e-11), POSITIVE + SIGNED + ROWS),
    "Dual": (Dual(tol=1e-11), NORMAL + ROWS),
    "CG, then MINRES": (FirstToConverge((CG(tol=TIGHT), MINRES(tol=TIGHT))), POSITIVE + SIGNED),
    "LSMR twice": (FirstToConverge((LSMR(tol=TIGHT, max_steps=1), LSMR(tol=TIGHT))), ROWS),
}
TABLE = [
    pytest.param(solver, case, id=f"{name}: {case.name}")
    for name, (solver, cases) in SOLVERS.items()
    for case in cases
]
RANK_DEFICIENT = {
    "semidefinite",
    "normal, wide factor",
    "normal, singular factor",
    "indefinite",
    "wide singular",
    "tall",
    "tall singular",
}
INCONSISTENT = [param for param in TABLE if param.values[1].name in RANK_DEFICIENT]


def consistent_rhs(matrix: Tensor, columns: tuple[int, ...] = (), seed: int = 7) -> Tensor:
    return matrix @ torch.randn(matrix.shape[1], *columns, generator=rng(seed), dtype=torch.float64)


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


SPECTRAL = {"Dense", "Dual"}
FREE_FILTERS: list[Filter] = [
    MinimumNorm(),
    GradientFlow(steps=40, learning_rate=0.02),
    GradientFlow(steps=0, learning_rate=0.02),
    Tikhonov(damping=0.2),
]
SPECTRAL_FILTERS: list[Filter] = [RankCut(0.0), RankCut(0.3)]
FILTERED = [
    pytest.param(solver, case, choice, id=f"{name}: {case.name}: {choice}")
    for name, (solver, cases) in SOLVERS.items()
    for case in cases
    if "indefinite" not in case.name
    for choice in FREE_FILTERS + (SPECTRAL_FILTERS if name in SPECTRAL else [])
]


def textbook(choice: Filter, s: float, largest: float) -> float:
    """φ(s), written out without any of the library's care."""
    is_zero = s <= 1e-10 * largest
    match choice:
        case MinimumNorm():
            return 0.0 if is_zero else 1.0 / s
        case GradientFlow(steps=k, learning_rate=eta):
            return eta * sum((1.0 - eta * s) ** j for j in range(k))
        case Tikhonov(damping=damping):
            return 1.0 / (s + damping)
        case RankCut(tolerance=tolerance):
            return 0.0 if is_zero or s <= tolerance * largest else 1.0 / s
    raise AssertionError(choice)


def dense_formula(choice: Filter, matrix: Tensor, is_symmetric: bool, b: Tensor) -> Tensor:
    square = matrix if is_symmetric else matrix @ matrix.T
    values, vectors = torch.linalg.eigh(square)
    largest = float(values.max())
    phi = torch.tensor([textbook(choice, float(s), largest) for s in values], dtype=torch.float64)
    element = vectors @ (phi * (vectors.T @ b))
    return element if is_symmetric else matrix.T @ element


@pytest.mark.parametrize(("solver", "case", "choice"), FILTERED)
def test_filters_equal_their_dense_formula(solver, case, choice):
    operator = case.operator(torch.float64)
    matrix = operator.to_dense()
    b = torch.randn(matrix.shape[0], generator=rng(10), dtype=torch.float64)
    solution = solver.prepare(operator).filtered(choice, b)
    expected = dense_formula(choice, matrix, operator.is_symmetric, b)
    torch.testing.assert_close(solution.value, expected, rtol=0, atol=1e-9)
    left = torch.linalg.vector_norm(matrix @ expected - b) / torch.linalg.vector_norm(b)
    assert solution.residual == pytest.approx(float(left), abs=1e-9)
    if not isinstance(choice, MinimumNorm):
        assert solution.status is Status.CONVERGED


@pytest.mark.parametrize("solver", [Dense(), Dual()], ids=repr)
@pytest.mark.parametrize("choice", FREE_FILTERS + SPECTRAL_FILTERS, ids=repr)
def test_filters_of_a_block_are_the_filters_of_its_columns(solver, choice):
    prepared = solver.prepare(DenseOperator(WIDE_SINGULAR))
    b = torch.randn(4, 3, generator=rng(11), dtype=torch.float64)
    columns = [prepared.filtered(choice, b[:, j].contiguous()).value for j in range(3)]
    torch.testing.assert_close(prepared.filtered(choice, b).value, torch.stack(columns, dim=1))


@pytest.mark.parametrize("solver", [LSMR(), FirstToConverge((LSMR(),))], ids=repr)
def test_a_filter_that_needs_the_spectrum_is_refused_without_one(solver):
    prepared = solver.prepare(DenseOperator(WIDE))
    with pytest.raises(ValueError, match="Take Dense or Dual"):
        prepared.filtered(RankCut(0.1), torch.ones(4, dtype=torch.float64))


def test_a_filter_does_not_hide_that_its_inner_solve_stopped_early():
    prepared = LSMR(tol=TIGHT, max_steps=1).prepare(DenseOperator(WIDE))
    b = torch.ones(4, dtype=torch.float64)
    assert prepared.filtered(Tikhonov(0.01), b).status is Status.MAX_STEPS


class TestGradientFlow:
    @staticmethod
    def descended(rows: Tensor, targets: Tensor, steps: int, learning_rate: float) -> Tensor:
        """What torch's own gradient descent on ½‖A w - b‖² reaches from zero."""
        model = torch.nn.Linear(rows.shape[1], 1, bias=False, dtype=torch.float64)
        torch.nn.init.zeros_(model.weight)
        descent = torch.optim.SGD(model.parameters(), lr=learning_rate)
        for _ in range(steps):
            descent.zero_grad()
            (0.5 * (model(rows).squeeze(1) - targets) ** 2).sum().backward()
            descent.step()
        return model.weight.detach().squeeze(0)

    @pytest.mark.parametrize("solver", [Dense(), Dual(), LSMR()], ids=repr)
    @pytest.mark.parametrize("rows", [WIDE, WIDE_SINGULAR, TALL], ids=["wide", "singular", "tall"])
    @pytest.mark.parametrize("steps", [1, 7, 300])
    def test_is_gradient_descent_on_a_linear_model(self, solver, rows, steps):
        b = torch.randn(rows.shape[0], generator=rng(12), dtype=torch.float64)
        flow = GradientFlow(steps=steps, learning_rate=0.1)
        element = solver.prepare(DenseOperator(rows)).filtered(flow, b).value
        torch.testing.assert_close(element, self.descended(rows, b, steps, 0.1), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("solver", [Dense(), Dual(), LSMR(), CG(), MINRES()], ids=repr)
    def test_is_gradient_descent_through_the_normal_operator_too(self, solver):
        b = torch.randn(4, generator=rng(13), dtype=torch.float64)
        prepared = solver.prepare(NormalOperator(DenseOperator(WIDE_SINGULAR)))
        element = prepared.filtered(GradientFlow(50, 0.1), WIDE_SINGULAR.T @ b).value
        torch.testing.assert_close(element, self.descended(WIDE_SINGULAR, b, 50, 0.1), rtol=0, atol=1e-12)

    def test_infinitely_long_training_reaches_the_minimum_norm_element(self):
        b = torch.randn(4, generator=rng(14), dtype=torch.float64)
        prepared = Dual().prepare(DenseOperator(WIDE))
        late = prepared.filtered(GradientFlow(100_000, 0.1), b).value
        torch.testing.assert_close(late, prepared.solve(b).value, rtol=0, atol=1e-12)

    @settings(max_examples=60, deadline=None)
    @given(s=st.floats(0.0, 20.0), steps=st.integers(0, 200), learning_rate=st.floats(1e-6, 0.1))
    def test_stays_between_nothing_and_its_two_limits(self, s, steps, learning_rate):
        phi = float(
            GradientFlow(steps, learning_rate)(torch.tensor([s], dtype=torch.float64), torch.tensor([s > 0]))
        )
        assert phi == pytest.approx(textbook(GradientFlow(steps, learning_rate), s, 1.0), rel=1e-9)
        assert phi <= steps * learning_rate * (1 + 1e-12) or s * learning_rate > 1.0


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


def test_the_gram_side_needs_no_room_for_the_rows():
    rows = NormalFree(WIDE)
    budget = 8 * 16 + 2 * 9 * 16
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

    def test_the_transposed_system_without_a_solution(self, solver, case):
        matrix = case.matrix()
        if torch.linalg.matrix_rank(matrix) == matrix.shape[1]:
            pytest.skip("every right-hand side has a solution")
        c = torch.randn(matrix.shape[1], generator=rng(17), dtype=torch.float64)
        solution = solver.prepare(case.operator(torch.float64)).solve_transposed(c)
        assert solution.status is Status.INCONSISTENT
        torch.testing.assert_close(
            solution.value, torch.linalg.pinv(matrix.T, rtol=1e-10) @ c, rtol=0, atol=1e-8
        )

    def test_the_curvature_is_the_normal_operator(self, solver, case):
        matrix = case.matrix()
        curvature = solver.prepare(case.operator(torch.float64)).curvature()
        torch.testing.assert_close(curvature.operator.to_dense(), matrix.T @ matrix)
        c = consistent_rhs(matrix.T @ matrix)
        expected = torch.linalg.pinv(matrix.T @ matrix, rtol=1e-10) @ c
        torch.testing.assert_close(curvature.solve(c).value, expected, rtol=0, atol=1e-8)


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


def test_a_deferred_preparation_is_made_once_and_only_when_needed():
    made = []

    class Watched(Dense):
        def prepare(self, operator):
            made.append(operator)
            return super().prepare(operator)

    deferred = Deferred(DenseOperator(WIDE), Watched())
    assert deferred.operator.shape == (4, 9)
    assert not made
    b = consistent_rhs(WIDE)
    torch.testing.assert_close(deferred.solve(b).value, torch.linalg.pinv(WIDE) @ b, rtol=0, atol=1e-10)
    assert deferred.rank == 4
    deferred.filtered(Tikhonov(1.0), b)
    assert len(made) == 1


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
