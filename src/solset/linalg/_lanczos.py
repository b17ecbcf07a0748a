"""Lanczos' method with full orthogonalisation, and the smallest eigenvalue of a symmetric operator."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.linalg._operator import LinearOperator


@dataclass(frozen=True)
class Krylov:
    """A symmetric operator ``A`` on the span of ``z, MAz, (MA)²z, …``, with ``M`` the identity by default.

    Attributes:
        vectors: Basis ``Z`` with ``Zᵀ M⁻¹ Z = I``, ``(p, k)``.
        matrix: Projection ``Zᵀ A Z``, ``(k, k)`` in float64.
        rest: Length of the part of the next vector outside the span; 0 where the span is invariant.
    """

    vectors: Tensor
    matrix: Tensor
    rest: float


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
