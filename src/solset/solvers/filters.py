"""Spectral filters ``φ`` between 0 and the pseudo-inverse: each picks an element of an affine set."""

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from solset.checks import checked, positive, within
from solset.errors import SolsetWarning, bad_value


@dataclass(frozen=True)
class Filter(ABC):
    """A function ``φ`` of the eigenvalues; the element it picks is ``φ(H) b``."""

    @abstractmethod
    def __call__(self, eigenvalues: Tensor, is_nonzero: Tensor) -> Tensor:
        """``φ`` at each eigenvalue.

        Args:
            eigenvalues: Eigenvalues ``s`` of the matrix, ``(m,)``.
            is_nonzero: Mask of the eigenvalues that count as non-zero, ``(m,)`` boolean.
        """


@dataclass(frozen=True)
class MinimumNorm(Filter):
    """``φ(s) = 1/s``, and 0 at 0: the pseudo-inverse, the limit of infinitely long training.

    Example:
        >>> MinimumNorm()(torch.tensor([0.0, 2.0]), torch.tensor([False, True]))
        tensor([0.0000, 0.5000])
    """

    def __call__(self, eigenvalues: Tensor, is_nonzero: Tensor) -> Tensor:
        """``1/s`` where ``s`` counts as non-zero."""
        safe = torch.where(is_nonzero, eigenvalues, torch.ones_like(eigenvalues))
        return torch.where(is_nonzero, 1.0 / safe, torch.zeros_like(eigenvalues))


@checked
@dataclass(frozen=True)
class GradientFlow(Filter):
    """The element that training of a stated duration reaches: ``φ(s) = (1 - (1 - ηs)^k) / s``, ``φ(0) = ηk``.

    Attributes:
        steps: Number ``k`` of gradient-descent steps.
        learning_rate: Learning rate ``η``, for the loss as reduced.

    Notes:
        Meaningful only where ``|1 - ηs| ≤ 1`` for the largest eigenvalue; beyond it descent itself
        diverges, and so does the filter.

    Example:
        >>> flow = GradientFlow(steps=1, learning_rate=0.1)
        >>> flow(torch.tensor([0.0, 2.0]), torch.tensor([False, True]))
        tensor([0.1000, 0.1000])
    """

    steps: int
    learning_rate: float

    def __post_init__(self) -> None:
        within("steps", self.steps, 0, cure="Count the steps taken.")
        positive("learning_rate", self.learning_rate, cure="Use the one of training.")

    def __call__(self, eigenvalues: Tensor, is_nonzero: Tensor) -> Tensor:  # noqa: ARG002 - φ is smooth at 0
        """``(1 - (1 - ηs)^k) / s`` without cancellation at small ``s``."""
        scaled = self.learning_rate * eigenvalues
        if self.steps > 1 and bool((scaled > 2.0).any()):
            warnings.warn(
                f"gradient descent at learning rate {self.learning_rate:.3g} diverges: the largest "
                f"eigenvalue is {float(eigenvalues.max()):.3g}, and their product must stay below 2",
                SolsetWarning,
                stacklevel=2,
            )
        tiny = scaled.abs() < torch.finfo(scaled.dtype).tiny  # below it a quotient loses its digits
        safe = torch.where(tiny, torch.ones_like(scaled), scaled)
        inside = safe < 1.0
        log_decay = torch.log1p(-torch.where(inside, safe, torch.zeros_like(safe)))
        decayed = torch.where(inside, -torch.expm1(self.steps * log_decay), 1.0 - (1.0 - safe) ** self.steps)
        return self.learning_rate * torch.where(
            tiny, torch.full_like(scaled, float(self.steps)), decayed / safe
        )


@checked
@dataclass(frozen=True)
class Tikhonov(Filter):
    """``φ(s) = 1 / (s + damping)``.

    Attributes:
        damping: Number that is added to every eigenvalue, in units of the Hessian (of ``AAᵀ`` for a
            rectangular system); it must be small against the eigenvalues that carry the answer.
    """

    damping: float

    def __post_init__(self) -> None:
        positive("damping", self.damping, cure="Use MinimumNorm() for none.")

    def __call__(self, eigenvalues: Tensor, is_nonzero: Tensor) -> Tensor:  # noqa: ARG002 - every eigenvalue counts
        """``1 / (s + damping)``."""
        return 1.0 / (eigenvalues + self.damping)


@checked
@dataclass(frozen=True)
class RankCut(Filter):
    """``φ(s) = 1/s`` for ``|s| > tolerance · max|s|`` and 0 below.

    Attributes:
        tolerance: Size relative to the largest eigenvalue, in [0, 1), up to which eigenvalues count as zero.
    """

    tolerance: float

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise bad_value(
                "tolerance", expected="in [0, 1)", got=self.tolerance, cure="It is relative to the spectrum."
            )

    def __call__(self, eigenvalues: Tensor, is_nonzero: Tensor) -> Tensor:
        """``1/s`` above the cut."""
        above = is_nonzero & (eigenvalues.abs() > self.tolerance * eigenvalues.abs().max())
        return MinimumNorm()(eigenvalues, above)


@dataclass(frozen=True)
class Range(Filter):
    """``φ(s) = 1`` where ``s`` counts as non-zero: the projection on the range."""

    def __call__(self, eigenvalues: Tensor, is_nonzero: Tensor) -> Tensor:
        """1 on the range, and 0 on the kernel."""
        return is_nonzero.to(eigenvalues.dtype)


@dataclass(frozen=True)
class Values(Filter):
    """``φ(s) = s``: the matrix itself, from its decomposition."""

    def __call__(self, eigenvalues: Tensor, is_nonzero: Tensor) -> Tensor:  # noqa: ARG002 - all of them
        """The eigenvalues."""
        return eigenvalues


@dataclass(frozen=True)
class Shifted(Filter):
    """``φ(s) = 1/(s + shift)`` on the range, and 0 on the kernel.

    Attributes:
        shift: Number that is added to every eigenvalue, of any sign.
    """

    shift: float

    def __call__(self, eigenvalues: Tensor, is_nonzero: Tensor) -> Tensor:
        """``1/(s + shift)`` where ``s`` counts as non-zero."""
        return MinimumNorm()(eigenvalues + self.shift, is_nonzero)
