"""The Cholesky factor of a symmetric matrix larger than memory, tile by tile on the disk."""

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from solset import comm
from solset.linalg import LinearOperator
from solset.outofcore._tiles import DTYPE, TiledSymmetric, Tiles


class TiledCholesky(LinearOperator):
    """``(M + diag(s))⁻¹`` through ``LLᵀ = M + diag(s)``, ``(m, m)``; made by :meth:`of`.

    Each process keeps the same columns of tiles as of ``M``. The processes exchange nothing but the sums that
    are subtracted from later columns.

    Args:
        factor: Tiles of the triangular ``L``.

    Cost: a solve reads the file twice, for all right-hand sides of a block together.
    """

    is_symmetric = True

    def __init__(self, factor: Tiles) -> None:
        super().__init__((factor.size, factor.size), DTYPE, factor.device)
        self.factor = factor

    @classmethod
    def of(
        cls,
        matrix: TiledSymmetric,
        folder: Path,
        *,
        shift: Tensor | None = None,
        first: "TiledCholesky | None" = None,
    ) -> "TiledCholesky | None":
        """The factor, in a file that vanishes with it; ``None`` if ``M + diag(s)`` is not positive definite.

        Args:
            matrix: Symmetric matrix ``M`` on the disk.
            folder: Existing folder for the file.
            shift: Diagonal ``s`` that is added, ``(m,)``; zero by default.
            first: Factor of the leading block of this very matrix, with the same shift; its full rows of
                tiles are copied.

        Raises:
            OSError: If the disk has no room for it.

        Cost: ``m³/3`` operations, and ``m³ / side`` numbers read, shared by the processes;
        at most eight tiles in memory.
        """
        tiles = matrix.tiles
        factor = Tiles.temporary(folder, tiles.size, tiles.side, tiles.device)
        ready = 0 if first is None or first.factor.side != tiles.side else first.shape[0] // tiles.side
        count = tiles.count
        bar = tqdm(total=count * (count + 1) // 2, desc="factor", unit="tile", leave=False, disable=None)
        with bar:
            for j in range(count):
                for i in range(j, count):
                    if first is not None and i < ready:
                        if factor.is_own(j):
                            factor.write(i, j, first.factor.read(i, j))
                    elif i == j:
                        if not _factorise(matrix, factor, j, shift):
                            return None
                    else:
                        _eliminate(matrix, factor, i, j)
                    bar.update()
        return cls(factor)

    def _apply(self, block: Tensor) -> Tensor:
        return self.backward(self.forward(block))

    def forward(self, block: Tensor) -> Tensor:
        """``L⁻¹ b``: in each process the rows that belong to its columns of tiles, and zeros."""
        tiles, solution, behind = self.factor, torch.zeros_like(block), torch.zeros_like(block)
        for j in range(tiles.count):
            here = tiles.span(j)
            rest = block[here] - comm.total(behind[here])
            if not tiles.is_own(j):
                continue
            solution[here] = torch.linalg.solve_triangular(tiles.read(j, j), rest, upper=False)
            for i in range(j + 1, tiles.count):
                behind[tiles.span(i)] += tiles.read(i, j) @ solution[here]
        return solution

    def backward(self, block: Tensor) -> Tensor:
        """``L⁻ᵀ y``, whole in every process."""
        tiles, solution = self.factor, torch.zeros_like(block)
        for j in reversed(range(tiles.count)):
            here = tiles.span(j)
            rest = torch.zeros_like(block[here])
            if tiles.is_own(j):
                rest = block[here]
                for i in range(j + 1, tiles.count):
                    rest = rest - tiles.read(i, j).T @ solution[tiles.span(i)]
                rest = torch.linalg.solve_triangular(tiles.read(j, j).T, rest, upper=True)
            solution[here] = comm.total(rest)
        return solution


class Lower(LinearOperator):
    """The inverse ``L⁻¹`` of a triangular factor, ``(m, m)``, for vectors of the given dtype."""

    def __init__(self, cholesky: TiledCholesky, dtype: torch.dtype) -> None:
        super().__init__(cholesky.shape, dtype, cholesky.device)
        self._cholesky = cholesky

    def _apply(self, block: Tensor) -> Tensor:
        return comm.total(self._cholesky.forward(block.to(DTYPE))).to(self.dtype)

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._cholesky.backward(block.to(DTYPE)).to(self.dtype)


def _factorise(matrix: TiledSymmetric, factor: Tiles, j: int, shift: Tensor | None) -> bool:
    """Writes ``L_jj``; returns false in every process where the matrix is not positive definite."""
    rest, failures = _rest(matrix, factor, j, j), torch.zeros(1, dtype=DTYPE, device=factor.device)
    if rest is not None:
        if shift is not None:
            rest = rest + torch.diag(shift[factor.span(j)])
        pivot, failed = torch.linalg.cholesky_ex(rest)
        failures += float(failed)
        factor.write(j, j, pivot)
    return not bool(comm.total(failures) > 0)


def _eliminate(matrix: TiledSymmetric, factor: Tiles, i: int, j: int) -> None:
    """Writes ``L_ij = R_ij L_jj⁻ᵀ`` for the rest ``R_ij`` of ``M_ij``."""
    rest = _rest(matrix, factor, i, j)
    if rest is not None:
        factor.write(i, j, torch.linalg.solve_triangular(factor.read(j, j), rest.T, upper=False).T)


def _rest(matrix: TiledSymmetric, factor: Tiles, i: int, j: int) -> Tensor | None:
    """``M_ij - Σ_{k<j} L_ik L_jkᵀ``, in the process that keeps column ``j``; ``None`` in the others."""
    tall, wide = (factor.span(index).stop - factor.span(index).start for index in (i, j))
    taken = torch.zeros(tall, wide, dtype=DTYPE, device=factor.device)
    for k in factor.own(j):
        right = factor.read(j, k)
        taken.addmm_(right if i == j else factor.read(i, k), right.T)
    taken = comm.total(taken)
    return matrix.tile(i, j) - taken if factor.is_own(j) else None
