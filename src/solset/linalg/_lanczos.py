"""Lanczos' method: ends of the spectrum of a symmetric operator, and functions of it times a vector."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy
import torch
from torch import Tensor

from solset.checks import within
from solset.linalg._operator import LinearOperator


@dataclass(frozen=True)
class Krylov:
    """A symmetric operator ``A`` on the span of ``z, MAz, (MA)²z, …``, with ``M`` the identity by default."""

    vectors: Tensor  # Basis ``Z`` with ``Zᵀ M⁻¹ Z = I``, ``(p, k)``
    matrix: Tensor  # Projection ``Zᵀ A Z``, ``(k, k)`` in float64
    rest: float  # Length of the part of the next vector outside the span; 0 where the span is invariant


def krylov(
    operator: LinearOperator, start: Tensor, steps: int, inverse: LinearOperator | None = None
) -> Krylov:
    """The Krylov space of a vector.

    Args:
        operator: Symmetric operator ``A``, ``(p, p)``.
        start: Vector ``r``, ``(p,)``; the space begins with ``M r``.
        steps: Largest dimension of the space.
        inverse: Positive definite approximation ``M`` of the inverse of ``A``; the identity by default.

    Cost: one product with ``A`` (and with ``M``) for each dimension; memory for ``2·steps`` vectors, or
    ``steps`` without ``M``.
    """
    duals: list[Tensor] = []  # M⁻¹ times the basis
    basis: list[Tensor] = []
    matrix = torch.zeros(steps, steps, dtype=torch.float64)
    vector, size, largest = start, 0.0, 0.0
    for k in range(min(steps, operator.shape[0])):
        scaled = vector if inverse is None else inverse @ vector
        size = float((vector.to(torch.float64) @ scaled.to(torch.float64)).clamp_min(0).sqrt())
        if not size > 10 * torch.finfo(start.dtype).eps * largest:
            size = 0.0
            break
        basis.append(scaled / size)
        duals.append(basis[-1] if inverse is None else vector / size)
        vector = operator @ basis[-1]
        columns, others = torch.stack(basis, dim=1), torch.stack(duals, dim=1)
        first = columns.T @ vector
        matrix[: k + 1, k] = matrix[k, : k + 1] = first.to("cpu", torch.float64)
        largest = max(largest, float(first.norm()))
        vector = vector - others @ first
        vector = vector - others @ (columns.T @ vector)  # twice is enough
    else:
        size = float(vector.norm()) if len(basis) < operator.shape[0] else 0.0
    count = len(basis)
    columns = torch.stack(basis, dim=1) if basis else start.new_zeros(len(start), 0)
    return Krylov(columns, matrix[:count, :count], size)


@dataclass(frozen=True)
class SmallestEigenvalue:
    """The smallest eigenvalue that a search met, which is never below the smallest one of the operator.

    Attributes:
        value: Rayleigh quotient of the vector.
        vector: Vector of unit length, ``(p,)``.
        relative: Eigenvalue of ``MA`` that belongs to it, as a share of the largest one met. Its sign means
            something where it is far above the rounding unit.
        products: Number of products with the operator.
    """

    value: float
    vector: Tensor
    relative: float
    products: int


def smallest_eigenpair(
    operator: LinearOperator,
    *,
    start: Tensor | None = None,
    inverse: LinearOperator | None = None,
    steps: int = 40,
    restarts: int = 4,
    tol: float = 1e-3,
    seed: int = 0,
) -> SmallestEigenvalue:
    """The smallest eigenvalue by restarted Lanczos, which stops at the first one that is clearly negative.

    With a positive definite ``M ≈ A⁻¹`` the search is in ``MA``, whose negative eigenvalues are as many as
    those of ``A`` (Sylvester's law of inertia) and lie apart from the others, which are near 1.

    Args:
        operator: Symmetric operator ``A``, ``(p, p)``; up to ``steps`` rows it is searched completely.
        start: Vector to add to the random start, such as the eigenvector of a matrix nearby, ``(p,)``.
        inverse: Approximation ``M``, as for :func:`krylov`.
        steps: Dimension of each Krylov space.
        restarts: Limit of the spaces, each of which begins with the best vector of the one before.
        tol: Accuracy of the eigenvalue relative to the largest one, at which the search ends.
        seed: Seed of the random start vector.

    Cost: up to ``steps · restarts`` products; ``steps`` where the first space shows a negative eigenvalue or
    is accurate enough.
    """
    p = operator.shape[0]
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(p, generator=generator, dtype=torch.float64).to(operator.device, operator.dtype)
    if start is not None and bool(start.any()):
        vector = vector / vector.norm() + start / start.norm()
    best = SmallestEigenvalue(float("nan"), vector, float("nan"), 0)
    products = 0
    for _ in range(restarts):
        space = krylov(operator, vector, steps, inverse)
        products += space.vectors.shape[1]
        if not space.vectors.shape[1] or not bool(torch.isfinite(space.matrix).all()):
            break
        values, turn = torch.linalg.eigh(space.matrix)
        ritz = space.vectors @ turn[:, 0].to(space.vectors)
        length, spread = float(ritz.norm()), float(values.abs().max()) or 1.0
        lowest = float(values[0]) / length**2
        if not lowest >= best.value:
            best = SmallestEigenvalue(lowest, ritz / length, float(values[0]) / spread, products)
        # A Ritz value is off by at most the residual.
        left = space.rest * abs(float(turn[-1, 0]))
        if left <= tol * spread or float(values[0]) < -left:
            break
        vector = ritz if inverse is None else operator @ ritz
    return replace(best, products=products)


LAG = 5  # number of steps over which the answer has to stand still
AGREE = 1e-10  # relative change of the answer over these steps at which the iteration stops


@dataclass(frozen=True, eq=False)
class MatrixFunction:
    """The answer of Lanczos' method."""

    value: Tensor  # Approximation of ``f(M) b``, shaped like ``b``
    steps: int  # Number of products with ``M``
    error: float  # Change of the answer over the last five steps, relative to its length; 0 where it is exact
    has_converged: bool  # Whether this change is as small as was asked for


def function_times_vector(
    matrix: LinearOperator, rhs: Tensor, function: Callable[[Tensor], Tensor], *, max_steps: int
) -> MatrixFunction:
    """``f(M) b`` for a symmetric ``M``, with full orthogonalisation.

    Args:
        matrix: Symmetric matrix ``M``, ``(p, p)``.
        rhs: Vector ``b`` that is multiplied, ``(p,)``.
        function: Function from the projected matrix ``(k, k)`` in float64 to the first column of ``f`` of it.
        max_steps: Limit of the products.

    Cost: one product a step, and as many vectors of length ``p``.
    """
    size = torch.linalg.vector_norm(rhs)
    if not bool(size > 0):
        return MatrixFunction(torch.zeros_like(rhs), 0, 0.0, has_converged=True)
    most = min(max_steps, len(rhs))
    basis, projected = [rhs / size], torch.zeros(most, most, dtype=torch.float64)
    answers: list[Tensor] = []
    smallest = max(AGREE, 20 * torch.finfo(rhs.dtype).eps)
    error = 1.0
    for k in range(most):
        spanned = torch.stack(basis, dim=1)
        image = matrix @ basis[-1]
        along = spanned.T @ image
        projected[: k + 1, k] = projected[k, : k + 1] = along.to("cpu", torch.float64)
        rest = image - spanned @ along
        rest = rest - spanned @ (spanned.T @ rest)  # one pass leaves them orthogonal to half of the digits
        answers.append(function(projected[: k + 1, : k + 1]))
        length = torch.linalg.vector_norm(rest)
        if not bool(length > 10 * torch.finfo(rhs.dtype).eps * torch.linalg.vector_norm(image)):
            error = 0.0
            break
        if k >= LAG:
            error = _difference(answers[-1 - LAG], answers[-1])
            if error <= smallest:
                break
        basis.append(rest / length)
    else:
        error = 0.0 if most == len(rhs) else error
    value = size * (torch.stack(basis[: len(answers)], dim=1) @ answers[-1].to(rhs))
    return MatrixFunction(value, len(answers), error, has_converged=error <= smallest)


def _difference(before: Tensor, now: Tensor) -> float:
    change = now.clone()
    change[: len(before)] -= before
    size = float(torch.linalg.vector_norm(now))
    return float(torch.linalg.vector_norm(change)) / size if size > 0 else 0.0


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
    vector = torch.from_numpy(vectors[:, 0]).to(operator.device, operator.dtype)
    value = max(0.0, float(vector @ (operator @ vector)) / float(vector @ vector))
    gap = (math.log(1.648 * math.sqrt(p) / FAILURE) / (2 * steps - 1)) ** 2 if steps else math.inf
    return LargestEigenvalue(value, vector, value / (1 - gap) if gap < 1 else math.inf, has_converged)


def _leading(
    operator: LinearOperator, start: np.ndarray, steps: int, tol: float
) -> tuple[np.ndarray | None, bool]:
    """The leading Ritz vector ``(p, 1)``, looser where twenty restarts do not reach the tolerance."""

    def product(vector: np.ndarray) -> np.ndarray:
        image = operator @ torch.from_numpy(vector.ravel()).to(operator.device, operator.dtype)
        return image.detach().to("cpu", torch.float64).numpy()

    matrix = scipy.sparse.linalg.LinearOperator(operator.shape, matvec=product, dtype=np.float64)
    for looser in (tol, 1e3 * tol, 1e6 * tol, 1.0):
        try:
            _, vectors = scipy.sparse.linalg.eigsh(
                matrix,
                k=1,
                which="LA",
                v0=start,
                ncv=steps,
                tol=looser,  # pyright: ignore[reportArgumentType] - SciPy's stub takes 0 for its type
                maxiter=20,
            )
        except scipy.sparse.linalg.ArpackNoConvergence:
            continue
        return vectors, looser == tol
    return None, False
