"""Operators made of other operators."""

from collections.abc import Sequence

import torch
from torch import Tensor

from solset.linalg._operator import LinearOperator


class Identity(LinearOperator):
    """The identity on ``size`` coordinates."""

    is_symmetric = True

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__((size, size), dtype, device)

    def _apply(self, block: Tensor) -> Tensor:
        return block


class Zero(LinearOperator):
    """The matrix of zeros, ``(m, p)``."""

    def _apply(self, block: Tensor) -> Tensor:
        return block.new_zeros(self.shape[0], block.shape[1])

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return block.new_zeros(self.shape[1], block.shape[1])


class MaskedRows(LinearOperator):
    """The rows of a matrix ``(m, p)`` that a mask ``(m,)`` takes; all of its rows are computed."""

    def __init__(self, inner: LinearOperator, mask: Tensor) -> None:
        super().__init__((int(mask.sum()), inner.shape[1]), inner.dtype, inner.device)
        self._inner, self._mask = inner, mask.to(inner.device)

    def _apply(self, block: Tensor) -> Tensor:
        return (self._inner @ block)[self._mask]

    def _apply_transposed(self, block: Tensor) -> Tensor:
        whole = block.new_zeros(self._inner.shape[0], block.shape[1])
        whole[self._mask] = block
        return self._inner.T @ whole


class BlockDiagonal(LinearOperator):
    """A block-diagonal matrix with equal blocks ``(n, r, c)``, such as row weights of a Jacobian."""

    def __init__(self, blocks: Tensor) -> None:
        n, r, c = blocks.shape
        super().__init__((n * r, n * c), blocks.dtype, blocks.device)
        self.blocks = blocks

    def _apply(self, block: Tensor) -> Tensor:
        n, r, c = self.blocks.shape
        return torch.bmm(self.blocks, block.reshape(n, c, -1)).reshape(n * r, -1)

    def _apply_transposed(self, block: Tensor) -> Tensor:
        n, r, c = self.blocks.shape
        return torch.bmm(self.blocks.mT, block.reshape(n, r, -1)).reshape(n * c, -1)


class Product(LinearOperator):
    """``left @ right``, applied right to left."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        super().__init__((left.shape[0], right.shape[1]), right.dtype, right.device)
        self.left, self.right = left, right

    def _apply(self, block: Tensor) -> Tensor:
        return self.left @ (self.right @ block)

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self.right.T @ (self.left.T @ block)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows of the left factor times those rows of the right that they touch."""
        if not isinstance(self.left, BlockDiagonal):
            return super().rows(start, stop)
        _, r, c = self.left.blocks.shape
        first, last = start // r, -(-stop // r)
        right = self.right.rows(first * c, last * c).reshape(last - first, c, -1)
        rows = torch.bmm(self.left.blocks[first:last], right).reshape((last - first) * r, -1)
        return rows[start - first * r : stop - first * r]


class Sum(LinearOperator):
    """``left + scale · right``."""

    def __init__(self, left: LinearOperator, right: LinearOperator, scale: float = 1.0) -> None:
        super().__init__(left.shape, left.dtype, left.device)
        self.left, self.right, self.scale = left, right, scale
        self.is_symmetric = left.is_symmetric and right.is_symmetric

    def _apply(self, block: Tensor) -> Tensor:
        return self.left @ block + self.scale * (self.right @ block)

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self.left.T @ block + self.scale * (self.right.T @ block)


class Beside(LinearOperator):
    """At least one of the matrices ``[A B …]`` side by side; those with fewer rows have zeros below."""

    def __init__(self, parts: Sequence[LinearOperator]) -> None:
        rows, columns = max(part.shape[0] for part in parts), sum(part.shape[1] for part in parts)
        super().__init__((rows, columns), parts[0].dtype, parts[0].device)
        self.parts = tuple(parts)

    def _apply(self, block: Tensor) -> Tensor:
        result = block.new_zeros(self.shape[0], block.shape[1])
        pieces = block.split([part.shape[1] for part in self.parts])
        for part, piece in zip(self.parts, pieces, strict=True):
            result[: part.shape[0]] += part @ piece
        return result

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return torch.cat([part.T @ block[: part.shape[0]] for part in self.parts])


