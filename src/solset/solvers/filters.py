"""Spectral filters ``φ`` between 0 and the pseudo-inverse: each picks an element of an affine set."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from solset.checks import checked, positive, within
from solset.errors import SolsetWarning, bad_value
from solset.solvers._optimizers import read_optimizer


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

    Notes:
        Meaningful only where ``|1 - ηs| ≤ 1`` for the largest eigenvalue; beyond it descent itself
        diverges, and so does the filter: sets refuse the element.

    Example:
        >>> flow = GradientFlow(steps=1, learning_rate=0.1)
        >>> flow(torch.tensor([0.0, 2.0]), torch.tensor([False, True]))
        tensor([0.1000, 0.1000])
    """

    steps: int  # Number ``k`` of gradient-descent steps
    learning_rate: float  # Learning rate ``η``, for the loss as reduced

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
@dataclass(frozen=True, eq=False)
class Recipe(Filter):
    """The flow as long as a training, ``P^½ φ_t(P^½ H P^½ + λ) P^½ b`` with ``φ_t(s) = (1 - e^{-st}) / s``.

    It answers for weights that training left early, where the limit of endless training says nothing. The
    duration ``t`` is the sum of the learning rates, over ``1 - momentum`` for SGD. Adam and its kin are
    flows in the metric ``P = 1 / (√v̂ + ε)`` of their own state. Negative eigenvalues count as zero:
    the flow would grow exponentially along them, and a training that leaves them does not.

    Example:
        >>> Recipe(length=2.0)(torch.tensor([0.0, -1.0, 1e9]), torch.ones(3, dtype=torch.bool))
        tensor([2.0000e+00, 2.0000e+00, 1.0000e-09])
    """

    length: float  # Duration ``t`` of training, the sum of its learning rates
    # Decoupled weight decay ``λ`` as in AdamW, one number or one for each weight ``(p,)``. A decay that is
    # part of the gradient, as in SGD and Adam, belongs to the problem.
    decay: float | Tensor = 0.0
    # Diagonal ``P`` of the preconditioner, ``(p,)``; ``None`` for none. Weights with 0 are held.
    scale: Tensor | None = None

    def __post_init__(self) -> None:
        positive("length", self.length, cure="Add up the learning rates of all steps.")
        decay = torch.as_tensor(self.decay)
        scale = torch.zeros(1) if self.scale is None else self.scale
        for name, value in (("decay", decay), ("scale", scale)):
            if not bool((torch.isfinite(value) & (value >= 0)).all()):
                cure = "Leave it out for none."
                raise bad_value(name, expected="finite numbers that are not negative", got=value, cure=cure)

    @classmethod
    def of(
        cls,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        *,
        steps: int | None = None,
        schedule: Sequence[float] | None = None,
    ) -> "Recipe":
        """The filter of a training that has just ended, from its optimizer's groups and state.

        Args:
            optimizer: Optimizer after its last step: SGD, Adam, AdamW or RMSprop.
            model: Trained module, whose parameters give the order of the weights.
            steps: Number of steps that were taken; by default the optimizer's own count, if it has one.
            schedule: Learning rate of the first group at each step; by default the present one at each.

        Raises:
            TypeError: If the optimizer is another one.
            ValueError: If the number of steps or their rates are not known.

        Warns:
            SolsetWarning: If some weights never had a gradient: Adam has no derivative there, and they are
            held.
        """
        length, decay, scale, silent = read_optimizer(optimizer, model, steps, schedule)
        if silent:
            warnings.warn(
                f"{silent} weights never had a gradient. Adam moves such a weight by a whole step as soon as "
                f"it has one, however small, so that no derivative exists there: the filter holds them",
                SolsetWarning,
                stacklevel=2,
            )
        return cls(length, decay, scale)

    @property
    def is_diagonal(self) -> bool:
        """Whether weights have their own scale or decay, so that the filter is no function of ``H`` alone."""
        return self.scale is not None or isinstance(self.decay, Tensor)

    def __call__(self, eigenvalues: Tensor, is_nonzero: Tensor) -> Tensor:  # noqa: ARG002 - φ is smooth at 0
        """``φ_t(s + λ)``, for a recipe without a preconditioner.

        Raises:
            ValueError: If weights have their own scale or decay.
        """
        if self.is_diagonal:
            got = "one with a scale or a decay for each weight"
            cure = "Use AffineSet.element, which takes it."
            raise bad_value("choice", expected="a function of the eigenvalues", got=got, cure=cure)
        return self.flow_at(eigenvalues + self.decay)

    def flow_at(self, rates: Tensor) -> Tensor:
        """``φ_t`` at the eigenvalues of the preconditioned matrix, decay included.

        Args:
            rates: Eigenvalues; negative ones count as 0.
        """
        scaled = self.length * rates.clamp_min(0)
        tiny = scaled < torch.finfo(scaled.dtype).eps  # there the quotient is 1 to rounding
        safe = torch.where(tiny, torch.ones_like(scaled), scaled)
        return self.length * torch.where(tiny, torch.ones_like(scaled), -torch.expm1(-safe) / safe)


@checked
@dataclass(frozen=True)
class Tikhonov(Filter):
    """``φ(s) = 1 / (s + damping)``."""

    # Number that is added to every eigenvalue, in units of the Hessian (of ``AAᵀ`` for a rectangular system);
    # it must be small against the eigenvalues that carry the answer
    damping: float

    def __post_init__(self) -> None:
        positive("damping", self.damping, cure="Use MinimumNorm() for none.")

    def __call__(self, eigenvalues: Tensor, is_nonzero: Tensor) -> Tensor:  # noqa: ARG002 - every eigenvalue counts
        """``1 / (s + damping)``."""
        return 1.0 / (eigenvalues + self.damping)


@checked
@dataclass(frozen=True)
class RankCut(Filter):
    """``φ(s) = 1/s`` for ``|s| > tolerance · max|s|`` and 0 below."""

    # Size relative to the largest eigenvalue, in [0, 1), up to which eigenvalues count as zero
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
    """``φ(s) = 1/(s + shift)`` on the range, and 0 on the kernel."""

    shift: float  # Number that is added to every eigenvalue, of any sign

    def __call__(self, eigenvalues: Tensor, is_nonzero: Tensor) -> Tensor:
        """``1/(s + shift)`` where ``s`` counts as non-zero."""
        return MinimumNorm()(eigenvalues + self.shift, is_nonzero)
