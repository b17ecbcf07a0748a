"""The Gram side: the minimum-norm solution through the small matrix of the rows' inner products."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from solset.checks import checked
from solset.errors import bad_type, bad_value
from solset.linalg import (
    DenseOperator,
    KeptRows,
    LinearOperator,
    NormalOperator,
    Stacked,
    TiledSymmetric,
    Tiles,
    cross_gram,
    default_tolerance,
    gram,
    gram_by_parts,
    in_parts,
    most_columns,
    own_part,
    stacked,
    tiled_gram,
)
from solset.solvers._base import Prepared, Solver
from solset.solvers._decomposed import DualPrepared
from solset.solvers._gram_side import GramPrepared
from solset.solvers._row_plan import RowPlan, keep_rows, plan_rows, tile_bytes
from solset.solvers._tiled import TiledPrepared
from solset.solvers._tiled_factors import Factors

# Products of float32 rows in float32 are off by about 1e-7 of the rows' lengths. Where no eigenvalue is near
# that, they cost half as much, and a step of refinement with the rows takes the error to its square.
ENOUGH_FOR_SINGLE = 1e-4


@checked
@dataclass(frozen=True)
class Dual(Solver):
    """The minimum-norm solution through the Gram matrix ``AAᵀ`` of the rows, factorised once.

    For a wide ``A`` (fewer rows than weights) this is the cheap side: after one pass for the rows, each
    further right-hand side, filter or projection costs two products. A :class:`NormalOperator`
    ``AᵀA + λI`` is solved through the same Gram matrix.

    A Gram matrix that does not fit the memory is put on the disk in tiles, if there is a folder, with a
    Cholesky factor in place of the eigen-decomposition: the same solutions, but no rank below the full one
    and no cut of the spectrum.

    Attributes:
        rank_tolerance: Relative size below which an eigenvalue of ``AAᵀ`` counts as zero (singular
            values of ``A`` are resolved down to its square root); ``None`` takes ``ε^{3/2}`` of the rows'
            dtype, or the larger side times the rounding unit of the Gram matrix if that is more. On the disk
            it decides whether the rank is the full one, and cuts nothing.
        tol: Relative residual up to which the system counts as consistent.
        memory_budget: Bytes that rows, Gram matrix and its decomposition may take.
        folder: Where rows and Gram matrices that do not fit the memory are kept on the disk; ``None``
            recomputes the rows.
        is_equilibrated: Scale every row to length one before the rank is cut, so that no row is dropped
            for being short. A consistent system of full row rank has the same solution either way; where
            rows contradict each other the compromise weighs them alike. Only the minimum norm and a rank
            cut see the scaling; filters that follow training never do.

    Cost: ``m`` rows, ``O(m² p + m³)`` operations; ``24m²`` bytes and those of the rows, if they are kept in
    memory. On the disk a further direction reads the factor four times, and more often where rows depend on
    each other; :meth:`plan` says what is kept where.
    """

    rank_tolerance: float | None = None
    tol: float = 1e-8
    memory_budget: int = 4 * 2**30
    folder: Path | None = None
    is_equilibrated: bool = False

    def takes(self, operator: LinearOperator) -> bool:
        """Whether it has rows: rectangular, or symmetric with a known factor."""
        return not operator.is_symmetric or isinstance(operator, NormalOperator)

    def plan(self, operator: LinearOperator) -> RowPlan:
        """What :meth:`prepare` would need: rows, bytes, and where they are kept.

        Args:
            operator: A rectangular ``A``.

        Raises:
            ValueError: If no plan fits the memory budget; names the smallest that works.
        """
        return plan_rows(operator.shape, operator.dtype, memory_budget=self.memory_budget, folder=self.folder)

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The Gram matrix of the rows, with its eigen-decomposition or, on the disk, a Cholesky factor.

        Args:
            operator: A rectangular ``A``, or ``AᵀA + λI`` as a :class:`NormalOperator`.

        Raises:
            TypeError: If the operator is symmetric and its factor is not known.
            ValueError: If no plan fits the memory budget.
            OSError: If the disk has no room for rows, Gram matrix or factor.
        """
        if isinstance(operator, NormalOperator):
            return self._gram_side(operator.factor, is_scaled=False).curvature(operator.damping)
        if operator.is_symmetric:
            raise bad_type(
                "operator",
                expected="rectangular rows, or a NormalOperator",
                got=f"a symmetric {type(operator).__name__}",
                cure="Use Dense, CG or MINRES for a full Hessian.",
            )
        return self.prepare_rows(operator)

    def prepare_rows(self, rows: LinearOperator) -> GramPrepared:
        """As :meth:`prepare`, of rows.

        Args:
            rows: ``A``.
        """
        return self._gram_side(rows, is_scaled=self.is_equilibrated)

    def extend(self, prepared: Prepared, operator: LinearOperator) -> Prepared:
        """The same with more rows: no row that is kept is computed again.

        Args:
            prepared: What :meth:`prepare` or this method returned for the first rows of ``operator``.
            operator: All rows, the new ones last.

        Cost: the new rows, and their inner products with all; all inner products where rows that were in
        memory move to the disk.
        """
        plan = self.plan(operator)
        old = prepared.operator
        if not isinstance(prepared, GramPrepared) or not isinstance(old, KeptRows):
            return self.prepare(operator)
        if plan.place == "recomputed":
            return self.prepare(operator)
        if plan.place == "disk" and _is_in_memory(old):
            # Both together do not fit the memory: what is there moves to the disk as well.
            rows: KeptRows = keep_rows(operator, plan, self.folder, known=old)
            return self._kept(rows, plan, is_scaled=self.is_equilibrated)
        rows = stacked([old, keep_rows(operator, plan, self.folder, start=old.shape[0])])
        if plan.side or plan.step or not isinstance(prepared, DualPrepared):
            known = prepared if isinstance(prepared, TiledPrepared) else None
            return self._kept(rows, plan, is_scaled=self.is_equilibrated, known=known)
        new = rows.part(old.shape[0], rows.shape[0])
        cross = cross_gram(new, old)
        matrix = torch.cat(
            [torch.cat([prepared.gram, cross.T], dim=1), torch.cat([cross, cross_gram(new, new)], dim=1)]
        )
        return self.from_gram(rows, matrix)

    def from_gram(self, rows: KeptRows, matrix: Tensor | TiledSymmetric) -> GramPrepared:
        """The decomposition or factor of a Gram matrix that is known already.

        Args:
            rows: ``A``.
            matrix: ``AAᵀ`` in float64, in memory or on the disk.
        """
        is_scaled = self.is_equilibrated
        if isinstance(matrix, TiledSymmetric):
            return self._tiled(rows, matrix, is_scaled=is_scaled)
        return DualPrepared(rows, matrix, self._tolerance(rows), self.tol, is_equilibrated=is_scaled)

    def has_room_for_tiles(self, rows: LinearOperator, side: int) -> bool:
        """Whether work on tiles of that size stays inside the budget.

        Args:
            rows: ``A``.
            side: Of a tile.
        """
        return tile_bytes(side, most_columns(rows.shape[1]), rows.dtype) <= self.memory_budget

    def _tolerance(self, rows: LinearOperator) -> float:
        if self.rank_tolerance is not None:
            return self.rank_tolerance
        # Eigenvalues are squares: rows that carry an error of ε^{3/4} blur them by ε^{3/2}.
        noise = torch.finfo(rows.dtype).eps ** 1.5
        return max(noise, default_tolerance(rows.shape, torch.float64))

    def _gram_side(self, rows: LinearOperator, *, is_scaled: bool) -> GramPrepared:
        plan = self.plan(rows)
        if plan.place != "recomputed":
            kept = rows if isinstance(rows, KeptRows) else keep_rows(rows, plan, self.folder)
            return self._kept(kept, plan, is_scaled=is_scaled)
        m = rows.shape[0]
        matrix = gram(rows, self.memory_budget - 16 * m * m)  # what is left is for its decomposition
        return DualPrepared(rows, matrix, self._tolerance(rows), self.tol, is_equilibrated=is_scaled)

    def _kept(
        self, rows: KeptRows, plan: RowPlan, *, is_scaled: bool, known: TiledPrepared | None = None
    ) -> GramPrepared:
        """The Gram side of rows that are at hand."""
        tolerance = self._tolerance(rows)
        if plan.side:
            kept = None if known is None else known.matrix.tiles
            side = kept.side if kept is not None and self.has_room_for_tiles(rows, kept.side) else plan.side
            tiles = Tiles.temporary(self._spill, rows.shape[0], side, rows.device)
            matrix = tiled_gram(rows, tiles, kept)
            return self._tiled(rows, matrix, is_scaled=is_scaled, known=known)
        if plan.step:
            narrow = in_parts(rows, plan.step)
            matrix = gram_by_parts(narrow, plan.step)
            return DualPrepared(narrow, matrix, tolerance, self.tol, is_equilibrated=is_scaled)
        if rows.dtype == torch.float32:
            quick = cross_gram(rows, rows, dtype=torch.float32)
            found = DualPrepared(rows, quick, tolerance, self.tol, is_equilibrated=is_scaled)
            if found.conditioning > ENOUGH_FOR_SINGLE:
                return found
        return DualPrepared(rows, cross_gram(rows, rows), tolerance, self.tol, is_equilibrated=is_scaled)

    def _tiled(
        self, rows: KeptRows, matrix: TiledSymmetric, *, is_scaled: bool, known: TiledPrepared | None = None
    ) -> TiledPrepared:
        factor = None if known is None else known.factors.exact_so_far
        return TiledPrepared(
            in_parts(rows, matrix.tiles.side),  # so that panels are no larger than tiles
            Factors(matrix, self._spill, factor),
            self._tolerance(rows),
            self.tol,
            is_equilibrated=is_scaled,
        )

    @property
    def _spill(self) -> Path:
        if self.folder is None:
            raise bad_value("folder", expected="one for tiles", got=None, cure="Name a folder on the disk.")
        return self.folder


def _is_in_memory(rows: KeptRows) -> bool:
    kept = own_part(rows)
    if isinstance(kept, Stacked):
        return any(_is_in_memory(part) for part in kept.parts)
    return isinstance(kept, DenseOperator)
