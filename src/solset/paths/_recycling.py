"""What products with a Hessian were paid for once serves the systems that follow: they differ by little."""

import torch
from torch import Tensor

from solset.linalg import LinearOperator

MOST_PAIRS = 400


class Watched(LinearOperator):
    """A symmetric operator that keeps each vector it was multiplied with, and the product.

    Args:
        inner: The operator.

    Attributes:
        vectors: ``d``, ``(p,)`` each.
        products: ``H d``.
    """

    is_symmetric = True

    def __init__(self, inner: LinearOperator) -> None:
        super().__init__(inner.shape, inner.dtype, inner.device)
        self._inner = inner
        self.vectors: list[Tensor] = []
        self.products: list[Tensor] = []

    def _apply(self, block: Tensor) -> Tensor:
        found = self._inner @ block
        self.vectors += block.clone().unbind(1)
        self.products += found.unbind(1)
        return found

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._apply(block)

    @property
    def count(self) -> int:
        """Products so far."""
        return len(self.vectors)

    @property
    def pairs(self) -> Tensor:
        """Those that are finite and not zero, as unit vectors with their products, ``(2, p, k)``."""
        if not self.vectors:
            return torch.empty(2, self.shape[0], 0, dtype=self.dtype, device=self.device)
        both = torch.stack([torch.stack(self.vectors, dim=1), torch.stack(self.products, dim=1)])
        lengths = torch.linalg.vector_norm(both[0], dim=0)
        usable = torch.isfinite(both).all(dim=0).all(dim=0) & (lengths > 0)
        return both[:, :, usable] / lengths[usable]


def pairs_of(watched: Watched, earlier: Tensor | None, memory_budget: int) -> Tensor:
    """Unit vectors and their products, ``(2, p, k)``: the earlier ones, then those just seen.

    Args:
        watched: What was multiplied.
        earlier: ``(2, p, j)``.
        memory_budget: Bytes; the latest that fit are kept.
    """
    seen = watched.pairs
    joined = seen if earlier is None else torch.cat([earlier, seen], dim=2)
    most = max(1, min(MOST_PAIRS, memory_budget // (4 * joined.shape[1] * joined.dtype.itemsize)))
    return joined[:, :, -most:]


def smallest_eigenvalue(watched: Watched) -> float:
    """The smallest Rayleigh quotient in the span of the vectors: an upper bound of the smallest eigenvalue.

    Args:
        watched: What was multiplied; ``nan`` if nothing was.
    """
    vectors, products = watched.pairs
    if vectors.shape[1] == 0:
        return float("nan")
    basis, values, right = torch.linalg.svd(vectors, full_matrices=False)
    kept = values > 1e-8 * values[0]  # below it a combination of vectors is mostly rounding
    image = products @ (right[kept].T / values[kept])
    matrix = basis[:, kept].T @ image
    return float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0])


class Recycled(LinearOperator):
    """An approximate inverse that is exact on the span of vectors whose products are known.

    ``(I - Z Zᵀ H) M (I - H Z Zᵀ) + Z Zᵀ`` with ``Zᵀ H Z = I``: the update of a quasi-Newton method by all
    pairs at once (Morales & Nocedal 2000). Positive definite if ``M`` is.

    Args:
        inverse: ``M``.
        pairs: Unit vectors and their products, ``(2, p, k)``.
    """

    is_symmetric = True

    def __init__(self, inverse: LinearOperator, pairs: Tensor) -> None:
        super().__init__(inverse.shape, inverse.dtype, inverse.device)
        self._inverse = inverse
        vectors, products = pairs
        square = vectors.T @ products  # symmetric up to what the Hessian changed between the products
        values, turn = torch.linalg.eigh((square + square.T) / 2)
        kept = values > 1e-8 * values[-1:]  # none of none
        turn = turn[:, kept] / values[kept].sqrt()
        self._vectors, self._products = vectors @ turn, products @ turn

    def _apply(self, block: Tensor) -> Tensor:
        along = self._vectors.T @ block
        rest = self._inverse @ (block - self._products @ along)
        return rest - self._vectors @ (self._products.T @ rest) + self._vectors @ along

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._apply(block)
