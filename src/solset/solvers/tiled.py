"""The Gram side for matrices larger than memory: a Cholesky factor on the disk, and no decomposition."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from solset.errors import Status, bad_value
from solset.linalg import (
    BlockDiagonal,
    LinearOperator,
    NormalOperator,
    Product,
    TiledCholesky,
    TiledSymmetric,
)
from solset.linalg.largest import largest_eigenpair
from solset.linalg.tiled_cholesky import Lower
from solset.solvers.base import Prepared, attainable, judge
from solset.solvers.filters import Filter, GradientFlow, MinimumNorm, RankCut, Tikhonov
from solset.solvers.flow import by_inverse
from solset.solvers.gram_side import GramPrepared
from solset.solvers.solution import Solution

PROBES = 12  # Lanczos steps for either end of the spectrum
SHIFT = 1e-10  # of the largest eigenvalue, at least: rounding over it must be small
PROJECTIONS = 2  # onto the range, each of which leaves rounding over that shift of what is off it
CORRECTIONS = 8  # where the factor is of a shifted matrix
SLOWER = 0.5  # a correction that leaves more of the one before is rounding
FLOW_SHIFT = 20.0  # over the duration of training: of shifts from 1 to 20 the one with the fewest steps

Step = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class TiledPrepared(GramPrepared):
    """Rows ``A`` and their Gram matrix ``G`` on the disk, with a Cholesky factor of ``G`` there too.

    Where ``G`` is not positive definite to the tolerance, the factor is of ``G + δI`` with a small ``δ``, and
    corrections take it out again: eigenvalues far below ``δ`` count as zero. How many there are a factor does
    not tell, so that the rank is then not known.

    Attributes:
        operator: ``A``.
        gram: ``G``.
        tolerance: Relative size below which an eigenvalue counts as zero.
        tol: Relative residual up to which a system counts as consistent.
        folder: Of the factors.
        is_equilibrated: Whether the tolerance is for rows of length one.
        known: The factor of a Gram matrix whose rows are the first of these, until it has been used.
    """

    operator: LinearOperator
    gram: TiledSymmetric
    tolerance: float
    tol: float
    folder: Path
    is_equilibrated: bool = False
    known: TiledCholesky | None = None
    _damped: dict[float, TiledCholesky] = field(default_factory=dict)

    @cached_property
    def scale(self) -> Tensor:
        """What brings the rows to length one where they are equilibrated; else ones, ``(m,)``."""
        lengths = self.gram.diagonal().sqrt()
        return torch.where(
            (lengths > 0) & self.is_equilibrated, 1 / lengths.clamp(min=1e-300), torch.ones_like(lengths)
        )

    @cached_property
    def largest(self) -> float:
        """The largest eigenvalue of the scaled ``G``, from below."""
        if not self.is_finite:
            return 0.0
        return largest_eigenpair(self.gram.scaled(self.scale), steps=PROBES, tol=1e-2).value

    @cached_property
    def exact(self) -> TiledCholesky | None:
        """The factor of ``G`` itself, or nothing where that is not positive definite."""
        known, self.known = self.known, None  # its file goes as soon as it has been copied
        return TiledCholesky.of(self.gram, self.folder, known=known)

    @cached_property
    def smallest(self) -> float:
        """The smallest eigenvalue of the scaled ``G`` relative to the largest, bounded from below; or 0."""
        if self.exact is None or not self.largest > 0:
            return 0.0
        unscaled = BlockDiagonal((1 / self.scale).reshape(-1, 1, 1))
        inverse = Product(unscaled, Product(self.exact, unscaled))
        return 1 / (self.largest * largest_eigenpair(inverse, steps=PROBES, tol=1e-2).upper)

    @property
    def matrix(self) -> TiledSymmetric:
        """On the disk."""
        return self.gram

    @property
    def least(self) -> float:
        """As bounded from below; 0 where the factor is of a shifted matrix."""
        return self.smallest * self.largest

    @property
    def is_finite(self) -> bool:
        """A row that is not shows on the diagonal."""
        return bool(torch.isfinite(self.gram.diagonal()).all())

    def whitening(self) -> LinearOperator:
        """``L⁻¹``."""
        return Lower(self.factor, self.operator.dtype)

    @property
    def rank(self) -> int | None:
        """``m`` where that is proved (with probability 0.999 over a random start), else not known."""
        return self.gram.shape[0] if self.smallest > self.tolerance else None

    @cached_property
    def shift(self) -> Tensor:
        """What is added to the diagonal of ``G`` where its rank is not full, ``(m,)``."""
        size = max(max(self.tolerance, SHIFT) * self.largest, torch.finfo(torch.float64).tiny)
        return size / self.scale.square()

    @cached_property
    def factor(self) -> TiledCholesky:
        """The factor in use.

        Raises:
            ValueError: If rows are not finite, or no shift that is small makes their products definite.
        """
        if self.rank is not None and self.exact is not None:
            return self.exact
        return self._factor_with(self.shift)

    @cached_property
    def plain(self) -> "TiledPrepared":
        """The same rows without equilibration."""
        return replace(self, is_equilibrated=False, _damped={}) if self.is_equilibrated else self

    def solve(self, rhs: Tensor) -> Solution:
        """``Aᵀ (AAᵀ)⁺ b`` with iterative refinement."""

        def step(rest: Tensor) -> Tensor:
            return self.operator.T @ self.inverse(rest)

        return self._judged(self.operator, step, rhs)

    def solve_transposed(self, rhs: Tensor) -> Solution:
        """``(AAᵀ)⁺ A c``."""
        if self.is_equilibrated and self.rank is None:
            return self.plain.solve_transposed(rhs)  # of dependent rows the shortest is not the scaled one

        def step(rest: Tensor) -> Tensor:
            return self.inverse(self.operator @ rest)

        return self._judged(self.operator.T, step, rhs)

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """``Aᵀ φ(AAᵀ) b`` for filters that need no spectrum.

        Raises:
            ValueError: For a rank cut above the smallest eigenvalue.

        Cost: of a :class:`GradientFlow` one more factor and some thirty solves with it.
        """
        match choice:
            case MinimumNorm():
                return self.solve(rhs)
            case Tikhonov(damping=damping):
                inner = (self.damped(damping) @ rhs.to(torch.float64)).to(rhs.dtype)
                value = self.operator.T @ inner
                return judge(self.operator, value, rhs, self.tol, 0, chosen=choice)
            case GradientFlow():
                found, steps, is_done = self.flow(choice, choice, rhs)
                element = judge(self.operator, self.operator.T @ found, rhs, self.tol, steps, chosen=choice)
                return element if is_done else replace(element, status=Status.MAX_STEPS)
            case RankCut(tolerance=tolerance) if self.smallest > max(tolerance, self.tolerance):
                return replace(self.solve(rhs), status=Status.CONVERGED)
        raise _needs_spectrum(choice)

    def curvature(self, damping: float = 0.0) -> Prepared:
        """``AᵀA + λI`` through the same Gram matrix."""
        return NormalTiled(NormalOperator(self.operator, damping), self.plain)

    def weighted(self, weights: LinearOperator) -> Prepared | None:
        """``W A`` for a diagonal ``W``: neither a row nor a product of rows is computed again."""
        if not isinstance(weights, BlockDiagonal) or weights.blocks.shape[1:] != (1, 1):
            return None
        gram = self.gram.scaled(weights.blocks.flatten().to(torch.float64))
        return TiledPrepared(
            Product(weights, self.operator), gram, self.tolerance, self.tol, folder=self.folder
        )

    def inverse(self, rhs: Tensor) -> Tensor:
        """``G⁺ b``; where the rank is not full, ``(FG)² F² G b`` with ``F = (G + δI)⁻¹``.

        What of ``b`` is off the range would come out of ``F`` so long that its rounding drowns the rest, so
        that ``G`` comes first.

        Args:
            rhs: ``b``, ``(m,)`` or ``(m, k)``.
        """
        given = rhs.to(torch.float64)
        if self.rank is not None:
            return (self.factor @ given).to(rhs.dtype)
        found = self.factor @ (self.factor @ (self.gram @ given))
        for _ in range(PROJECTIONS):
            found = self.factor @ (self.gram @ found)
        return found.to(rhs.dtype)

    def damped(self, damping: float) -> TiledCholesky:
        """The factor of ``G + damping·I``; the latest is kept.

        Args:
            damping: Positive.
        """
        if damping not in self._damped:
            self._damped.clear()
            self._damped[damping] = self._factor_with(damping)
        return self._damped[damping]

    def flow(self, training: GradientFlow, phi: Filter, rhs: Tensor) -> tuple[Tensor, int, bool]:
        """``φ(G) b`` for a filter that decays as that of a training does.

        Args:
            training: Its duration sets the shift.
            phi: ``φ``.
            rhs: ``b``, ``(m,)`` or ``(m, k)``.

        Returns:
            It, the solves it took, and whether all columns came to rest.
        """
        if training.steps == 0:
            return torch.zeros_like(rhs), 0, True
        least = SHIFT * float(self.gram.diagonal().max())
        shift = max(FLOW_SHIFT / (training.steps * training.learning_rate), least)
        inverse = self.damped(shift)
        columns = rhs.reshape(rhs.shape[0], -1).to(torch.float64).unbind(dim=1)
        found = [by_inverse(inverse, shift, phi, column) for column in columns]
        value = torch.stack([part for part, _, _ in found], dim=1).to(rhs.dtype).reshape(rhs.shape)
        return value, sum(steps for _, steps, _ in found), all(is_done for _, _, is_done in found)

    def _factor_with(self, shift: Tensor | float) -> TiledCholesky:
        added = torch.as_tensor(shift, dtype=torch.float64, device=self.gram.device).expand(
            self.gram.shape[0]
        )
        found = TiledCholesky.of(self.gram, self.folder, shift=added) if self.is_finite else None
        if found is None:
            raise bad_value(
                "rows",
                expected="finite, with a Gram matrix that rounding leaves positive semi-definite",
                got=f"one that is not positive definite with {float(added.max()):.3g} on its diagonal",
                cure="Raise rank_tolerance, or take LSMR, which needs no Gram matrix.",
            )
        return found

    def _judged(self, operator: LinearOperator, step: Step, rhs: Tensor) -> Solution:
        """A solve by steps, each of the residual before: one for rounding, more to take a shift out."""
        value = step(rhs)
        if self.rank is not None:
            value = value + step(rhs - operator @ value)
            return judge(operator, value, rhs, self.tol, 0, chosen=MinimumNorm())
        size, steps = float(torch.linalg.vector_norm(value)), 0
        while steps < CORRECTIONS:
            change, before = step(rhs - operator @ value), size
            size, steps = float(torch.linalg.vector_norm(change)), steps + 1
            if not size < SLOWER * before:
                break
            value = value + change
        found = judge(operator, value, rhs, self.tol, 0, chosen=MinimumNorm())
        length = float(self.gram.diagonal().sum().sqrt())
        is_settled = length * size <= attainable(self.tol, operator) * float(torch.linalg.vector_norm(rhs))
        if found.status is Status.INCONSISTENT and not is_settled:
            return replace(found, status=Status.MAX_STEPS, steps=steps)
        return replace(found, steps=steps)


@dataclass(frozen=True)
class _Lifted(Filter):
    """``φ(s + damping)``."""

    inner: Filter
    damping: float

    def __call__(self, eigenvalues: Tensor, kept: Tensor) -> Tensor:
        return self.inner(eigenvalues + self.damping, kept | (self.damping > 0))


class NormalTiled(Prepared):
    """``AᵀA + λI``: ``φ(AᵀA + λ) b = φ(λ) b_⊥ + Aᵀ φ(G + λ) y`` for ``b = Aᵀy + b_⊥`` with ``A b_⊥ = 0``.

    Args:
        operator: ``AᵀA + λI`` of the very rows that are prepared.
        rows: ``A``, prepared.
    """

    def __init__(self, operator: NormalOperator, rows: TiledPrepared) -> None:
        self.operator, self.rows, self.damping = operator, rows, operator.damping

    @property
    def rank(self) -> int | None:
        """``p`` with damping; else that of the rows."""
        return self.operator.shape[0] if self.damping > 0 else self.rows.rank

    def solve(self, rhs: Tensor) -> Solution:
        """The minimum-norm solution, with one step of iterative refinement."""
        value = self._inverse(self.damping, rhs)
        value = value + self._inverse(self.damping, rhs - self.operator @ value)
        return judge(self.operator, value, rhs, self.rows.tol, 0, chosen=MinimumNorm())

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """``φ(AᵀA + λI) b`` for filters that need no spectrum.

        Raises:
            ValueError: For a rank cut.
        """
        match choice:
            case MinimumNorm():
                return self.solve(rhs)
            case Tikhonov(damping=damping):
                value = self._inverse(self.damping + damping, rhs)
                return judge(self.operator, value, rhs, self.rows.tol, 0, chosen=choice)
            case GradientFlow():
                along, across = self._split(rhs)
                found, steps, is_done = self.rows.flow(choice, _Lifted(choice, self.damping), along)
                level = torch.tensor([self.damping], dtype=torch.float64)
                value = float(choice(level, level > 0)) * across + self.rows.operator.T @ found
                element = judge(self.operator, value, rhs, self.rows.tol, steps, chosen=choice)
                return element if is_done else replace(element, status=Status.MAX_STEPS)
        raise _needs_spectrum(choice)

    def curvature(self) -> Prepared:
        """Itself."""
        return self

    def _inverse(self, damping: float, rhs: Tensor) -> Tensor:
        along, across = self._split(rhs)
        if damping == 0:
            return self.rows.operator.T @ self.rows.inverse(along)
        inner = (self.rows.damped(damping) @ along.to(torch.float64)).to(rhs.dtype)
        return self.rows.operator.T @ inner + across / damping

    def _split(self, rhs: Tensor) -> tuple[Tensor, Tensor]:
        along = self.rows.solve_transposed(rhs).value
        return along, rhs - self.rows.operator.T @ along


def _needs_spectrum(choice: Filter) -> ValueError:
    return bad_value(
        "filter",
        expected="MinimumNorm, GradientFlow or Tikhonov where the Gram matrix is on the disk",
        got=choice,
        cure="Raise memory_budget, so that the spectrum of the Gram matrix is computed.",
    )
