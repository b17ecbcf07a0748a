"""The Gram side: the minimum-norm solution through the small matrix of the rows' inner products."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from solset.door import checked
from solset.errors import bad_type
from solset.linalg import (
    DenseOperator,
    KeptRows,
    LinearOperator,
    NormalOperator,
    Product,
    Spectrum,
    Stacked,
    cross_gram,
    default_tolerance,
    gram,
    own_part,
    spectrum,
    stacked,
)
from solset.solvers.base import Prepared, Solver, judge
from solset.solvers.filters import Filter, MinimumNorm, RankCut
from solset.solvers.row_plan import RowPlan, keep_rows, plan_rows
from solset.solvers.solution import Solution

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

    Attributes:
        rank_tolerance: Relative size below which an eigenvalue of ``AAᵀ`` counts as zero (singular
            values of ``A`` are resolved down to its square root); ``None`` takes ``ε^{3/2}`` of the rows'
            dtype, or the larger side times the rounding unit of the Gram matrix if that is more.
        tol: Relative residual up to which the system counts as consistent.
        memory_budget: Bytes that rows, Gram matrix and its decomposition may take.
        folder: Where rows that do not fit the memory are kept on the disk; ``None`` recomputes them.
        is_equilibrated: Scale every row to length one before the rank is cut, so that no row is dropped
            for being short. A consistent system of full row rank has the same solution either way; where
            rows contradict each other the compromise weighs them alike. Only the minimum norm and a rank
            cut see the scaling; filters that follow training never do.

    Cost: ``m`` rows, ``O(m² p + m³)`` operations; ``24m² + mp`` numbers' bytes if rows are kept.
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
        """The eigen-decomposition of the Gram matrix of the rows.

        Args:
            operator: A rectangular ``A``, or ``AᵀA + λI`` as a :class:`NormalOperator`.

        Raises:
            TypeError: If the operator is symmetric and its factor is not known.
            ValueError: If no plan fits the memory budget.
            OSError: If the disk has no room for the rows.
        """
        if isinstance(operator, NormalOperator):
            return _NormalPrepared(operator, self._gram_side(operator.factor, is_scaled=False))
        if operator.is_symmetric:
            raise bad_type(
                "operator",
                expected="rectangular rows, or a NormalOperator",
                got=f"a symmetric {type(operator).__name__}",
                cure="Use Dense, CG or MINRES for a full Hessian.",
            )
        return self._gram_side(operator, is_scaled=self.is_equilibrated)

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
        if not isinstance(prepared, DualPrepared) or not isinstance(old, KeptRows):
            return self.prepare(operator)
        if plan.place == "recomputed":
            return self.prepare(operator)
        if plan.place == "disk" and _is_in_memory(old):
            # Both together do not fit the memory: what is there moves to the disk as well.
            rows: KeptRows = keep_rows(operator, plan, self.folder, known=old)
            return self.from_gram(rows, cross_gram(rows, rows))
        new = keep_rows(operator, plan, self.folder, start=old.shape[0])
        cross = cross_gram(new, old)
        matrix = torch.cat(
            [torch.cat([prepared.gram, cross.T], dim=1), torch.cat([cross, cross_gram(new, new)], dim=1)]
        )
        return self.from_gram(stacked([old, new]), matrix)

    def from_gram(self, rows: LinearOperator, matrix: Tensor) -> "DualPrepared":
        """The decomposition of a Gram matrix that is known already.

        Args:
            rows: ``A``.
            matrix: ``AAᵀ`` in float64.
        """
        return DualPrepared(
            rows, matrix, self._tolerance(rows), self.tol, is_equilibrated=self.is_equilibrated
        )

    def _tolerance(self, rows: LinearOperator) -> float:
        if self.rank_tolerance is not None:
            return self.rank_tolerance
        # Eigenvalues are squares: rows that carry an error of ε^{3/4} blur them by ε^{3/2}.
        noise = torch.finfo(rows.dtype).eps ** 1.5
        return max(noise, default_tolerance(rows.shape, torch.float64))

    def _gram_side(self, rows: LinearOperator, *, is_scaled: bool) -> "DualPrepared":
        plan = self.plan(rows)
        if plan.place != "recomputed" and not isinstance(rows, KeptRows):
            rows = keep_rows(rows, plan, self.folder)
        if isinstance(rows, KeptRows) and rows.dtype == torch.float32:
            quick = cross_gram(rows, rows, dtype=torch.float32)
            found = DualPrepared(rows, quick, self._tolerance(rows), self.tol, is_equilibrated=is_scaled)
            if found.smallest > ENOUGH_FOR_SINGLE:
                return found
        m = rows.shape[0]
        matrix = gram(rows, self.memory_budget - 16 * m * m)  # what is left is for its decomposition
        return DualPrepared(rows, matrix, self._tolerance(rows), self.tol, is_equilibrated=is_scaled)


class DualPrepared(Prepared):
    """Rows ``A``, their Gram matrix and the spectrum of ``D AAᵀ D``, where ``D`` is one or equilibrates.

    Args:
        rows: ``A``.
        matrix: ``AAᵀ`` in float64.
        tolerance: Relative size below which an eigenvalue counts as zero.
        tol: Relative residual up to which a system counts as consistent.
        is_equilibrated: Whether ``D`` scales the rows to length one.
    """

    def __init__(
        self,
        rows: LinearOperator,
        matrix: Tensor,
        tolerance: float,
        tol: float,
        *,
        is_equilibrated: bool = False,
    ) -> None:
        self.operator = rows
        self.gram, self.tolerance, self.tol = matrix, tolerance, tol
        lengths = matrix.diagonal().sqrt()
        one = torch.ones_like(lengths)
        is_scaled = is_equilibrated & (lengths > 0)
        self.scale = torch.where(is_scaled, 1 / torch.where(is_scaled, lengths, one), one)
        self.is_equilibrated = is_equilibrated

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of the scaled Gram matrix."""
        return spectrum(self.scale.unsqueeze(1) * self.gram * self.scale, self.tolerance)

    @cached_property
    def plain(self) -> "DualPrepared":
        """The same rows without equilibration."""
        return (
            DualPrepared(self.operator, self.gram, self.tolerance, self.tol) if self.is_equilibrated else self
        )

    def function(self, phi: Tensor, rhs: Tensor) -> Tensor:
        """``D φ(D AAᵀ D) D b`` for eigenvalue factors ``phi``, in the dtype of ``b``."""
        vectors, scale = self.spectrum.vectors, self.scale.unsqueeze(1)
        block = scale * rhs.reshape(rhs.shape[0], -1).to(torch.float64)
        found = scale * (vectors @ (phi.unsqueeze(1) * (vectors.T @ block)))
        return found.to(rhs.dtype).reshape(rhs.shape)

    def solve(self, rhs: Tensor) -> Solution:
        """``Aᵀ (AAᵀ)⁺ b`` with one step of iterative refinement."""
        phi = MinimumNorm()(self.spectrum.values, self.spectrum.kept)
        value = self.operator.T @ self.function(phi, rhs)
        value = value + self.operator.T @ self.function(phi, rhs - self.operator @ value)
        return judge(self.operator, value, rhs, self.tol, 0, chosen=MinimumNorm())

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """``Aᵀ φ(AAᵀ) b``; a rank cut acts on the scaled rows, every other filter on the rows as they are."""
        if not isinstance(choice, MinimumNorm | RankCut) and self.is_equilibrated:
            return self.plain.filtered(choice, rhs)
        phi = choice(self.spectrum.values, self.spectrum.kept)
        value = self.operator.T @ self.function(phi, rhs)
        return judge(self.operator, value, rhs, self.tol, 0, chosen=choice)

    def solve_transposed(self, rhs: Tensor) -> Solution:
        """``(AAᵀ)⁺ A c``."""
        if self.is_equilibrated and self.rank < len(self.gram):
            return self.plain.solve_transposed(
                rhs
            )  # of dependent rows the shortest answer is not the scaled one
        phi = MinimumNorm()(self.spectrum.values, self.spectrum.kept)
        value = self.function(phi, self.operator @ rhs)
        return judge(self.operator.T, value, rhs, self.tol, 0)

    def curvature(self) -> Prepared:
        """``AᵀA`` through the same Gram matrix."""
        return _NormalPrepared(NormalOperator(self.operator), self.plain)

    @property
    def rank(self) -> int:
        """Eigenvalues above the tolerance."""
        return self.spectrum.rank

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue relative to the largest."""
        values = self.spectrum.values
        return float(values[0] / values[-1]) if bool(values[-1] > 0) else 0.0

    def weighted(self, weights: LinearOperator) -> Prepared:
        """``W A``, whose Gram matrix is ``W AAᵀ Wᵀ``: no row is computed again."""
        half = weights @ self.gram.to(weights.dtype)
        matrix = (weights @ half.T.contiguous()).to(torch.float64)
        rows = Product(weights, self.operator)
        noise = default_tolerance(rows.shape, weights.dtype) if weights.dtype != torch.float64 else 0.0
        return DualPrepared(rows, (matrix + matrix.T) / 2, max(self.tolerance, noise), self.tol)


def _is_in_memory(rows: KeptRows) -> bool:
    kept = own_part(rows)
    if isinstance(kept, Stacked):
        return any(_is_in_memory(part) for part in kept.parts)
    return isinstance(kept, DenseOperator)


class _NormalPrepared(Prepared):
    """``(AᵀA + λI) v = b`` through the Gram matrix: ``φ(AᵀA + λ) = φ(λ) I + Aᵀ ψ(AAᵀ) A``."""

    def __init__(self, operator: NormalOperator, dual: DualPrepared) -> None:
        self.operator = NormalOperator(dual.operator, operator.damping)
        self.dual, self.damping = dual, operator.damping

    def solve(self, rhs: Tensor) -> Solution:
        value = self._function(MinimumNorm(), rhs)
        value = value + self._function(MinimumNorm(), rhs - self.operator @ value)
        return judge(self.operator, value, rhs, self.dual.tol, 0, chosen=MinimumNorm())

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        value = self._function(choice, rhs)
        return judge(self.operator, value, rhs, self.dual.tol, 0, chosen=choice)

    def _function(self, choice: Filter, rhs: Tensor) -> Tensor:
        s = self.dual.spectrum
        shifted_values = torch.cat([s.values.new_zeros(1), s.values]) + self.damping
        kept = torch.cat([s.kept.new_zeros(1), s.kept]) | (self.damping > 0)
        phi_zero, phi = choice(shifted_values, kept).split([1, len(s.values)])
        safe = torch.where(s.kept, s.values, torch.ones_like(s.values))
        psi = torch.where(s.kept, (phi - phi_zero) / safe, torch.zeros_like(phi))
        rows = self.dual.operator
        return float(phi_zero) * rhs + rows.T @ self.dual.function(psi, rows @ rhs)

    def curvature(self) -> Prepared:
        return self

    @property
    def rank(self) -> int:
        return self.operator.shape[0] if self.damping > 0 else self.dual.rank