class InRows(LinearOperator):
    """A matrix whose rows are some of the rows of a taller one, which has zeros elsewhere.

    Args:
        inner: Matrix with the rows that are not zero, ``(k, q)``.
        rows: Index of each of these rows, ``(k,)``.
        count: Number of rows of the taller matrix.
    """

    def __init__(self, inner: LinearOperator, rows: Tensor, count: int) -> None:
        super().__init__((count, inner.shape[1]), inner.dtype, inner.device)
        self._inner, self._rows = inner, rows

    def _apply(self, block: Tensor) -> Tensor:
        result = block.new_zeros(self.shape[0], block.shape[1])
        result[self._rows] = self._inner @ block
        return result

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._inner.T @ block[self._rows]


def shifted(operator: LinearOperator, damping: float) -> LinearOperator:
    """``A + damping · I`` for a square operator, or ``A`` itself if the damping is zero."""
    if damping == 0.0:
        return operator
    return Sum(operator, Identity(operator.shape[0], operator.dtype, operator.device), damping)


class NormalOperator(LinearOperator):
    """``AᵀA + damping · I``, which remembers its factor ``A`` so that solvers may use the smaller side.

    Args:
        factor: ``A``, of shape ``(m, p)``.
        damping: A non-negative multiple of the identity.
        rest: Symmetric matrix that is added, such as unequal dampings; with one, only this side is left.
    """

    is_symmetric = True

    def __init__(
        self, factor: LinearOperator, damping: float = 0.0, rest: LinearOperator | None = None
    ) -> None:
        p = factor.shape[1]
        super().__init__((p, p), factor.dtype, factor.device)
        self.factor, self.damping, self.rest = factor, damping, rest

    @property
    def floor(self) -> float:
        """Number below which no eigenvalue lies, whatever rounding says; 0 where none is known but zero."""
        return self.damping + (0.0 if self.rest is None else getattr(self.rest, "floor", 0.0))

    def _apply(self, block: Tensor) -> Tensor:
        return self.factor.T @ (self.factor @ block) + self.added(block)

    def added(self, block: Tensor) -> Tensor:
        """The product of what is added to ``AᵀA`` with a block ``(p, k)`` or a vector ``(p,)``."""
        damped = self.damping * block
        return damped if self.rest is None else damped + self.rest @ block


class ColumnScaled(LinearOperator):
    """``A diag(s)``: the columns of a matrix ``(m, p)`` times a number each, ``(p,)``."""

    def __init__(self, inner: LinearOperator, scale: Tensor) -> None:
        super().__init__(inner.shape, inner.dtype, inner.device)
        self._inner, self._scale = inner, scale

    def _apply(self, block: Tensor) -> Tensor:
        return self._inner @ (self._scale.unsqueeze(1) * block)

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._scale.unsqueeze(1) * (self._inner.T @ block)

    def rows(self, start: int, stop: int) -> Tensor:
        """The scaled rows."""
        return self._inner.rows(start, stop) * self._scale


class Deflated(LinearOperator):
    """``P A P`` for a symmetric ``A``, where ``P`` projects orthogonally to given directions.

    Args:
        operator: Symmetric matrix ``A``, ``(p, p)``.
        basis: Orthonormal columns that become the kernel, ``(p, k)``.
    """

    is_symmetric = True

    def __init__(self, operator: LinearOperator, basis: Tensor) -> None:
        super().__init__(operator.shape, operator.dtype, operator.device)
        self.inner, self.basis = operator, basis.to(operator.dtype)

    def without(self, block: Tensor) -> Tensor:
        """The part of a vector or block that is orthogonal to the directions."""
        return block - self.basis @ (self.basis.T @ block)

    def _apply(self, block: Tensor) -> Tensor:
        return self.without(self.inner @ self.without(block))


class Counted(LinearOperator):
    """An operator that counts its products in ``products``, forward and transposed, one per column."""

    def __init__(self, inner: LinearOperator) -> None:
        super().__init__(inner.shape, inner.dtype, inner.device)
        self.inner = inner
        self.is_symmetric = inner.is_symmetric
        self.products = 0

    def _apply(self, block: Tensor) -> Tensor:
        self.products += block.shape[1]
        return self.inner @ block

    def _apply_transposed(self, block: Tensor) -> Tensor:
        self.products += block.shape[1]
        return self.inner.T @ block
