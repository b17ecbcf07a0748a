"""A symmetric matrix that differs from a decomposed one by a few rows, solved by the Woodbury identity."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from solset.errors import Status
from solset.linalg import LinearOperator
from solset.solvers._base import Factor, Prepared, Solution, attainable
from solset.solvers.filters import Filter, MinimumNorm, Range, Shifted, Values

ROUNDS = 40  # largest number of refinements: each is a product with the changed matrix
GOAL = 1e-12  # relative residual at which refinement stops
SINGULAR = 1e-10  # pivot, relative to 1, at which a direction counts as lost in exact arithmetic
MOST_SINGULAR = 1e-2  # pivot up to which rounding may explain a zero at most
FEW = 4  # columns up to which a product with each is faster than a narrow one with all
OUTSIDE = 1e-6  # part of the rows outside the range of the decomposed matrix that counts as rounding


class Decomposed(LinearOperator):
    """A decomposed symmetric matrix, whose products run no network.

    Args:
        factor: Decomposition of the matrix.
        like: Operator with the same shape, dtype and device.
    """

    is_symmetric = True

    def __init__(self, factor: Factor, like: LinearOperator) -> None:
        super().__init__(like.shape, like.dtype, like.device)
        self._factor = factor

    def _apply(self, block: Tensor) -> Tensor:
        return self._factor.function(Values(), block.to(torch.float64)).to(block.dtype)


@dataclass(frozen=True, eq=False)
class Update:
    """The change of a decomposed matrix ``F`` to about ``scale · (F + shift I + Jᵀ D J)``.

    Attributes:
        rows: Rows ``J``, ``(k·c, p)``.
        blocks: Blocks of ``D``, symmetric and of any sign, ``(k, c, c)``.
        scale: Factor of the whole matrix, positive.
        shift: Multiple of the identity, of any sign.
    """

    rows: Tensor
    blocks: Tensor
    scale: float = 1.0
    shift: float = 0.0


class Updated(Prepared):
    """A changed matrix, solved by the decomposition of the one before.

    ``(F + JᵀDJ)⁻¹ = F⁻¹ - F⁻¹Jᵀ D (I + K D)⁻¹ J F⁻¹`` with ``K = J F⁻¹ Jᵀ`` (Woodbury), without an inverse of
    ``D``. Where that is not the whole change of the matrix, refinement with the changed matrix itself
    corrects it; its residual decides on the status.

    Args:
        operator: Changed matrix, symmetric ``(p, p)``.
        factor: Decomposition of the matrix ``F`` before the change.
        update: Change of the matrix, as far as it is of low rank.
        whole: Function that prepares the changed matrix without ``F``, for what the update cannot answer.

    Cost: products with ``F⁻¹`` for the ``k·c`` rows, and operations on ``k·c × k·c`` matrices; then
    two products with the changed matrix for a solution, and one more for each refinement.
    """

    def __init__(
        self,
        operator: LinearOperator,
        factor: Factor,
        update: Update,
        whole: Callable[[], Prepared],
    ) -> None:
        self.operator, self._update, self._make_whole = operator, update, whole
        self._factor, self._rank = factor.function, factor.rank
        self._tol = attainable(factor.tol, operator)
        self._smallest, self._largest = factor.smallest, factor.largest
        k, c, _ = update.blocks.shape
        self._points, self._outputs = k, c
        self._solved = self._inverse_of_before(update.rows.T)  # F⁻¹Jᵀ
        inner = update.rows @ self._solved
        self._inner = (inner + inner.T) / 2  # K
        curved = torch.bmm(update.blocks, self._inner.reshape(k, c, -1)).reshape(k * c, -1)  # D K
        self._middle = torch.eye(k * c).to(self._inner) + curved.T  # I + K D

    def _inverse_of_before(self, block: Tensor) -> Tensor:
        shifted = Shifted(self._update.shift)
        parts = block.split(1 if block.shape[1] <= FEW else block.shape[1], dim=1)
        return torch.cat([self._factor(shifted, part) for part in parts], dim=1)

    @cached_property
    def _pivots(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues of ``I + K^{1/2} D K^{1/2}``, and ``K^{1/2}`` times its eigenvectors."""
        values, vectors = torch.linalg.eigh(self._inner)
        root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        k, c = self._points, self._outputs
        inside = root @ torch.bmm(self._update.blocks, root.reshape(k, c, -1)).reshape(k * c, -1)
        pivots, directions = torch.linalg.eigh(torch.eye(k * c).to(inside) + (inside + inside.T) / 2)
        return pivots, root @ directions

    @property
    def smallest_pivot(self) -> float:
        """1 less the largest leverage of the rows that leave: 0 where they alone hold a direction."""
        return float(self._pivots[0].min()) if self._points else 1.0

    @cached_property
    def singular_pivot(self) -> float:
        """The pivot up to which the rounding of the decomposition explains it as zero."""
        rounding = 10 * torch.finfo(self.operator.dtype).eps * self._largest
        blurred = torch.linalg.vector_norm(self._solved) ** 2 * self._update.blocks.abs().max()
        return min(max(SINGULAR, rounding * float(blurred)), MOST_SINGULAR)

    @property
    def turns_negative(self) -> bool:
        """Whether the update makes a positive definite matrix indefinite."""
        was_positive = self._smallest + self._update.shift > 0
        return was_positive and self.smallest_pivot < -self.singular_pivot

    @property
    def leverage(self) -> float:
        """The largest leverage of the rows that leave."""
        return 1.0 - self.smallest_pivot

    @property
    def is_decided(self) -> bool:
        """Whether the rows that stay decide every direction that those before did."""
        return not (self.lost or self.turns_negative)

    @property
    def lost(self) -> int:
        """The number of directions that the rows that leave hold alone."""
        return int((self._pivots[0].abs() <= self.singular_pivot).sum()) if self._points else 0

    def holders(self) -> list[int]:
        """The places of the blocks that carry the directions of the smallest pivots."""
        pivots, directions = self._pivots
        chosen = directions[:, pivots <= max(self.singular_pivot, float(pivots.min()))]
        parts = torch.linalg.vector_norm(chosen.reshape(self._points, -1), dim=1)
        return (parts >= 0.1 * parts.max()).nonzero().flatten().tolist()

    @cached_property
    def is_outside(self) -> bool:
        """Whether rows reach outside the range of ``F``, so that its inverse cannot answer them."""
        if self._rank == self.operator.shape[0]:
            return False
        rows = self._update.rows.T
        rest = rows - self._factor(Range(), rows)
        return bool(torch.linalg.vector_norm(rest) > OUTSIDE * torch.linalg.vector_norm(rows))

    @cached_property
    def whole(self) -> Prepared:
        """The changed matrix, prepared without the decomposition of the one before."""
        return self._make_whole()

    @cached_property
    def _lu(self) -> tuple[Tensor, Tensor]:
        lu, places, _ = torch.linalg.lu_factor_ex(self._middle)
        return lu, places

    def approximate(self, block: Tensor) -> Tensor:
        """The inverse of the updated decomposition times a block ``(p, k)`` in float64."""
        value = self._inverse_of_before(block)
        inside = torch.linalg.lu_solve(*self._lu, self._update.rows @ value)
        shaped = inside.reshape(self._points, self._outputs, -1)
        weighed = torch.bmm(self._update.blocks, shaped).reshape(inside.shape)
        return (value - self._solved @ weighed) / self._update.scale

    def solve(self, rhs: Tensor) -> Solution:
        """The solution on the range of ``F``, refined until the residual of the changed matrix is small."""
        if self.lost or self.is_outside:
            return self.whole.solve(rhs)
        block = rhs.reshape(rhs.shape[0], -1).to(torch.float64)
        sizes = torch.linalg.vector_norm(block, dim=0)
        sizes = torch.where(sizes > 0, sizes, torch.ones_like(sizes))
        inside = block if self._rank == len(block) else self._factor(Range(), block)
        value, rest, before = torch.zeros_like(block), inside, float("inf")
        goal, rounds = max(GOAL, 8 * torch.finfo(self.operator.dtype).eps), 0
        while rounds < ROUNDS:
            tried = value + self.approximate(rest)
            left = self._left(block, tried)
            error = float((torch.linalg.vector_norm(left, dim=0) / sizes).max())
            if not error < before:
                break
            value, rest, rounds = tried, left, rounds + 1
            if error <= goal or error > 0.7 * before:
                before = error
                break
            before = error
        if not before <= self._tol:
            return self.whole.solve(rhs)
        missed = float((torch.linalg.vector_norm(block - inside, dim=0) / sizes).max())
        residual = max(before, missed)
        is_consistent = residual <= self._tol
        status = Status.CONVERGED if is_consistent else Status.INCONSISTENT
        return Solution(value.to(rhs.dtype).reshape(rhs.shape), status, residual, 0)

    def _left(self, block: Tensor, value: Tensor) -> Tensor:
        """The part of the residual in the range of ``F``."""
        image = self.operator @ value.to(self.operator.dtype)
        left = block - image.to(torch.float64)
        return left if self._rank == len(block) else self._factor(Range(), left)

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """``φ(A) b``; other filters than the minimum norm prepare the changed matrix itself."""
        return self.solve(rhs) if isinstance(choice, MinimumNorm) else self.whole.filtered(choice, rhs)

    def curvature(self) -> Prepared:
        """The system itself, which is symmetric."""
        return self

    @property
    def rank(self) -> int | None:
        """The rank of the matrix before, unless the update changes it; ``None`` if that is not known."""
        if self.is_blind:
            return None
        return self.whole.rank if self.lost or self.is_outside else self._rank
