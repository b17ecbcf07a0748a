"""A Gram matrix on the disk: both ends of its spectrum, its factors, its inverse on the range."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from solset.errors import bad_value
from solset.linalg import BlockDiagonal, LargestEigenvalue, Product, largest_eigenpair, shifted
from solset.outofcore._flow import by_descent, by_inverse, is_descended
from solset.outofcore._tiled_cholesky import TiledCholesky
from solset.outofcore._tiles import TiledSymmetric
from solset.solvers.filters import Filter, GradientFlow

PROBES = 12  # Lanczos steps for either end of the spectrum
SHIFT = 1e-10  # of the largest eigenvalue, at least: rounding over it must be small
PROJECTIONS = 3  # onto the range, each of which leaves rounding over that shift of what is off it
BEYOND = 1.0001  # times the largest eigenvalue found, which is never too large
FLOW_SHIFT = 20.0  # over the duration of training: of shifts from 1 to 20 the one with the fewest steps


class Factors:
    """Cholesky factors of ``G`` and of ``G + λI``, made when they are first needed and kept on the disk.

    Args:
        gram: ``G``.
        folder: Of the factors.
        known: The factor of a Gram matrix whose rows are the first of these.
    """

    def __init__(self, gram: TiledSymmetric, folder: Path, known: TiledCholesky | None = None) -> None:
        self.gram, self.folder, self._known = gram, folder, known
        self._exact: TiledCholesky | None = None
        self._was_tried = False
        self._damped: tuple[float, TiledCholesky] | None = None

    @cached_property
    def diagonal(self) -> Tensor:
        """Of ``G``, ``(m,)``."""
        return self.gram.diagonal()

    @property
    def is_finite(self) -> bool:
        """Whether all rows are: one that is not shows on the diagonal."""
        return bool(torch.isfinite(self.diagonal).all())

    @property
    def exact(self) -> TiledCholesky | None:
        """The factor of ``G`` itself, or nothing where that is not positive definite."""
        if not self._was_tried:
            self._exact = TiledCholesky.of(self.gram, self.folder, known=self._known)
            self._known, self._was_tried = None, True  # the file of one that was copied goes now
        return self._exact

    @property
    def exact_so_far(self) -> TiledCholesky | None:
        """The same, if it was made already."""
        return self._exact

    def forget_exact(self) -> None:
        """Gives its file back, where it is of no use."""
        self._exact = None

    @cached_property
    def bound(self) -> float:
        """Not exceeded by the largest eigenvalue of ``G``, with probability 0.999 over a random start."""
        return self._largest_of(self.gram, steps=PROBES, tol=1e-2).upper

    @cached_property
    def largest(self) -> float:
        """The largest eigenvalue of ``G``, to six digits."""
        return self._largest_of(self.gram, steps=4 * PROBES, tol=1e-6).value

    def damped(self, damping: float) -> TiledCholesky:
        """The factor of ``G + λI``; the latest is kept.

        Args:
            damping: ``λ``, positive.
        """
        if self._damped is None or self._damped[0] != damping:
            self._damped = None
            self._damped = (damping, self.with_added(torch.full_like(self.diagonal, damping)))
        return self._damped[1]

    def with_added(self, shift: Tensor) -> TiledCholesky:
        """The factor with a positive diagonal added.

        Args:
            shift: ``(m,)``.

        Raises:
            ValueError: If rows are not finite, or the shift does not make their products definite.
        """
        found = TiledCholesky.of(self.gram, self.folder, shift=shift) if self.is_finite else None
        if found is None:
            raise bad_value(
                "rows",
                expected="finite, with a Gram matrix that rounding leaves positive semi-definite",
                got=f"one that is not positive definite with {float(shift.max()):.3g} on its diagonal",
                cure="Look for values that are not finite, or take LSMR, which needs no Gram matrix.",
            )
        return found

    def scaled_end(self, scale: Tensor) -> LargestEigenvalue:
        """The largest eigenvalue of ``D G D``.

        Args:
            scale: ``D``, ``(m,)``.
        """
        return self._largest_of(self.gram.scaled(scale), steps=PROBES, tol=1e-2)

    def conditioning(self, scale: Tensor) -> float:
        """The smallest eigenvalue of ``D G D`` over the largest; not more than that with probability 0.998.

        Args:
            scale: ``D``, ``(m,)``.

        Returns:
            0 where there is no factor.
        """
        largest = self.scaled_end(scale).upper
        if self.exact is None or not largest > 0:
            return 0.0
        unscaled = BlockDiagonal((1 / scale).reshape(-1, 1, 1))
        inverse = Product(unscaled, Product(self.exact, unscaled))
        return 1 / (largest * largest_eigenpair(inverse, steps=PROBES, tol=1e-2).upper)

    def flow(self, training: GradientFlow, rhs: Tensor, damping: float = 0.0) -> tuple[Tensor, int, bool]:
        """``φ(G + λI) b``, with the steps that it took and whether they were enough.

        Args:
            training: ``φ``.
            rhs: ``b``, ``(m,)`` or ``(m, k)``.
            damping: ``λ``.
        """
        given = rhs.to(torch.float64)
        if not (self.is_finite and bool(torch.isfinite(given).all())):
            return torch.full_like(rhs, float("nan")), 0, True
        largest = damping + self.bound
        if training.learning_rate * largest > 1.0:  # it matters how much more
            largest = damping + BEYOND * self.largest
            top = torch.tensor([largest / BEYOND], dtype=torch.float64)
            training(top, top > 0)  # which warns where descent diverges
        if is_descended(training, largest):
            found, steps, is_done = by_descent(shifted(self.gram, damping), training, given)
            return found.to(rhs.dtype), steps, is_done
        shift = max(FLOW_SHIFT / (training.steps * training.learning_rate), SHIFT * largest)
        inverse, phi = self.damped(shift), Lifted(training, damping)
        columns = given.reshape(rhs.shape[0], -1).unbind(dim=1)
        parts = [by_inverse(inverse, shift, phi, column) for column in columns]
        value = torch.stack([part for part, _, _ in parts], dim=1).to(rhs.dtype).reshape(rhs.shape)
        return value, sum(steps for _, steps, _ in parts), all(is_done for _, _, is_done in parts)

    def _largest_of(self, matrix: TiledSymmetric, *, steps: int, tol: float) -> LargestEigenvalue:
        if not self.is_finite or not bool((self.diagonal > 0).any()):
            return LargestEigenvalue(0.0, torch.zeros_like(self.diagonal), 0.0, has_converged=True)
        return largest_eigenpair(matrix, steps=steps, tol=tol)


@dataclass(frozen=True)
class Lifted(Filter):
    """``φ(s + λ)``.

    Attributes:
        inner: ``φ``.
        damping: ``λ``.
    """

    inner: Filter
    damping: float

    def __call__(self, eigenvalues: Tensor, kept: Tensor) -> Tensor:
        """``φ`` at the eigenvalues with ``λ`` added."""
        return self.inner(eigenvalues + self.damping, kept | (self.damping > 0))


class RangeInverse:
    """``G⁺``: by the factor of ``G`` where its rank is proved full; else by a shifted one, on the range.

    With ``F = (G + δD⁻²)⁻¹`` that is ``F D⁻² F G D²``, the scaled form of ``F² G``: what of ``b`` is off the
    range would come out of ``F`` so long that its rounding drowns the rest, so that ``G`` comes first. Then
    ``u ← u - δ F D⁻² u`` takes out what rounding left off the range; written as ``F G u`` it would not.

    Args:
        factors: Of ``G``.
        scale: ``D``, which brings rows to length one where they are equilibrated, ``(m,)``.
        tolerance: Relative size below which an eigenvalue of ``D G D`` counts as zero.
    """

    def __init__(self, factors: Factors, scale: Tensor, tolerance: float) -> None:
        self._factors, self._scale, self._tolerance = factors, scale, tolerance

    @cached_property
    def conditioning(self) -> float:
        """The smallest eigenvalue of ``D G D`` over the largest, from below; 0 where there is no factor."""
        return self._factors.conditioning(self._scale)

    @property
    def is_full(self) -> bool:
        """Whether the rank is proved to be the full one."""
        return self.conditioning > self._tolerance

    @cached_property
    def largest(self) -> float:
        """The largest eigenvalue of ``D G D``, from below."""
        return self._factors.scaled_end(self._scale).value

    @cached_property
    def factor(self) -> TiledCholesky:
        """The factor in use."""
        if self.is_full and self._factors.exact is not None:
            return self._factors.exact
        self._factors.forget_exact()  # what it was made for, the end of the spectrum, is known
        return self._factors.with_added(self._shift)

    @cached_property
    def _shift(self) -> Tensor:
        return max(self._tolerance, SHIFT) * self.largest / self._scale.square()

    def apply(self, rhs: Tensor) -> Tensor:
        """``G⁺ b`` in the dtype of ``b``, up to the shift.

        Args:
            rhs: ``b``, ``(m,)`` or ``(m, k)``.
        """
        given, gram = rhs.to(torch.float64), self._factors.gram
        if self._factors.is_finite and not self.largest > 0:
            return torch.zeros_like(rhs)
        if self.is_full:
            return (self.factor @ given).to(rhs.dtype)
        square, shift = (
            part.reshape(-1, *[1] * (given.ndim - 1)) for part in (self._scale.square(), self._shift)
        )
        found = self.factor @ ((self.factor @ (gram @ (square * given))) / square)
        for _ in range(PROJECTIONS):
            found = found - self.factor @ (shift * found)
        return found.to(rhs.dtype)
