"""The largest generalized singular value, against a pseudo-inverse and against closed forms."""

import pytest
import torch
from torch import Tensor

from solset.linalg import (
    DenseOperator,
    LeftSide,
    default_tolerance,
    equilibrated,
    largest_eigenpair,
    largest_ratio,
    largest_ratios,
    largest_singular,
    spectrum,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def side_of(A: Tensor) -> LeftSide:
    tolerance = default_tolerance((len(A), len(A)), A.dtype)
    return LeftSide.of_gram((A @ A.T).double(), tolerance).refined(DenseOperator(A))


def ratio_of(A: Tensor, C: Tensor):
    return largest_ratio(side_of(A), C.double(), torch.arange(len(C)))


@pytest.mark.parametrize("shape", [(4, 9), (1, 3), (5, 5)])
@pytest.mark.parametrize("columns", [1, 3, 20])
def test_is_the_norm_of_the_response(shape: tuple[int, int], columns: int) -> None:
    A, C = draw(*shape), draw(shape[0], columns, seed=1)
    found = ratio_of(A, C)
    assert found.value == pytest.approx(
        float(torch.linalg.matrix_norm(torch.linalg.pinv(A) @ C, 2)), rel=1e-8
    )
    u = found.attained_at
    assert float((A.T @ u).norm()) == pytest.approx(1.0)
    assert float((C.T @ u).norm()) == pytest.approx(found.value)
    assert (found.rank, found.joint_rank) == (shape[0], shape[0])


def test_does_not_change_when_rows_are_scaled_alike() -> None:
    A, C, D = draw(4, 9), draw(4, 3, seed=1), torch.tensor([1e-8, 1.0, 1e6, 1e-3], dtype=torch.float64)
    assert ratio_of(D[:, None] * A, D[:, None] * C).value == pytest.approx(ratio_of(A, C).value, rel=1e-9)


def test_is_infinite_where_only_the_numerator_moves_and_names_the_rows() -> None:
    A = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    found = ratio_of(A, torch.eye(3, dtype=torch.float64))
    assert found.value == float("inf")
    assert (found.rank, found.joint_rank) == (2, 3)
    assert float((A.T @ found.attained_at).norm()) <= 1e-15
    assert found.participation[2] <= 1e-20
    agreeing = ratio_of(A, torch.tensor([[1.0], [2.0], [0.0]], dtype=torch.float64))  # C moves as A does
    assert agreeing.value == pytest.approx(1.0)
    assert (agreeing.rank, agreeing.joint_rank) == (2, 2)


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9, 1e-12])
def test_near_dependent_rows_are_told_from_dependent_ones(distance: float) -> None:
    A = torch.tensor([[1.0, 0.0], [1.0, distance]], dtype=torch.float64)
    found = ratio_of(A, torch.eye(2, dtype=torch.float64))
    assert found.rank == 2
    assert found.value == pytest.approx(2**0.5 * (1 + distance**2 / 4) ** 0.5 / distance, rel=1e-3)


def test_zero_over_zero_is_zero_and_rows_that_do_not_move_cost_nothing() -> None:
    A = torch.zeros(2, 3, dtype=torch.float64)
    found = largest_ratio(side_of(A), torch.zeros(2, 1, dtype=torch.float64), torch.arange(2))
    assert (found.value, found.rank) == (0.0, 0)
    A, C = draw(4, 9), draw(2, 3, seed=1)
    padded = torch.zeros(4, 3, dtype=torch.float64)
    padded[[1, 3]] = C
    part = largest_ratio(side_of(A), C, torch.tensor([1, 3]))
    assert part.value == pytest.approx(ratio_of(A, padded).value)


def test_a_symmetric_matrix_may_be_indefinite() -> None:
    A = torch.diag(torch.tensor([2.0, -0.5, 0.0], dtype=torch.float64))
    C = torch.eye(3, dtype=torch.float64)[:, :2]
    found = largest_ratio(LeftSide.of_symmetric(spectrum(A, 1e-12)), C, torch.arange(3))
    assert found.value == pytest.approx(2.0)


