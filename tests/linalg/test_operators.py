"""Operators against the matrices they stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solset.linalg import (
    BlockDiagonal,
    Counted,
    DenseOperator,
    Identity,
    LinearOperator,
    NormalOperator,
    Product,
    Sum,
    shifted,
)

CPU = torch.device("cpu")


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


A, C, S = normal(4, 6, seed=1), normal(6, 3, seed=2), normal(6, 6, seed=3)
S = S + S.T
BLOCKS = normal(2, 3, 2, seed=4)
WEIGHTS = normal(2, 2, 2, seed=5)
TABLE: dict[str, tuple[LinearOperator, Tensor]] = {
    "dense": (DenseOperator(A), A),
    "dense, symmetric": (DenseOperator(S), S),
    "transposed": (DenseOperator(A).T, A.T),
    "identity": (Identity(5, torch.float64, CPU), torch.eye(5).double()),
    "blocks": (BlockDiagonal(BLOCKS), torch.block_diag(*BLOCKS)),
    "product": (Product(DenseOperator(A), DenseOperator(C)), A @ C),
    "weighted rows": (Product(BlockDiagonal(WEIGHTS), DenseOperator(A)), torch.block_diag(*WEIGHTS) @ A),
    "sum": (Sum(DenseOperator(S), DenseOperator(S @ S), -0.5), S - 0.5 * S @ S),
    "sum of rows": (Sum(DenseOperator(A), DenseOperator(2.0 * A), 3.0), 7.0 * A),
    "shifted": (shifted(DenseOperator(S), 0.3), S + 0.3 * torch.eye(6).double()),
    "normal": (NormalOperator(DenseOperator(A), 0.2), A.T @ A + 0.2 * torch.eye(6).double()),
    "counted": (Counted(DenseOperator(A)), A),
}


@pytest.mark.parametrize("name", TABLE)
class TestEveryOperator:
    def test_multiplies_vectors_and_blocks_as_its_matrix(self, name):
        operator, matrix = TABLE[name]
        assert operator.shape == tuple(matrix.shape)
        for columns in ((), (1,), (5,)):
            v = normal(matrix.shape[1], *columns, seed=6)
            u = normal(matrix.shape[0], *columns, seed=7)
            torch.testing.assert_close(operator @ v, matrix @ v)
            torch.testing.assert_close(operator.T @ u, matrix.T @ u)

    def test_is_its_own_double_adjoint(self, name):
        operator, matrix = TABLE[name]
        v, u = normal(matrix.shape[1], seed=8), normal(matrix.shape[0], seed=9)
        assert float(u @ (operator @ v)) == pytest.approx(float((operator.T @ u) @ v), rel=1e-12)
        torch.testing.assert_close(operator.T.T @ v, operator @ v)

    def test_says_symmetric_only_if_it_is(self, name):
        operator, matrix = TABLE[name]
        if operator.is_symmetric:
            torch.testing.assert_close(matrix, matrix.T)
            assert operator.T is operator

    @pytest.mark.parametrize("chunk", [1, 3, 64])
    def test_writes_out_its_matrix_in_any_chunks(self, name, chunk):
        operator, matrix = TABLE[name]
        torch.testing.assert_close(operator.to_dense(chunk), matrix)

    def test_gives_any_of_its_rows(self, name):
        operator, matrix = TABLE[name]
        m = matrix.shape[0]
        for start in range(m):
            for stop in range(start + 1, m + 1):
                torch.testing.assert_close(operator.rows(start, stop), matrix[start:stop])

    @pytest.mark.parametrize("value", [torch.zeros(99).double(), torch.zeros(()).double()])
    def test_refuses_another_shape(self, name, value):
        with pytest.raises(ValueError, match="Flatten it"):
            TABLE[name][0] @ value

    def test_refuses_another_dtype(self, name):
        operator = TABLE[name][0]
        with pytest.raises(ValueError, match=r"Tensor\.to"):
            operator @ torch.zeros(operator.shape[1], dtype=torch.float32)


@settings(max_examples=40, deadline=None)
@given(
    a=st.floats(-5, 5), b=st.floats(-5, 5), name=st.sampled_from(sorted(TABLE)), seed=st.integers(0, 9_999)
)
def test_products_are_linear(a, b, name, seed):
    operator = TABLE[name][0]
    v, w = normal(operator.shape[1], seed=seed), normal(operator.shape[1], seed=seed + 1)
    combined = operator @ (a * v + b * w)
    torch.testing.assert_close(combined, a * (operator @ v) + b * (operator @ w), rtol=1e-10, atol=1e-10)


def test_symmetry_is_declared_where_it_is_known():
    symmetric = ["dense, symmetric", "identity", "sum", "shifted", "normal"]
    assert [name for name in TABLE if TABLE[name][0].is_symmetric] == symmetric


def test_no_shift_is_the_operator_itself():
    operator = DenseOperator(S)
    assert shifted(operator, 0.0) is operator


def test_every_column_of_a_product_is_counted():
    counted = Counted(DenseOperator(A))
    counted @ normal(6, seed=1)
    counted.T @ normal(4, 3, seed=1)
    assert counted.products == 4


def test_an_operator_without_a_transposed_product_is_refused_by_name():
    class OneWay(LinearOperator):
        def _apply(self, block: Tensor) -> Tensor:
            return A @ block

    with pytest.raises(TypeError, match=r"OneWay, which is not symmetric.*Define _apply_transposed"):
        OneWay((A.shape[0], A.shape[1]), A.dtype, CPU).T @ normal(4, seed=1)
