"""The largest eigenvalue by Lanczos' method, between its bounds."""

import pytest
import torch

from solset.linalg import DenseOperator, largest_eigenpair


@pytest.mark.parametrize("size", [5, 60])
def test_the_largest_eigenvalue_lies_between_its_bounds(size: int) -> None:
    A = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = largest_eigenpair(DenseOperator(A @ A.T), steps=30)
    true = float(torch.linalg.matrix_norm(A, 2)) ** 2
    assert found.has_converged
    assert found.value == pytest.approx(true, rel=1e-8)
    assert true <= found.upper * (1 + 1e-12)
    assert found.upper <= 1.1 * true


def test_fewer_than_two_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps"):
        largest_eigenpair(DenseOperator(torch.eye(3)), steps=1)
