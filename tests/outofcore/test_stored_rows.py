"""Rows kept on the disk or below one another are the matrix that was written."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from solset.linalg import WIDTH, DenseOperator, KeptRows, Stacked, cross_gram, gram
from solset.outofcore import StoredRows

CPU = torch.device("cpu")
SIZES = [(3, 7), (4, WIDTH), (2, WIDTH + 5), (3, 2 * WIDTH), (1, 1), (70, 2 * WIDTH + 1)]
DTYPES = [torch.float32, torch.float64]


def draw(m: int, p: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(m, p, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def on_disk(matrix: Tensor, path: Path, at_once: int = 64) -> StoredRows:
    m, p = matrix.shape
    stored = StoredRows.create(path, (m, p), matrix.dtype, CPU)
    for i in range(0, m, at_once):
        stored.write(i, matrix[i : i + at_once])
    return stored


def below_one_another(matrix: Tensor, path: Path) -> Stacked:
    """The first row in memory, the others on the disk."""
    return Stacked([DenseOperator(matrix[:1]), on_disk(matrix[1:], path)])


def kinds(m: int) -> list:
    return [on_disk] if m == 1 else [on_disk, below_one_another]


KEPT = [
    pytest.param(keep, size, dtype, id=f"{keep.__name__}-{size[0]}x{size[1]}-{dtype}")
    for size in SIZES
    for keep in kinds(size[0])
    for dtype in DTYPES
]


@pytest.mark.parametrize(("keep", "size", "dtype"), KEPT)
class TestKeptRowsEqualTheirMatrix:
    def test_entries(self, tmp_path, keep, size, dtype):
        matrix = draw(*size, dtype)
        rows = keep(matrix, tmp_path / "rows.npy")
        assert (rows.shape, rows.dtype) == (size, dtype)
        assert torch.equal(rows.to_dense(), matrix)
        assert torch.equal(rows.rows(size[0] - 1, size[0]), matrix[-1:])

    def test_parts_are_the_rows_that_were_asked_for(self, tmp_path, keep, size, dtype):
        matrix, m = draw(*size, dtype), size[0]
        rows = keep(matrix, tmp_path / "rows.npy")
        for start, stop in ((0, m), (m // 2, m), (0, m // 2 + 1), (m - 1, m)):
            part = rows.part(start, stop)
            assert torch.equal(part.to_dense(), matrix[start:stop])
            assert torch.equal(part.part(stop - start - 1, stop - start).to_dense(), matrix[stop - 1 : stop])

    def test_panels_cover_every_column_once_from_left_to_right(self, tmp_path, keep, size, dtype):
        matrix = draw(*size, dtype)
        found = list(keep(matrix, tmp_path / "rows.npy").panels())
        assert [columns.start for columns, _ in found] == list(range(0, size[1], WIDTH))
        assert all(torch.equal(entries, matrix[:, columns]) for columns, entries in found)
        assert sum(entries.shape[1] for _, entries in found) == size[1]

    @pytest.mark.parametrize("columns", [(), (3,)], ids=["vector", "block"])
    def test_products(self, tmp_path, keep, size, dtype, columns):
        matrix = draw(*size, dtype)
        rows = keep(matrix, tmp_path / "rows.npy")
        g = torch.Generator().manual_seed(1)
        v = torch.randn(size[1], *columns, generator=g, dtype=dtype)
        u = torch.randn(size[0], *columns, generator=g, dtype=dtype)
        eps = torch.finfo(dtype).eps * size[1]
        torch.testing.assert_close(rows @ v, matrix @ v, rtol=eps, atol=eps)
        torch.testing.assert_close(rows.T @ u, matrix.T @ u, rtol=eps, atol=eps)

    def test_gram_in_float64_whatever_the_dtype_of_the_rows(self, tmp_path, keep, size, dtype):
        matrix = draw(*size, dtype)
        found = gram(keep(matrix, tmp_path / "rows.npy"), memory_budget=0)
        exact = matrix.double() @ matrix.double().T
        assert found.dtype is torch.float64
        assert torch.equal(found, found.T)
        torch.testing.assert_close(found, exact, rtol=1e-13, atol=1e-13 * size[1])


def test_the_gram_of_more_rows_than_a_strip_is_symmetric_and_exact(tmp_path):
    matrix = draw(1030, 33)
    for rows in (DenseOperator(matrix), on_disk(matrix, tmp_path / "rows.npy")):
        found = gram(rows, memory_budget=0)
        assert torch.equal(found, found.T)
        torch.testing.assert_close(found, matrix @ matrix.T, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize(("m", "k"), [(3, 5), (600, 2), (2, 600)])
def test_inner_products_of_two_sets_of_rows(tmp_path, m, k):
    left, right = draw(m, WIDTH + 5), draw(k, WIDTH + 5, seed=1)
    found = cross_gram(on_disk(left, tmp_path / "rows.npy"), DenseOperator(right))
    torch.testing.assert_close(found, left @ right.T, rtol=1e-13, atol=1e-10)


def test_rows_below_one_another_may_be_so_again(tmp_path):
    matrix = draw(6, 11)
    inner = below_one_another(matrix[:4], tmp_path / "rows.npy")
    assert torch.equal(Stacked([inner, DenseOperator(matrix[4:])]).to_dense(), matrix)


class TestTheFile:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_numpy_reads_it(self, tmp_path, dtype):
        matrix = draw(3, WIDTH + 5, dtype)
        on_disk(matrix, tmp_path / "rows.npy")
        found = np.load(tmp_path / "rows.npy")
        assert found.shape == (2, 3, WIDTH)
        assert np.array_equal(np.concatenate(found, axis=1)[:, : WIDTH + 5], matrix.numpy())
        assert not found[1, :, 5:].any()

    def test_takes_the_bytes_foretold_and_a_short_head(self, tmp_path):
        on_disk(draw(3, WIDTH + 5, torch.float32), tmp_path / "rows.npy")
        need = StoredRows.bytes_for((3, WIDTH + 5), torch.float32)
        assert need == 2 * WIDTH * 3 * 4
        assert 0 < (tmp_path / "rows.npy").stat().st_size - need <= 256

    def test_rows_may_come_in_any_order(self, tmp_path):
        matrix = draw(5, WIDTH + 5)
        stored = StoredRows.create(tmp_path / "rows.npy", (5, WIDTH + 5), torch.float64, CPU)
        for first, last in ((3, 5), (0, 1), (1, 3)):
            stored.write(first, matrix[first:last])
        assert torch.equal(stored.to_dense(), matrix)

    def test_rows_written_twice_are_the_later_ones(self, tmp_path):
        matrix = draw(3, 7)
        stored = on_disk(matrix, tmp_path / "rows.npy")
        stored.write(1, -matrix[1:2])
        assert torch.equal(stored.to_dense(), matrix * torch.tensor([[1.0], [-1.0], [1.0]]).double())

    def test_rows_not_written_are_zero(self, tmp_path):
        stored = StoredRows.create(tmp_path / "rows.npy", (2, 3), torch.float64, CPU)
        assert torch.equal(stored.to_dense(), torch.zeros(2, 3).double())

    def test_an_earlier_file_is_replaced(self, tmp_path):
        on_disk(draw(9, 11), tmp_path / "rows.npy")
        assert torch.equal(on_disk(draw(2, 3), tmp_path / "rows.npy").to_dense(), draw(2, 3))


class Full:
    """What a file system does that has no room left, or fails in another way."""

    def __init__(self, code: int) -> None:
        self.code = code

    def reserve(self, descriptor: int, start: int, size: int) -> None:
        raise OSError(self.code, os.strerror(self.code))

    def open(self, path: Path, mode: str = "r", *_) -> "Full":
        return self

    def __enter__(self) -> "Full":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def seek(self, *_: int) -> None:
        return None

    def write(self, *_: object) -> None:
        raise OSError(self.code, os.strerror(self.code))


class TestAFullDisk:
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_is_found_before_any_row_is_written(self, tmp_path, monkeypatch, code):
        monkeypatch.setattr(os, "posix_fallocate", Full(code).reserve)
        need = StoredRows.bytes_for((3, 7), torch.float64)
        with pytest.raises(OSError, match=f"{need} bytes.*Free some space.*memory_budget") as caught:
            StoredRows.create(tmp_path / "rows.npy", (3, 7), torch.float64, CPU)
        assert caught.value.errno == errno.ENOSPC
        assert str(tmp_path / "rows.npy") in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_another_error_is_passed_on_as_it_is_and_no_file_is_left(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "posix_fallocate", Full(errno.EIO).reserve)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
            StoredRows.create(tmp_path / "rows.npy", (3, 7), torch.float64, CPU)
        assert caught.value.errno == errno.EIO
        assert list(tmp_path.iterdir()) == []

    def test_while_writing_says_what_to_do(self, tmp_path, monkeypatch):
        stored = StoredRows.create(tmp_path / "rows.npy", (3, 7), torch.float64, CPU)
        monkeypatch.setattr(Path, "open", Full(errno.ENOSPC).open)
        with pytest.raises(OSError, match="no room on the disk for .* Free some space"):
            stored.write(0, draw(3, 7))

    def test_a_system_without_reservation_still_makes_the_file(self, tmp_path, monkeypatch):
        monkeypatch.delattr(os, "posix_fallocate")
        assert torch.equal(on_disk(draw(3, 7), tmp_path / "rows.npy").to_dense(), draw(3, 7))


def test_a_matrix_in_memory_is_kept_rows():
    assert isinstance(DenseOperator(draw(2, 3)), KeptRows)
