"""The gradient-flow element ``φ(G) b`` without the spectrum of ``G``: by products or by an inverse."""

import torch
from torch import Tensor
from tqdm import trange

from solset.linalg import LinearOperator, function_times_vector
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
