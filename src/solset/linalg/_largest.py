"""The largest eigenvalue of a positive semi-definite operator, with a bound from above."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import Tensor

from solset.checks import within
from solset.linalg._operator import LinearOperator
from solset.linalg._scipy_bridge import as_scipy, from_numpy

FAILURE = 1e-3  # probability with which the upper bound may be wrong


@dataclass(frozen=True)
class LargestEigenvalue:
    """An eigenpair and how far the true one may be.

    Attributes:
        value: Rayleigh quotient of the vector, never above the largest eigenvalue, up to rounding.
        vector: Eigenvector of unit length, ``(p,)``.
        upper: Upper bound of the largest eigenvalue, with probability 0.999 over the start vector
            (Kuczyński & Woźniakowski 1992, theorem 4.2).
        has_converged: Whether the iteration met its tolerance.
    """

    value: float
    vector: Tensor
    upper: float
    has_converged: bool


def largest_eigenpair(
    operator: LinearOperator, *, steps: int = 40, tol: float = 1e-10, seed: int = 0
) -> LargestEigenvalue:
    """The largest eigenvalue by implicitly restarted Lanczos from a random start.

    Restarts keep the leading Ritz vector, so the value is no worse than that of the first ``steps`` steps,
    to which the bound ``(λ - θ)/λ ≤ (log(1.648 √p / 0.001) / (2 steps - 1))²`` applies.

    Args:
        operator: Symmetric and positive semi-definite operator, ``(p, p)``.
        steps: Number of Lanczos vectors, and of products before the first restart; at least 2.
        tol: Relative accuracy of the eigenvalue, as Lanczos estimates it.
        seed: Seed of the random start vector.

    Raises:
        ValueError: If there are fewer than two steps.

    Cost: ``steps`` products, and about as many for each restart; ``steps·p`` numbers.
    """
    within("steps", steps, 2, cure="Leave it out.")
    p = operator.shape[0]
    if p <= steps:
        dense = operator.to_dense().to(torch.float64)
        values, vectors = torch.linalg.eigh((dense + dense.T) / 2)
        top = float(values[-1].clamp_min(0))
        return LargestEigenvalue(top, vectors[:, -1].to(operator.dtype), top, has_converged=True)
    start = np.random.default_rng(seed).standard_normal(p)
    vectors, has_converged = _leading(operator, start, steps, tol)
    if vectors is None:
        vectors, steps = start.reshape(-1, 1), 0
    vector = from_numpy(vectors[:, 0], operator)
    value = max(0.0, float(vector @ (operator @ vector)) / float(vector @ vector))
    gap = (math.log(1.648 * math.sqrt(p) / FAILURE) / (2 * steps - 1)) ** 2 if steps else math.inf
    return LargestEigenvalue(value, vector, value / (1 - gap) if gap < 1 else math.inf, has_converged)


def _leading(
    operator: LinearOperator, start: np.ndarray, steps: int, tol: float
) -> tuple[np.ndarray | None, bool]:
    """The leading Ritz vector ``(p, 1)``, looser where twenty restarts do not reach the tolerance."""
    for looser in (tol, 1e3 * tol, 1e6 * tol, 1.0):
        try:
            _, vectors = eigsh(
                as_scipy(operator),
                k=1,
                which="LA",
                v0=start,
                ncv=steps,
                tol=looser,  # pyright: ignore[reportArgumentType] - SciPy's stub takes 0 for its type
                maxiter=20,
            )
        except ArpackNoConvergence:
            continue
        return vectors, looser == tol
    return None, False
