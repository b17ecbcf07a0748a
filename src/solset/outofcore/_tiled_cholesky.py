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

    Each process keeps the columns of tiles that it keeps of ``M``, and subtracts their products from later
    ones; sums of these are all that is exchanged.

    Args:
        factor: ``L``.

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
        known: "TiledCholesky | None" = None,
    ) -> "TiledCholesky | None":
        """The factor, in a file that lives as long as it; nothing where it is not positive definite.

        Args:
            matrix: ``M``.
            folder: Of the file.
            shift: ``s``, ``(m,)``; zero by default.
            known: Of the first rows of this very matrix, with the same shift; its full rows of tiles are
                copied.

        Raises:
            OSError: If the disk has no room for it.

        Cost: ``m³/3`` operations, and ``m³ / side`` numbers read, shared by the processes;
        at most eight tiles in memory.
        """
        tiles = matrix.tiles
        factor = Tiles.temporary(folder, tiles.size, tiles.side, tiles.device)
        ready = 0 if known is None or known.factor.side != tiles.side else known.shape[0] // tiles.side
        count = tiles.count
        bar = tqdm(total=count * (count + 1) // 2, desc="factor", unit="tile", leave=False, disable=None)
        with bar:
            for j in range(count):
                for i in range(j, count):
                    if known is not None and i < ready:
                        _copy(known.factor, factor, i, j)
                    elif i == j:
                        if not _factorise(matrix, factor, j, shift):
                            return None
                    else:
                        _eliminate(matrix, factor, i, j)
                    bar.update()
        return cls(factor)

    def _apply(self, block: Tensor) -> Tensor:
        return self.backward(self.forward(block))

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._apply(block)

    def forward(self, block: Tensor) -> Tensor:
        """``L⁻¹ b``, of which each process has the rows of the columns of tiles that it keeps; else zero.

        Args:
            block: ``b``, ``(m, k)``, whole in every process.
        """
        tiles, found, behind = self.factor, torch.zeros_like(block), torch.zeros_like(block)
        for j in range(tiles.count):
            here = tiles.span(j)
            rest = block[here] - comm.total(behind[here])
            if not tiles.is_own(j):
                continue
            found[here] = torch.linalg.solve_triangular(tiles.read(j, j), rest, upper=False)
            for i in range(j + 1, tiles.count):
                behind[tiles.span(i)] += tiles.read(i, j) @ found[here]
        return found

    def backward(self, block: Tensor) -> Tensor:
        """``L⁻ᵀ y``, whole in every process.

        Args:
            block: ``y``, ``(m, k)``; of each process the rows of its own columns of tiles count.
        """
        tiles, found = self.factor, torch.zeros_like(block)
        for j in reversed(range(tiles.count)):
            here = tiles.span(j)
            rest = torch.zeros_like(block[here])
            if tiles.is_own(j):
                rest = block[here]
                for i in range(j + 1, tiles.count):
                    rest = rest - tiles.read(i, j).T @ found[tiles.span(i)]
                rest = torch.linalg.solve_triangular(tiles.read(j, j).T, rest, upper=True)
            found[here] = comm.total(rest)
        return found


class Lower(LinearOperator):
    """``L⁻¹`` of a factor, ``(m, m)``.

    Args:
        cholesky: The factor.
        dtype: Of what it multiplies.
    """

    def __init__(self, cholesky: TiledCholesky, dtype: torch.dtype) -> None:
        super().__init__(cholesky.shape, dtype, cholesky.device)
        self._cholesky = cholesky

    def _apply(self, block: Tensor) -> Tensor:
        return comm.total(self._cholesky.forward(block.to(DTYPE))).to(self.dtype)

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._cholesky.backward(block.to(DTYPE)).to(self.dtype)


def _copy(known: Tiles, factor: Tiles, i: int, j: int) -> None:
    if factor.is_own(j):
        factor.write(i, j, known.read(i, j))


def _factorise(matrix: TiledSymmetric, factor: Tiles, j: int, shift: Tensor | None) -> bool:
    """Writes ``L_jj``; false, in every process, where it is not positive definite."""
    rest, failures = _rest(matrix, factor, j, j), torch.zeros(1, dtype=DTYPE, device=factor.device)
    if rest is not None:
        if shift is not None:
            rest = rest + torch.diag(shift[factor.span(j)])
        pivot, failed = torch.linalg.cholesky_ex(rest)
        failures += float(failed)
        factor.write(j, j, pivot)
    return not bool(comm.total(failures) > 0)


def _eliminate(matrix: TiledSymmetric, factor: Tiles, i: int, j: int) -> None:
    """Writes ``L_ij``, whose transpose is ``L_jj⁻¹`` times that of what is left of ``M_ij``."""
    rest = _rest(matrix, factor, i, j)
    if rest is not None:
        factor.write(i, j, torch.linalg.solve_triangular(factor.read(j, j), rest.T, upper=False).T)


def _rest(matrix: TiledSymmetric, factor: Tiles, i: int, j: int) -> Tensor | None:
    """``M_ij - Σ_k L_ik L_jkᵀ`` over ``k < j``, in the process that keeps column ``j``."""
    tall, wide = (factor.span(index).stop - factor.span(index).start for index in (i, j))
    taken = torch.zeros(tall, wide, dtype=DTYPE, device=factor.device)
    for k in factor.own(j):
        right = factor.read(j, k)
        taken.addmm_(right if i == j else factor.read(i, k), right.T)
    taken = comm.total(taken)
    return matrix.tile(i, j) - taken if factor.is_own(j) else None
