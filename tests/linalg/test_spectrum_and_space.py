"""Gram matrices, spectra with a stated tolerance, and the door between shaped and flat."""

import pytest
import torch
from torch import Tensor

from solset.linalg import DenseOperator, Space, Spectrum, cross_gram, default_tolerance, gram, spectrum
from support.systems import NormalFree

SPACE = Space("dx", (2, 3), torch.float64, torch.device("cpu"))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestGram:
    @pytest.mark.parametrize("rows_at_once", [1, 2, 3, 7, 50])
    def test_is_the_same_in_blocks_of_any_size(self, rows_at_once):
        matrix = normal(7, 11, seed=1)
        budget = 8 * 49 + rows_at_once * 2 * 11 * 16
        found = gram(NormalFree(matrix), budget)
        torch.testing.assert_close(found, matrix @ matrix.T)

    def test_of_float32_rows_is_summed_in_float64(self):
        matrix = normal(3, 1000, seed=2).to(torch.float32)
        exact = matrix.double() @ matrix.double().T
        torch.testing.assert_close(gram(DenseOperator(matrix), 10**6), exact, rtol=1e-14, atol=1e-12)

    def test_refuses_a_budget_too_small_for_its_result(self):
        need = 8 * 49 + 2 * 11 * 16
        with pytest.raises(ValueError, match=f"at least {need} bytes"):
            gram(NormalFree(normal(7, 11, seed=1)), need - 1)


class TestSpectrum:
    def test_decomposes_its_matrix(self):
        matrix = normal(5, 5, seed=3)
        matrix = matrix + matrix.T
        s = spectrum(matrix, 1e-12)
        torch.testing.assert_close(s.vectors @ torch.diag(s.values) @ s.vectors.T, matrix)
        assert (s.rank, s.kernel.shape) == (5, (5, 0))

    @pytest.mark.parametrize(("tolerance", "rank"), [(1e-12, 3), (1e-4, 2), (0.6, 1)])
    def test_the_rank_is_that_of_the_stated_tolerance(self, tolerance, rank):
        s = spectrum(torch.diag(torch.tensor([0.0, 1.0, -2.0, 1e-5]).double()), tolerance)
        assert s.rank == rank
        assert s.kernel.shape == (4, 4 - rank)
        assert int(s.kept.sum()) == rank

    def test_the_kernel_is_sent_to_zero(self):
        factor = normal(5, 3, seed=4)
        s = spectrum(factor @ factor.T, 1e-12)
        assert s.kernel.shape == (5, 2)
        torch.testing.assert_close(factor.T @ s.kernel, torch.zeros(3, 2).double(), rtol=0, atol=1e-12)
        torch.testing.assert_close(s.kernel.T @ s.kernel, torch.eye(2).double())

    def test_of_float32_is_kept_in_float64(self):
        assert isinstance(spectrum(torch.eye(2), 1e-6), Spectrum)
        assert spectrum(torch.eye(2), 1e-6).values.dtype is torch.float64

    def test_of_zero_has_rank_zero(self):
        assert spectrum(torch.zeros(3, 3), 1e-6).rank == 0

    def test_default_tolerance(self):
        assert default_tolerance((3, 10), torch.float32) == 10 * torch.finfo(torch.float32).eps


class TestSpace:
    def test_flattening_and_back_changes_nothing(self):
        value = normal(2, 3, seed=5)
        assert SPACE.size == 6
        assert torch.equal(SPACE.unflatten(SPACE.flatten(value)), value)
        assert torch.equal(SPACE.flatten(value.reshape(-1)), value.reshape(-1))

    def test_a_flat_vector_carries_no_graph(self):
        assert not SPACE.flatten(normal(2, 3, seed=5).requires_grad_()).requires_grad

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (torch.zeros(3, 2).double(), "of shape"),
            (torch.zeros(2, 3), "float64"),
            (torch.full((2, 3), float("nan")).double(), "finite"),
            (torch.full((6,), float("inf")).double(), "finite"),
        ],
    )
    def test_what_does_not_belong_is_refused_by_name(self, value, words):
        with pytest.raises(ValueError, match=f"`dx` must be .*{words}"):
            SPACE.flatten(value)


def test_a_gram_matrix_of_float32_rows_may_be_formed_in_float32() -> None:
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 20_000, generator=g) + 0.5 * torch.randn(1, 20_000, generator=g)
    kept = DenseOperator(rows)
    exact, quick = cross_gram(kept, kept), cross_gram(kept, kept, dtype=torch.float32)
    lengths = exact.diagonal().sqrt()
    assert torch.allclose(quick.diagonal(), exact.diagonal(), rtol=1e-12)
    assert (
        float(((quick - exact) / lengths / lengths.unsqueeze(1)).abs().max())
        <= torch.finfo(torch.float32).eps
    )
    assert torch.equal(quick, quick.T)
    assert float((quick - exact).norm()) > 0  # it is not the same computation
