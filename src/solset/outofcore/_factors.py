"""Factors of a Gram matrix on the disk, both ends of its spectrum, and functions of it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from tqdm import trange

from solset.errors import bad_value
from solset.linalg import (
    BlockDiagonal,
    LargestEigenvalue,
    LinearOperator,
    Product,
    function_times_vector,
    largest_eigenpair,
    shifted,
)
from solset.outofcore._tiled_cholesky import TiledCholesky
from solset.outofcore._tiles import TiledSymmetric
from solset.solvers.filters import Filter, GradientFlow

FEW = 30  # so many steps of descent cost less than a factor
MAX_PRODUCTS = 5000  # largest number of steps of descent, where nothing else is exact
MAX_SOLVES = 120  # largest number of steps of Lanczos
FORGOTTEN = 1e-13  # share of the largest eigenvalue's part after training, below which it may be found late


def is_descended(training: GradientFlow, largest: float) -> bool:
    """Whether the steps of descent are to be taken one by one, for a given largest eigenvalue of ``G``.

    They are if they are few, or if the part of the largest eigenvalue swings for all of the training: an
    inverse finds that part last.
    """
    if training.steps <= FEW or training.learning_rate * largest <= 1.0:
        return training.steps <= FEW
    swing = training.learning_rate * largest - 1.0
    return swing > FORGOTTEN ** (1 / training.steps)


def by_descent(matrix: LinearOperator, training: GradientFlow, rhs: Tensor) -> tuple[Tensor, int, bool]:
    """``φ(G) b`` by the linearised descent itself, ``u ← u - η(G u - b)``.

    Returns:
        The answer, the number of steps, and whether these were enough; descent that overflows stops early.

    Cost: one product a step.
    """
    value, most = torch.zeros_like(rhs), min(training.steps, MAX_PRODUCTS)
    for step in trange(most, desc="descent", leave=False, disable=None):
        value = value - training.learning_rate * (matrix @ value - rhs)
        if not bool(torch.isfinite(value).all()):
            return value, step + 1, True
    return value, most, most == training.steps


def by_inverse(inverse: LinearOperator, shift: float, phi: Filter, rhs: Tensor) -> tuple[Tensor, int, bool]:
    """``φ(G) b`` by shift-and-invert Lanczos (van den Eshof & Hochbruck 2006).

    It finds small eigenvalues first, in which long training is slow: for a ``φ`` that decays like
    ``1 / (s + shift)`` the number of steps does not grow with the condition of ``G``.

    Returns:
        The answer, the number of steps, and whether the iteration came to rest.

    Cost: one solve a step, and as many vectors of length ``m``.
    """
    answer = function_times_vector(
        inverse, rhs, lambda projected: _of_projected(projected, shift, phi), max_steps=MAX_SOLVES
    )
    return answer.value, answer.steps, answer.has_converged


def _of_projected(projected: Tensor, shift: float, phi: Filter) -> Tensor:
    """The first column of ``φ`` of the projected ``G``."""
    values, vectors = torch.linalg.eigh(projected)
    eigenvalues = (1 / values.clamp(min=torch.finfo(values.dtype).tiny) - shift).clamp(min=0)
    return vectors @ (phi(eigenvalues, eigenvalues > 0) * vectors[0])


PROBES = 12  # Lanczos steps for either end of the spectrum
SHIFT = 1e-10  # smallest shift relative to the largest eigenvalue: rounding over it must be small
PROJECTIONS = 3  # onto the range; each reduces what is off it to the ratio of rounding to shift
BEYOND = 1.0001  # an estimate of the largest eigenvalue is never too large: this factor makes it a bound
FLOW_SHIFT = 20.0  # shift times duration of training: of 1 to 20 it took the fewest steps


class Factors:
    """Cholesky factors of ``G`` and of ``G + λI``, made when they are first needed and kept on the disk."""

    def __init__(self, gram: TiledSymmetric, folder: Path, first: TiledCholesky | None = None) -> None:
        self.gram, self.folder, self._first = gram, folder, first
        self._exact: TiledCholesky | None = None
        self._was_tried = False
        self._damped: tuple[float, TiledCholesky] | None = None

    @cached_property
    def diagonal(self) -> Tensor:
        """The diagonal of ``G``, ``(m,)``."""
        return self.gram.diagonal()

    @property
    def is_finite(self) -> bool:
        """Whether all rows are finite: one that is not shows on the diagonal."""
        return bool(torch.isfinite(self.diagonal).all())

    @property
    def exact(self) -> TiledCholesky | None:
        """The factor of ``G`` itself, or nothing where that is not positive definite."""
        if not self._was_tried:
            self._exact = TiledCholesky.of(self.gram, self.folder, first=self._first)
            self._first, self._was_tried = None, True  # the file of a factor that was copied goes now
        return self._exact

    @property
    def exact_so_far(self) -> TiledCholesky | None:
        """The factor of ``G`` itself, if it was made already."""
        return self._exact

    def forget_exact(self) -> None:
        """Deletes the file of the factor of ``G``, where it is of no use."""
        self._exact = None

    @cached_property
    def bound(self) -> float:
        """A bound of the largest eigenvalue of ``G``, with probability 0.999 over a random start."""
        return self._largest_of(self.gram, steps=PROBES, tol=1e-2).upper

    @cached_property
    def largest(self) -> float:
        """The largest eigenvalue of ``G``, to six digits."""
        return self._largest_of(self.gram, steps=4 * PROBES, tol=1e-6).value

    def damped(self, damping: float) -> TiledCholesky:
        """The factor of ``G + λI`` for a positive ``λ``; the latest is kept."""
        if self._damped is None or self._damped[0] != damping:
            self._damped = None
            self._damped = (damping, self.with_added(torch.full_like(self.diagonal, damping)))
        return self._damped[1]

    def with_added(self, shift: Tensor) -> TiledCholesky:
        """The factor of ``G`` with a positive diagonal added.

        Raises:
            ValueError: If rows are not finite, or the shifted matrix is not positive definite.
        """
        factor = TiledCholesky.of(self.gram, self.folder, shift=shift) if self.is_finite else None
        if factor is None:
            raise bad_value(
                "rows",
                expected="finite, with a Gram matrix that rounding leaves positive semi-definite",
                got=f"one that is not positive definite with {float(shift.max()):.3g} on its diagonal",
                cure="Look for values that are not finite, or take LSMR, which needs no Gram matrix.",
            )
        return factor

    def scaled_end(self, scale: Tensor) -> LargestEigenvalue:
        """The largest eigenvalue of ``D G D``; ``scale`` is the diagonal of ``D``, ``(m,)``."""
        return self._largest_of(self.gram.scaled(scale), steps=PROBES, tol=1e-2)

    def conditioning(self, scale: Tensor) -> float:
        """A lower bound of the smallest eigenvalue of ``D G D`` over the largest, with probability 0.998.

        It is 0 where ``G`` has no factor. The probability is over random starts.
        """
        largest = self.scaled_end(scale).upper
        if self.exact is None or not largest > 0:
            return 0.0
        unscaled = BlockDiagonal((1 / scale).reshape(-1, 1, 1))
        inverse = Product(unscaled, Product(self.exact, unscaled))
        return 1 / (largest * largest_eigenpair(inverse, steps=PROBES, tol=1e-2).upper)

    def flow(self, training: GradientFlow, rhs: Tensor, damping: float = 0.0) -> tuple[Tensor, int, bool]:
        """``φ(G + λI) b``, the number of steps, and whether they were enough."""
        given = rhs.to(torch.float64)
        if not (self.is_finite and bool(torch.isfinite(given).all())):
            return torch.full_like(rhs, float("nan")), 0, True
        largest = damping + self.bound
        if training.learning_rate * largest > 1.0:  # then an exact value is needed
            largest = damping + BEYOND * self.largest
            top = torch.tensor([largest / BEYOND], dtype=torch.float64)
            training(top, top > 0)  # warns where descent diverges
        if is_descended(training, largest):
            value, steps, is_done = by_descent(shifted(self.gram, damping), training, given)
            return value.to(rhs.dtype), steps, is_done
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
    """The filter ``φ(s + λ)``."""

    inner: Filter  # Filter ``φ`` before the shift
    damping: float  # Shift ``λ`` of the eigenvalues, at least 0

    def __call__(self, eigenvalues: Tensor, is_nonzero: Tensor) -> Tensor:
        """``φ`` at the eigenvalues with ``λ`` added."""
        return self.inner(eigenvalues + self.damping, is_nonzero | (self.damping > 0))


class RangeInverse:
    """The pseudo-inverse ``G⁺``: by the factor of ``G`` if its rank is proved full; else by a shifted factor.

    With ``F = (G + δD⁻²)⁻¹`` the shifted form is ``F D⁻² F G D²``, the scaled form of ``F² G``. ``G`` comes
    first, because ``F`` makes the part of ``b`` off the range so long that its rounding drowns the rest. Then
    ``u ← u - δ F D⁻² u`` removes the part that rounding left off the range; ``F G u`` would not.
    """

    def __init__(self, factors: Factors, scale: Tensor, tolerance: float) -> None:
        self._factors, self._scale, self._tolerance = factors, scale, tolerance

    @cached_property
    def conditioning(self) -> float:
        """A lower bound of the smallest eigenvalue of ``D G D`` over the largest; 0 without a factor."""
        return self._factors.conditioning(self._scale)

    @property
    def is_full(self) -> bool:
        """Whether the rank is proved to be the full one."""
        return self.conditioning > self._tolerance

    @cached_property
    def largest(self) -> float:
        """A lower bound of the largest eigenvalue of ``D G D``."""
        return self._factors.scaled_end(self._scale).value

    @cached_property
    def factor(self) -> TiledCholesky:
        """The factor in use."""
        if self.is_full and self._factors.exact is not None:
            return self._factors.exact
        self._factors.forget_exact()  # it was needed for the smallest eigenvalue only
        return self._factors.with_added(self._shift)

    @cached_property
    def _shift(self) -> Tensor:
        return max(self._tolerance, SHIFT) * self.largest / self._scale.square()

    def apply(self, rhs: Tensor) -> Tensor:
        """``G⁺ b`` in the dtype of ``b``, up to the shift; ``b`` is ``(m,)`` or ``(m, k)``."""
        given, gram = rhs.to(torch.float64), self._factors.gram
        if self._factors.is_finite and not self.largest > 0:
            return torch.zeros_like(rhs)
        if self.is_full:
            return (self.factor @ given).to(rhs.dtype)
        square, shift = (
            part.reshape(-1, *[1] * (given.ndim - 1)) for part in (self._scale.square(), self._shift)
        )
        value = self.factor @ ((self.factor @ (gram @ (square * given))) / square)
        for _ in range(PROJECTIONS):
            value = value - self.factor @ (shift * value)
        return value.to(rhs.dtype)
