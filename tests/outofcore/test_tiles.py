"""A matrix in tiles on the disk is the matrix that was written, and so is its factor."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from solset.linalg import DenseOperator, cross_gram
from solset.outofcore import StoredRows, TiledCholesky, TiledSymmetric, Tiles, tile_places, tiled_gram
from solset.outofcore._tiled_cholesky import Lower
from solset.testing import adjoint_gap

CPU = torch.device("cpu")
SIZES = [(1, 1), (1, 4), (5, 5), (7, 3), (9, 3), (12, 5), (10, 64)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def definite(m: int) -> Tensor:
    root = draw(m, m + 2, seed=1)
    matrix = root @ root.T
    return (matrix + matrix.T) / 2


def in_tiles(matrix: Tensor, side: int, folder: Path) -> TiledSymmetric:
    tiles = Tiles.temporary(folder, len(matrix), side, CPU)
    for i, j in tile_places(len(matrix), side):
        tiles.write(i, j, matrix[tiles.span(i), tiles.span(j)])
    return TiledSymmetric(tiles)


@pytest.mark.parametrize(("m", "side"), SIZES)
class TestASymmetricMatrix:
    def test_has_the_entries_that_were_written(self, tmp_path, m, side):
        matrix = definite(m)
        tiled = in_tiles(matrix, side, tmp_path)
        assert torch.equal(tiled.to_dense(), matrix)
        assert torch.equal(tiled.diagonal(), matrix.diagonal())

    def test_is_its_own_adjoint(self, tmp_path, m, side):
        assert (
            adjoint_gap(in_tiles(definite(m), side, tmp_path), generator=torch.Generator().manual_seed(9))
            <= 1e-10
        )

    @pytest.mark.parametrize("columns", [(), (3,)], ids=["vector", "block"])
    def test_with_a_diagonal_on_both_sides(self, tmp_path, m, side, columns):
        matrix, scale, v = definite(m), draw(m, seed=2), draw(m, *columns, seed=3)
        tiled = in_tiles(matrix, side, tmp_path).scaled(scale).scaled(scale)
        D = torch.diag(scale.square())
        torch.testing.assert_close(tiled @ v, D @ matrix @ D @ v, rtol=1e-12, atol=1e-12)

    def test_is_the_gram_matrix_of_rows_in_memory_and_on_the_disk(self, tmp_path, m, side):
        rows = draw(m, 20)
        stored = StoredRows.create(tmp_path / "rows.npy", (m, 20), torch.float64, CPU)
        stored.write(0, rows)
        for kept in (DenseOperator(rows), stored):
            found = tiled_gram(kept, Tiles.temporary(tmp_path, m, side, CPU)).to_dense()
            torch.testing.assert_close(found, cross_gram(kept, kept), rtol=1e-13, atol=1e-13)

    def test_of_float32_rows_is_exact_to_float64(self, tmp_path, m, side):
        rows = draw(m, 20).float()
        found = tiled_gram(DenseOperator(rows), Tiles.temporary(tmp_path, m, side, CPU))
        torch.testing.assert_close(found.to_dense(), rows.double() @ rows.double().T, rtol=1e-13, atol=1e-13)

    def test_its_factor_is_the_inverse(self, tmp_path, m, side):
        matrix, b = definite(m), draw(m, 3, seed=4)
        found = TiledCholesky.of(in_tiles(matrix, side, tmp_path), tmp_path)
        torch.testing.assert_close(matrix @ (found @ b), b, rtol=1e-9, atol=1e-9)
        assert adjoint_gap(found, generator=torch.Generator().manual_seed(9)) <= 1e-10

    def test_its_factor_with_a_shift_and_a_diagonal(self, tmp_path, m, side):
        matrix, shift, b = definite(m), draw(m, seed=5).abs(), draw(m, seed=4)
        scale = draw(m, seed=6)
        tiled = in_tiles(matrix, side, tmp_path).scaled(scale)
        found = TiledCholesky.of(tiled, tmp_path, shift=shift) @ b
        exact = torch.linalg.solve(scale.unsqueeze(1) * matrix * scale + torch.diag(shift), b)
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)

    def test_the_lower_factor_whitens_it(self, tmp_path, m, side):
        matrix = definite(m)
        lower = Lower(TiledCholesky.of(in_tiles(matrix, side, tmp_path), tmp_path), torch.float64)
        W = lower.to_dense()
        torch.testing.assert_close(W @ matrix @ W.T, torch.eye(m).double(), rtol=0, atol=1e-9)
        assert adjoint_gap(lower, generator=torch.Generator().manual_seed(9)) <= 1e-10

    def test_more_rows_copy_what_is_known(self, tmp_path, m, side):
        rows = draw(m + 4, 40)
        first = tiled_gram(DenseOperator(rows[:m]), Tiles.temporary(tmp_path, m, side, CPU))
        factor = TiledCholesky.of(first, tmp_path)
        ready = m // side
        marked = first.tiles  # what is copied is what stands there, and not computed again
        for i, j in tile_places(ready * side, side):
            marked.write(i, j, marked.read(i, j) + 1.0)
        tiles = Tiles.temporary(tmp_path, m + 4, side, CPU)
        grown = tiled_gram(DenseOperator(rows), tiles, marked).to_dense()
        exact = rows @ rows.T
        exact[: ready * side, : ready * side] += 1.0
        torch.testing.assert_close(grown, exact, rtol=1e-12, atol=1e-12)
        whole = tiled_gram(DenseOperator(rows), Tiles.temporary(tmp_path, m + 4, side, CPU))
        b = draw(m + 4, seed=7)
        found = TiledCholesky.of(whole, tmp_path, first=factor) @ b
        torch.testing.assert_close(rows @ (rows.T @ found), b, rtol=1e-8, atol=1e-8)


class TestTheFile:
    def test_numpy_reads_it_tile_after_tile(self, tmp_path):
        matrix = definite(5)
        tiles = Tiles.create(tmp_path / "gram.npy", 5, 3, CPU, has_all=True)
        for i, j in tile_places(5, 3):
            tiles.write(i, j, matrix[tiles.span(i), tiles.span(j)])
        found = np.load(tmp_path / "gram.npy")
        assert found.shape == (3, 3, 3)
        assert np.array_equal(found[1][:2], matrix[3:, :3].numpy())
        assert not found[1][2].any()

    def test_takes_the_bytes_foretold(self, tmp_path):
        tiles = Tiles.temporary(tmp_path, 10, 4, CPU)
        assert Tiles.bytes_for(10, 4) == 6 * 16 * 8
        assert 0 < tiles.path.stat().st_size - Tiles.bytes_for(10, 4) <= 256

    def test_goes_when_it_is_no_longer_needed(self, tmp_path):
        tiled = in_tiles(definite(5), 2, tmp_path)
        factor = TiledCholesky.of(tiled, tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
        del tiled
        assert len(list(tmp_path.iterdir())) == 1
        assert (factor @ draw(5)).isfinite().all()
        del factor
        assert list(tmp_path.iterdir()) == []

    def test_is_not_left_behind_by_an_interrupt(self, tmp_path, monkeypatch):
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "posix_fallocate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Tiles.temporary(tmp_path, 9, 3, CPU)
        assert list(tmp_path.iterdir()) == []

    def test_that_became_shorter_is_named(self, tmp_path):
        tiles = Tiles.temporary(tmp_path, 9, 3, CPU)
        os.truncate(tiles.path, 300)
        with pytest.raises(ValueError, match="the whole file.*an end after"):
            tiles.read(2, 2)

    def test_that_is_not_whole_is_refused(self, tmp_path):
        path = tmp_path / "gram.npy"
        Tiles.create(path, 5, 3, CPU, has_all=True)
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(ValueError, match="the whole file 'gram.npy'"):
            Tiles(path, 5, 3, CPU, has_all=True)
        with pytest.raises(ValueError, match="the whole file 'gram.npy'"):
            Tiles(path, 9, 3, CPU, has_all=True)


@pytest.mark.parametrize("where", [0, 4, 6])
@pytest.mark.parametrize("entry", [-1.0, float("nan")])
def test_a_matrix_that_is_not_positive_definite_has_no_factor(tmp_path, where, entry):
    matrix = definite(7)
    matrix[where, where] = entry
    assert TiledCholesky.of(in_tiles(matrix, 3, tmp_path), tmp_path) is None
    assert len(list(tmp_path.iterdir())) == 0