def test_equilibrated_rows_have_length_one_in_any_batch() -> None:
    A = draw(3, 4, 6)
    scale, scaled = equilibrated(A @ A.mT)
    assert torch.allclose(scaled.diagonal(dim1=1, dim2=2), torch.ones(3, 4, dtype=torch.float64))
    assert torch.allclose(scale, 1 / A.norm(dim=2))


def test_a_batch_of_any_ranks_gives_the_ratios_of_its_members() -> None:
    A, C = draw(5, 3, 6), draw(5, 3, 4, seed=1)
    A[1, 2] = A[1, 0]  # rank 2, and C leaks
    A[2, 2], C[2, 2] = 2 * A[2, 0], 2 * C[2, 0]  # rank 2, and C moves as A does
    A[3], C[3] = 0.0, 0.0  # 0/0
    C[4] = 0.0
    grams = A @ A.mT
    side = LeftSide.of_gram(grams, 1e-14)
    ratios = largest_ratios(side, C)
    members = [largest_ratio(LeftSide.of_gram(g, 1e-14), c) for g, c in zip(grams, C, strict=True)]
    assert ratios.value.tolist() == pytest.approx([one.value for one in members], rel=1e-10)
    assert ratios.value.isinf().tolist() == [False, True, False, False, False]
    assert ratios.value[3:].tolist() == [0.0, 0.0]
    u = ratios.attained_at(side)
    pushed, moved = torch.einsum("bcp,bc->bp", A, u).norm(dim=1), torch.einsum("bcd,bc->bd", C, u).norm(dim=1)
    assert pushed[[0, 2]].tolist() == pytest.approx([1.0, 1.0])
    assert moved[[0, 2]].tolist() == pytest.approx(ratios.value[[0, 2]].tolist())
    assert float(pushed[1]) <= 1e-7 * float(moved[1])
    assert torch.allclose(
        side.solve(draw(5, 3, seed=2))[0], torch.linalg.solve(grams[0], draw(5, 3, seed=2)[0])
    )


def test_rows_of_one_matrix_are_a_batch() -> None:
    A, C = draw(6, 9), draw(6, 4, seed=1)
    side, rows = side_of(A), torch.tensor([[0, 1, 2], [3, 4, 5]])
    values = largest_ratios(side.at(rows), C[rows]).value
    expected = [largest_ratio(side, C[one], one).value for one in rows]
    assert values.tolist() == pytest.approx(expected, rel=1e-12)


def test_dense_rows_are_resolved_down_to_rounding() -> None:
    A = torch.tensor([[1.0, 0.0], [1.0, 1e-12], [0.0, 0.0]], dtype=torch.float64)
    assert LeftSide.of_rows(A).rank == 2
    exact = largest_ratio(LeftSide.of_rows(draw(4, 9)), draw(4, 3, seed=1)).value
    assert exact == pytest.approx(ratio_of(draw(4, 9), draw(4, 3, seed=1)).value, rel=1e-10)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (2, 3, 5), (0, 3), (3, 0)])
def test_the_largest_singular_value_is_that_of_a_decomposition(shape: tuple[int, ...]) -> None:
    matrix = draw(*shape)
    value, left = largest_singular(matrix)
    expected = torch.linalg.svdvals(matrix)[..., :1].sum(dim=-1)
    assert torch.allclose(value, expected)
    assert torch.allclose((left.unsqueeze(-2) @ matrix).squeeze(-2).norm(dim=-1), expected)


@pytest.mark.parametrize("size", [5, 60])
def test_the_largest_eigenvalue_lies_between_its_bounds(size: int) -> None:
    A = draw(size, size)
    found = largest_eigenpair(DenseOperator(A @ A.T), steps=30)
    true = float(torch.linalg.matrix_norm(A, 2)) ** 2
    assert found.has_converged
    assert found.value == pytest.approx(true, rel=1e-8)
    assert true <= found.upper * (1 + 1e-12)
    assert found.upper <= 1.1 * true


def test_fewer_than_two_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps"):
        largest_eigenpair(DenseOperator(torch.eye(3)), steps=1)
