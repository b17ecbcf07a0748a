"""Every filter on every solver that supports it, against its dense formula and against descent itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solset.errors import Status
from solset.linalg import DenseOperator, NormalOperator
from solset.solvers import CG, LSMR, MINRES, Dense, Dual, FirstToConverge
from solset.solvers.filters import Filter, GradientFlow, MinimumNorm, RankCut, Tikhonov
from support.systems import MINIMUM_NORM_ONLY, SOLVERS, TALL, TIGHT, WIDE, WIDE_SINGULAR, rng

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
    if "indefinite" not in case.name and name not in MINIMUM_NORM_ONLY
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
