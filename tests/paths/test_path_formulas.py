"""What paths are made of: multistep formulas, recycled products, the smallest eigenvalue seen."""

import pytest
import torch
from torch import Tensor

from solset.courses import Slopes
from solset.linalg import DenseOperator
from solset.paths._recycling import Recycled, Watched, smallest_eigenvalue

MOVED = [4, 1]


class TestFormulas:
    def test_adams_formulas_are_exact_for_a_parabola(self):
        def slope(t: float) -> Tensor:
            return torch.tensor([1.0 - 2.0 * t + 0.3 * t**2], dtype=torch.float64)

        def value(t: float) -> float:
            return t - t**2 + 0.1 * t**3

        slopes = Slopes(slope(0.3), slope(0.1), 0.2)
        found = slopes.correct(0.5, slope(0.8))
        assert found.order == 3
        assert float(found.change) == pytest.approx(value(0.8) - value(0.3), rel=1e-12)

    def test_a_jump_behind_the_step_is_not_believed(self):
        def flat(value: float) -> Tensor:
            return torch.full((1,), value, dtype=torch.float64)

        found = Slopes(flat(2.0), flat(1.0), 0.1).correct(0.1, flat(2.0))
        assert float(found.change) == pytest.approx(0.2)
        assert found.difference == pytest.approx(0.0, abs=1e-12)

    def test_recycled_products_invert_on_their_span(self):
        g = torch.Generator().manual_seed(0)
        root = torch.randn(9, 9, generator=g, dtype=torch.float64)
        matrix = root @ root.T + torch.eye(9, dtype=torch.float64)
        matrix = (matrix + matrix.T) / 2
        watched = Watched(DenseOperator(matrix))
        block = torch.randn(9, 4, generator=g, dtype=torch.float64)
        _ = watched @ block
        inverse = Recycled(DenseOperator(torch.eye(9, dtype=torch.float64)), watched.pairs)
        torch.testing.assert_close(inverse @ (matrix @ block), block)
        full = inverse.to_dense()
        torch.testing.assert_close(full, full.T)
        assert float(torch.linalg.eigvalsh((full + full.T) / 2)[0]) > 0

    def test_the_smallest_quotient_is_found_in_the_span(self):
        values = torch.tensor([1.0, 2.0, 5.0, -3.0], dtype=torch.float64)
        watched = Watched(DenseOperator(torch.diag(values)))
        assert smallest_eigenvalue(watched) != smallest_eigenvalue(watched)
        _ = (
            watched
            @ torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).double()
        )
        assert smallest_eigenvalue(watched) == pytest.approx(1.0)
        _ = watched @ torch.eye(4, dtype=torch.float64)[:, 3:]
        assert smallest_eigenvalue(watched) == pytest.approx(-3.0)
