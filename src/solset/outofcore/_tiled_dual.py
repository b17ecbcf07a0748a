"""A Gram matrix larger than memory, with a Cholesky factor on the disk and no decomposition."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from solset.errors import Status, bad_value
from solset.linalg import BlockDiagonal, LinearOperator, NormalOperator, Product
from solset.outofcore._factors import Factors, RangeInverse
from solset.outofcore._tiled_cholesky import Lower
from solset.outofcore._tiles import TiledSymmetric
from solset.solvers import GramPrepared, Prepared, Solution, attainable, judge
from solset.solvers.filters import Filter, GradientFlow, MinimumNorm, RankCut, Tikhonov

CORRECTIONS = 8  # largest number of corrections with the factor of a shifted matrix
SLOWER = 0.5  # a correction longer than this share of the one before is rounding

Step = Callable[[Tensor], Tensor]


class TiledPrepared(GramPrepared):
    """Rows ``A`` and their Gram matrix ``G`` on the disk, with a Cholesky factor of ``G`` there too.

    Where ``G`` is not positive definite to the tolerance, the factor is that of ``G + δI`` with a ``δ`` of
    1e-10 of the largest eigenvalue, and corrections take ``δ`` out again. A factor does not tell how many
    eigenvalues are below ``δ``, so the rank is then not known.
    """

    def __init__(
        self,
        rows: LinearOperator,
        factors: Factors,
        tolerance: float,
        tol: float,
        *,
        is_equilibrated: bool = False,
    ) -> None:
        super().__init__(rows, tolerance, tol, is_equilibrated=is_equilibrated)
        self.factors = factors

    @property
    def matrix(self) -> TiledSymmetric:
        """The Gram matrix on the disk."""
        return self.factors.gram

    @property
    def diagonal(self) -> Tensor:
        """The squared lengths of the rows, ``(m,)``."""
        return self.factors.diagonal

    @cached_property
    def inverse(self) -> RangeInverse:
        """The pseudo-inverse ``G⁺``."""
        return RangeInverse(self.factors, self.scale, self.tolerance)

    @cached_property
    def plain(self) -> "TiledPrepared":
        """The same rows without equilibration, with the same factors."""
        if not self.is_equilibrated:
            return self
        return TiledPrepared(self.operator, self.factors, self.tolerance, self.tol)

    @property
    def smallest(self) -> float:
        """A lower bound of the smallest eigenvalue; 0 where ``G`` has no factor."""
        return self.inverse.conditioning * self.inverse.largest

    def whitening(self) -> LinearOperator:
        """The inverse ``L⁻¹`` of the factor in use."""
        return Lower(self.inverse.factor, self.operator.dtype)

    @property
    def rank(self) -> int | None:
        """The rank ``m`` where it is proved (with probability 0.998 over random starts); else ``None``."""
        return self.matrix.shape[0] if self.inverse.is_full else None

    def solve(self, rhs: Tensor) -> Solution:
        """``Aᵀ (AAᵀ)⁺ b`` with iterative refinement."""

        def step(rest: Tensor) -> Tensor:
            return self.operator.T @ self.inverse.apply(rest)

        return self.corrected(self.operator, step, rhs, self.scale)

    def solve_transposed(self, rhs: Tensor) -> Solution:
        """``(AAᵀ)⁺ A c``."""
        if self.is_equilibrated and self.rank is None:
            # Of dependent rows the shortest answer is not the scaled one.
            return self.plain.solve_transposed(rhs)

        def step(rest: Tensor) -> Tensor:
            return self.inverse.apply(self.operator @ rest)

        return self.corrected(self.operator.T, step, rhs)

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """``Aᵀ φ(AAᵀ) b`` for filters that need no spectrum.

        Raises:
            ValueError: If the filter is a rank cut above the smallest eigenvalue.

        Cost: a :class:`GradientFlow` takes one more factor and some thirty solves for each column; where the
        training is short, or close to divergence, a product for each of its steps.
        """
        steps, is_done = 0, True
        match choice:
            case MinimumNorm():
                return self.solve(rhs)
            case Tikhonov(damping=damping):
                inner = (self.factors.damped(damping) @ rhs.to(torch.float64)).to(rhs.dtype)
            case GradientFlow():
                inner, steps, is_done = self.factors.flow(choice, rhs)
            case RankCut(tolerance=tolerance) if self.inverse.conditioning > max(tolerance, self.tolerance):
                return judge(self.operator, self.solve(rhs).value, rhs, self.tol, 0, chosen=choice)
            case _:
                raise needs_spectrum(choice)
        element = judge(self.operator, self.operator.T @ inner, rhs, self.tol, steps, chosen=choice)
        return element if is_done else replace(element, status=Status.MAX_STEPS)

    def curvature(self, damping: float = 0.0) -> Prepared:
        """``AᵀA + λI`` through the same Gram matrix."""
        return NormalTiled(NormalOperator(self.operator, damping), self.plain)

    def weighted(self, weights: LinearOperator) -> Prepared | None:
        """``W A`` for a diagonal ``W``: neither a row nor a product of rows is computed again."""
        if not isinstance(weights, BlockDiagonal) or weights.blocks.shape[1:] != (1, 1):
            return None
        gram = self.matrix.scaled(weights.blocks.flatten().to(torch.float64))
        factors = Factors(gram, self.factors.folder)
        return TiledPrepared(Product(weights, self.operator), factors, self.tolerance, self.tol)

    def corrected(
        self, operator: LinearOperator, step: Step, rhs: Tensor, scale: Tensor | None = None
    ) -> Solution:
        """A solution by repeated corrections: one against rounding, more to take a shift out.

        Where the rank is not known, a residual proves that there is no solution only if eigenvalues that
        count as zero carry it, and the last correction was too small to matter.
        """
        value = step(rhs)
        if self.rank is not None:
            value = value + step(rhs - operator @ value)
            return judge(operator, value, rhs, self.tol, 0, chosen=MinimumNorm())
        change, steps = value, 0
        while steps < CORRECTIONS:
            before, change, steps = change, step(rhs - operator @ value), steps + 1
            if not bool(torch.linalg.vector_norm(change) < SLOWER * torch.linalg.vector_norm(before)):
                break
            value = value + change
        solution = replace(judge(operator, value, rhs, self.tol, 0, chosen=MinimumNorm()), steps=steps)
        if solution.status is not Status.INCONSISTENT:
            return solution
        moved, given = torch.linalg.vector_norm(operator @ change), torch.linalg.vector_norm(rhs)
        is_settled = bool(moved <= attainable(self.tol, operator) * given)
        is_proved = is_settled and self._is_off_range(operator, rhs - operator @ value, scale)
        return solution if is_proved else replace(solution, status=Status.MAX_STEPS)

    def _is_off_range(self, operator: LinearOperator, rest: Tensor, scale: Tensor | None) -> bool:
        """Whether the mean eigenvalue that carries the residual is below the tolerance."""
        by = torch.ones(()) if scale is None else scale.reshape(-1, *[1] * (rest.ndim - 1))
        weighed = by.to(rest) * rest
        pulled = torch.linalg.vector_norm(operator.T @ (by.to(rest) * weighed), dtype=torch.float64)
        size = torch.linalg.vector_norm(weighed, dtype=torch.float64)
        quotient = pulled / size if operator.is_symmetric else (pulled / size).square()
        return bool(quotient <= self.tolerance * self.inverse.largest)


class NormalTiled(Prepared):
    """``AᵀA + λI``: ``φ(AᵀA + λ) b = φ(λ) b_⊥ + Aᵀ φ(G + λ) y`` for ``b = Aᵀy + b_⊥`` with ``A b_⊥ = 0``."""

    def __init__(self, operator: NormalOperator, rows: TiledPrepared) -> None:
        self.operator, self.rows, self.damping = operator, rows, operator.damping

    @property
    def rank(self) -> int | None:
        """The rank ``p`` with damping; else that of the rows."""
        return self.operator.shape[0] if self.damping > 0 else self.rows.rank

    def solve(self, rhs: Tensor) -> Solution:
        """The minimum-norm solution, with iterative refinement."""
        if self.damping == 0:
            return self.rows.corrected(self.operator, self._pseudo_inverse, rhs)
        value = self._inverse(self.damping, rhs)
        value = value + self._inverse(self.damping, rhs - self.operator @ value)
        return judge(self.operator, value, rhs, self.rows.tol, 0, chosen=MinimumNorm())

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """``φ(AᵀA + λI) b`` for filters that need no spectrum.

        Raises:
            ValueError: If the filter is a rank cut.
        """
        steps, is_done = 0, True
        match choice:
            case MinimumNorm():
                return self.solve(rhs)
            case Tikhonov(damping=damping):
                value = self._inverse(self.damping + damping, rhs)
            case GradientFlow():
                split = self.rows.solve_transposed(rhs)
                along, across = split.value, rhs - self.rows.operator.T @ split.value
                inner, steps, is_done = self.rows.factors.flow(choice, along, self.damping)
                level = torch.tensor([self.damping], dtype=torch.float64)
                value = float(choice(level, level > 0)) * across + self.rows.operator.T @ inner
                is_done = is_done and split.status in {Status.CONVERGED, Status.INCONSISTENT}
            case _:
                raise needs_spectrum(choice)
        element = judge(self.operator, value, rhs, self.rows.tol, steps, chosen=choice)
        return element if is_done else replace(element, status=Status.MAX_STEPS)

    def curvature(self) -> Prepared:
        """The system itself, which is symmetric."""
        return self

    def _pseudo_inverse(self, rhs: Tensor) -> Tensor:
        along = self.rows.solve_transposed(rhs).value
        return self.rows.operator.T @ self.rows.inverse.apply(along)

    def _inverse(self, damping: float, rhs: Tensor) -> Tensor:
        along = self.rows.solve_transposed(rhs).value
        across = rhs - self.rows.operator.T @ along
        inner = (self.rows.factors.damped(damping) @ along.to(torch.float64)).to(rhs.dtype)
        return self.rows.operator.T @ inner + across / damping


def needs_spectrum(choice: Filter) -> ValueError:
    """The error for a filter that needs the spectrum."""
    return bad_value(
        "filter",
        expected="MinimumNorm, GradientFlow or Tikhonov where the Gram matrix is on the disk",
        got=choice,
        cure="Raise memory_budget, so that the spectrum of the Gram matrix is computed.",
    )
