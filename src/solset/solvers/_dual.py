"""The minimum-norm solution through the small matrix of the rows' inner products."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.checks import checked
from solset.errors import bad_type
from solset.linalg import (
    KeptRows,
    LinearOperator,
    NormalOperator,
    cross_gram,
    default_tolerance,
    gram,
    stacked,
)
from solset.solvers._base import Prepared, Solver
from solset.solvers._decomposed import DualPrepared, GramPrepared
from solset.solvers._row_plan import RowPlan, RowSizes, keep_in_memory, size_text

# Products of float32 rows in float32 are off by about 1e-7 of the rows' lengths. Where no eigenvalue is near
# that, they cost half as much, and a step of refinement with the rows takes the error to its square.
ENOUGH_FOR_SINGLE = 1e-4


@checked
@dataclass(frozen=True)
class Dual(Solver):
    """The minimum-norm solution through the Gram matrix ``AAᵀ`` of the rows, decomposed once.

    For a wide ``A`` (fewer rows than weights) this is the cheap side: after one pass for the rows, each
    further right-hand side, filter or projection costs two products. A :class:`NormalOperator`
    ``AᵀA + λI`` is solved through the same Gram matrix. :class:`solset.outofcore.DiskDual` is the same
    solver for rows and Gram matrices that do not fit the memory.

    Attributes:
        rank_tolerance: Relative size below which an eigenvalue of ``AAᵀ`` counts as zero (singular
            values of ``A`` are resolved down to its square root); ``None`` takes ``ε^{3/2}`` of the rows'
            dtype, or the larger side times the rounding unit of the Gram matrix if that is more.
        tol: Relative residual up to which the system counts as consistent.
        memory_budget: Bytes that rows, Gram matrix and its decomposition may take. Rows that do not fit are
            computed again at every use.
        is_equilibrated: Whether every row is scaled to length one before the rank is cut, so that no row is
            dropped for being short. A consistent system of full row rank has the same solution either way;
            where rows contradict each other the compromise weighs them alike. Only the minimum norm and a
            rank cut see the scaling; filters that follow training never do.

    Cost: ``m`` rows, ``O(m² p + m³)`` operations; ``24m²`` bytes and those of the rows, if they are kept;
    :meth:`plan` says whether they are.
    """

    rank_tolerance: float | None = None
    tol: float = 1e-8
    memory_budget: int = 4 * 2**30
    is_equilibrated: bool = False

    def takes(self, operator: LinearOperator) -> bool:
        """Whether the operator has rows: rectangular, or ``AᵀA + λI`` with a known factor."""
        if isinstance(operator, NormalOperator):
            return operator.rest is None
        return not operator.is_symmetric

    def plan(self, operator: LinearOperator) -> RowPlan:
        """The bytes that :meth:`prepare` needs, and the place where rows are kept.

        Raises:
            ValueError: If no plan fits the memory budget; names the smallest that works.
        """
        sizes = RowSizes.of(_rows_of(operator))
        if sizes.in_memory <= self.memory_budget:
            return sizes.plan_in_memory()
        whole, budget = size_text(sizes.in_memory), size_text(self.memory_budget)
        return self._plan_beyond_memory(sizes, f"keeping them takes {whole} of a budget of {budget}")

    def smallest_budget(self, operator: LinearOperator) -> int:
        """The smallest memory budget in bytes for which there is a plan."""
        return self._smallest_budget(RowSizes.of(_rows_of(operator)))

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The Gram matrix of the rows with its decomposition.

        Raises:
            TypeError: If the operator is symmetric and its factor is not known.
            ValueError: If no plan fits the memory budget.
        """
        if isinstance(operator, NormalOperator) and operator.rest is None:
            plain = replace(self, is_equilibrated=False)
            return plain.prepare_rows(operator.factor).curvature(operator.damping)
        if operator.is_symmetric:
            raise bad_type(
                "operator",
                expected="rectangular rows, or a NormalOperator with one damping",
                got=f"a symmetric {type(operator).__name__}",
                cure="Use Dense, CG or MINRES for a full Hessian, or for unequal weight decays.",
            )
        return self.prepare_rows(operator)

    def prepare_rows(self, rows: LinearOperator) -> GramPrepared:
        """The Gram matrix of any matrix, also a symmetric one, taken as rows.

        Args:
            rows: The matrix ``A``, ``(m, p)``.

        Raises:
            ValueError: If no plan fits the memory budget.
        """
        plan = self.plan(rows)
        if plan.place == "recomputed":
            left = self.memory_budget - 16 * rows.shape[0] ** 2  # the rest is for the decomposition
            return self.from_gram(rows, gram(rows, left))
        return self._of_kept(rows if isinstance(rows, KeptRows) else self._keep(rows, plan), plan)

    def extend(self, prepared: Prepared, operator: LinearOperator) -> Prepared:
        """The same with more rows: no row that is kept is computed again.

        Args:
            prepared: Result of :meth:`prepare` or of this method for the first rows of ``operator``.
            operator: All rows, the new ones last.

        Cost: the new rows, and their inner products with all.
        """
        plan, old = self.plan(operator), prepared.operator
        if plan.place == "recomputed" or not isinstance(old, KeptRows) or prepared.gram is None:
            return self.prepare(operator)
        return self._bordered(prepared.gram, stacked([old, keep_in_memory(operator, old.shape[0])]))

    def from_gram(self, rows: LinearOperator, matrix: Tensor) -> GramPrepared:
        """The decomposition of a Gram matrix that is known already.

        Args:
            rows: The matrix ``A``, ``(m, p)``.
            matrix: The Gram matrix ``AAᵀ`` in float64, ``(m, m)``.
        """
        tolerance = self._tolerance(rows)
        return DualPrepared(rows, matrix, tolerance, self.tol, is_equilibrated=self.is_equilibrated)

    def _plan_beyond_memory(self, sizes: RowSizes, note: str) -> RowPlan:
        smallest = self._smallest_budget(sizes)
        if self.memory_budget < smallest:
            raise sizes.refusal(self.memory_budget, smallest)
        return sizes.plan_recomputed(self.memory_budget, note)

    def _smallest_budget(self, sizes: RowSizes) -> int:
        return min(sizes.in_memory, sizes.recomputed)

    def _keep(self, rows: LinearOperator, plan: RowPlan) -> KeptRows:  # noqa: ARG002 - for the disk
        return keep_in_memory(rows)

    def _of_kept(self, rows: KeptRows, plan: RowPlan) -> GramPrepared:  # noqa: ARG002 - for the disk
        """The decomposition for rows that are at hand."""
        if rows.dtype == torch.float32:
            quick = self.from_gram(rows, cross_gram(rows, rows, dtype=torch.float32))
            if self._is_precise(quick):
                return quick
        return self.from_gram(rows, cross_gram(rows, rows))

    def _bordered(self, first: Tensor, rows: KeptRows) -> GramPrepared:
        """The decomposition for all rows, from the Gram matrix of the first ones."""
        old, new = rows.part(0, len(first)), rows.part(len(first), rows.shape[0])

        def bordered(dtype: torch.dtype) -> GramPrepared:
            cross = cross_gram(new, old, dtype=dtype)
            right = torch.cat([cross.T, cross_gram(new, new)])
            return self.from_gram(rows, torch.cat([torch.cat([first, cross]), right], dim=1))

        quick = bordered(rows.dtype)
        return quick if self._is_precise(quick) else bordered(torch.float64)

    @staticmethod
    def _is_precise(quick: GramPrepared) -> bool:
        """Whether products in the dtype of the rows suffice."""
        is_double = quick.operator.dtype == torch.float64
        return is_double or (isinstance(quick, DualPrepared) and quick.conditioning > ENOUGH_FOR_SINGLE)

    def _tolerance(self, rows: LinearOperator) -> float:
        if self.rank_tolerance is not None:
            return self.rank_tolerance
        # Eigenvalues are squares: rows that carry an error of ε^{3/4} blur them by ε^{3/2}.
        noise = torch.finfo(rows.dtype).eps ** 1.5
        return max(noise, default_tolerance(rows.shape, torch.float64))


def _rows_of(operator: LinearOperator) -> LinearOperator:
    return operator.factor if isinstance(operator, NormalOperator) else operator
