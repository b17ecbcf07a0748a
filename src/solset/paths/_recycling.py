"""Reuses products with one Hessian to precondition systems with the next, which differs from it by little."""

import torch
from torch import Tensor

from solset.linalg import LinearOperator

DEPENDENT = 1e-8  # relative size below which a combination of vectors is mostly rounding


class Watched(LinearOperator):
    """A symmetric operator that keeps every vector ``d`` it was multiplied with, and the product ``H d``."""

    is_symmetric = True

    def __init__(self, inner: LinearOperator) -> None:
        super().__init__(inner.shape, inner.dtype, inner.device)
        self._inner = inner
        self.vectors: list[Tensor] = []
        self.products: list[Tensor] = []

    def _apply(self, block: Tensor) -> Tensor:
        product = self._inner @ block
        self.vectors += block.clone().unbind(1)
        self.products += product.unbind(1)
        return product

    @property
    def count(self) -> int:
        """Number of products so far."""
        return len(self.vectors)

    @property
    def pairs(self) -> Tensor:
        """Unit vectors with their products, ``(2, p, k)``, without those that are zero or not finite."""
        if not self.vectors:
            return torch.empty(2, self.shape[0], 0, dtype=self.dtype, device=self.device)
        both = torch.stack([torch.stack(self.vectors, dim=1), torch.stack(self.products, dim=1)])
        lengths = torch.linalg.vector_norm(both[0], dim=0)
        usable = torch.isfinite(both).all(dim=0).all(dim=0) & (lengths > 0)
        return both[:, :, usable] / lengths[usable]


def pairs_of(watched: Watched, earlier: Tensor | None, max_pairs: int, memory_budget: int) -> Tensor:
    """Earlier pairs, then those of ``watched``, ``(2, p, k)``: the latest ones that fit limit and budget."""
    seen = watched.pairs
    joined = seen if earlier is None else torch.cat([earlier, seen], dim=2)
    fitting = memory_budget // (4 * joined.shape[1] * joined.dtype.itemsize)
    return joined[:, :, -max(1, min(max_pairs, fitting)) :]


def smallest_eigenvalue(watched: Watched) -> float:
    """The smallest Rayleigh quotient in the span of the watched vectors; ``nan`` if there are none.

    It is an upper bound of the smallest eigenvalue.
    """
    vectors, products = watched.pairs
    if vectors.shape[1] == 0:
        return float("nan")
    basis, values, right = torch.linalg.svd(vectors, full_matrices=False)
    independent = values > DEPENDENT * values[0]
    image = products @ (right[independent].T / values[independent])
    matrix = basis[:, independent].T @ image
    return float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0])


class Recycled(LinearOperator):
    """An approximate inverse that is exact on the span of vectors whose products are known.

    ``(I - Z Zᵀ H) M (I - H Z Zᵀ) + Z Zᵀ`` with ``Zᵀ H Z = I``: the update of a quasi-Newton method by all
    pairs at once (Morales & Nocedal 2000). It is positive definite if ``M`` is.

    Args:
        inverse: Approximate inverse ``M`` to improve.
        pairs: Unit vectors and their products, ``(2, p, k)``.
    """

    is_symmetric = True

    def __init__(self, inverse: LinearOperator, pairs: Tensor) -> None:
        super().__init__(inverse.shape, inverse.dtype, inverse.device)
        self._inverse = inverse
        vectors, products = pairs
        square = vectors.T @ products  # symmetric up to what the Hessian changed between the products
        values, turn = torch.linalg.eigh((square + square.T) / 2)
        independent = values > DEPENDENT * values[-1:]  # the slice serves an empty span too
        turn = turn[:, independent] / values[independent].sqrt()
        self._vectors, self._products = vectors @ turn, products @ turn

    def _apply(self, block: Tensor) -> Tensor:
        along = self._vectors.T @ block
        rest = self._inverse @ (block - self._products @ along)
        return rest - self._vectors @ (self._products.T @ rest) + self._vectors @ along
