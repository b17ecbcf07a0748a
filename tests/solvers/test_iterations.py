"""Krylov iterations on blocks: SciPy's iterates for one column, and no column that minds the others."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from solset.linalg import DenseOperator, LinearOperator
from solset.solvers import CG, LSMR, MINRES, FirstToConverge
from solset.solvers._iterations import conjugate_gradients, lsmr, minres
from support.systems import REGULAR_INDEFINITE, rng

SIZE = 40
BASIS = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=rng(0), dtype=torch.float64)).Q
HALF = (BASIS * torch.logspace(-1, 0, SIZE, dtype=torch.float64)) @ BASIS.T
DEFINITE = (HALF @ HALF.T + (HALF @ HALF.T).T) / 2  # eigenvalues from 0.01 to 1
B = torch.randn(SIZE, 4, generator=rng(1), dtype=torch.float64)


class Counted(LinearOperator):
    """A symmetric matrix that counts its products with blocks."""

    is_symmetric = True

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__((len(matrix), len(matrix)), matrix.dtype, matrix.device)
        self.matrix, self.products = matrix, 0

    def _apply(self, block: torch.Tensor) -> torch.Tensor:
        self.products += 1
        return self.matrix @ block

    _apply_transposed = _apply


def limits(steps: int, count: int = 4) -> torch.Tensor:
    return torch.full((count,), steps)


class TestOneColumnIsScipys:
    @pytest.mark.parametrize("steps", [1, 4, 10])
    def test_conjugate_gradients(self, steps):
        expected, _ = scipy.sparse.linalg.cg(DEFINITE.numpy(), B[:, 0].numpy(), rtol=1e-14, maxiter=steps)
        got = conjugate_gradients(DenseOperator(DEFINITE), B[:, :1], 1e-14, limits(steps, 1))
        np.testing.assert_allclose(got.value[:, 0].numpy(), expected, atol=1e-11)
        assert got.steps.tolist() == [steps]

    @pytest.mark.parametrize("steps", [1, 4, 10])
    def test_minres(self, steps):
        expected, _ = scipy.sparse.linalg.minres(
            REGULAR_INDEFINITE.numpy(), np.ones(len(REGULAR_INDEFINITE)), rtol=1e-14, maxiter=steps
        )
        ones = torch.ones(len(REGULAR_INDEFINITE), 1, dtype=torch.float64)
        got = minres(DenseOperator(REGULAR_INDEFINITE), ones, 1e-14, limits(steps, 1))
        np.testing.assert_allclose(got.value[:, 0].numpy(), expected, atol=1e-10)

    @pytest.mark.parametrize("damping", [0.0, 0.3])
    @pytest.mark.parametrize("steps", [1, 4, 10])
    def test_lsmr(self, steps, damping):
        rows = DEFINITE[:, :20]
        expected = scipy.sparse.linalg.lsmr(
            rows.numpy(), B[:, 0].numpy(), damp=damping, atol=1e-15, btol=1e-15, conlim=0, maxiter=steps
        )[0]
        got = lsmr(DenseOperator(rows), B[:, :1], 1e-15, 1e-15, damping, limits(steps, 1))
        np.testing.assert_allclose(got.value[:, 0].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("solver", [CG(), MINRES(), LSMR(), FirstToConverge((CG(), MINRES()))], ids=str)
class TestColumnsDoNotMindEachOther:
    def test_a_block_takes_the_products_of_its_slowest_column(self, solver):
        rhs = torch.stack([DEFINITE @ BASIS[:, 3], B[:, 0], B[:, 1]], dim=1)
        block, alone = Counted(DEFINITE), [Counted(DEFINITE) for _ in range(3)]
        together = solver.solve(block, rhs)
        for j, operator in enumerate(alone):
            column = solver.solve(operator, rhs[:, j])
            torch.testing.assert_close(together.value[:, j], column.value, rtol=1e-6, atol=1e-6)
        assert block.products <= max(operator.products for operator in alone) + 2

    def test_neither_a_zero_column_nor_one_that_is_no_number_harms_the_others(self, solver):
        rhs = B.clone()
        rhs[:, 1], rhs[0, 2] = 0.0, torch.nan
        solution = solver.solve(DenseOperator(DEFINITE), rhs)
        exact = torch.linalg.solve(DEFINITE, B)
        assert not solution.value[:, 1].any()
        torch.testing.assert_close(solution.value[:, [0, 3]], exact[:, [0, 3]], rtol=1e-5, atol=1e-5)
        assert solution.status.value == "nonfinite"


def test_one_indefinite_column_is_named_and_the_others_are_solved():
    matrix = torch.diag(torch.tensor([-1.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    first, second = torch.eye(4, dtype=torch.float64)[[0, 2]]
    solution = CG().solve(DenseOperator(matrix), torch.stack([first, second], dim=1))
    assert solution.status.value == "indefinite"
    torch.testing.assert_close(solution.value[:, 1], second / 2)


def test_the_recurrences_are_float64_where_products_are_float32():
    single = DenseOperator(DEFINITE.float())
    value = conjugate_gradients(single, B.float(), 1e-6, limits(200)).value
    assert value.dtype is torch.float64
    error = torch.linalg.vector_norm(value - torch.linalg.solve(DEFINITE, B)) / torch.linalg.vector_norm(B)
    assert error < 1e-3
