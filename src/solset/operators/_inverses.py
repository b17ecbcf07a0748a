"""The inverse of the Gauss–Newton matrix, computed once on its smaller side."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from solset import comm
from solset.errors import bad_value
from solset.linalg import ColumnScaled, LinearOperator, gram
from solset.operators._curvature import GaussNewton
from solset.operators._output_directions import DirectionalJacobian, OutputCurvature, choose_directions
from solset.operators._regularisation import positive_decay
from solset.risk import EmpiricalRisk


class GaussNewtonInverse(LinearOperator):
    """The inverse ``(AᵀA + D)⁻¹``, ``(p, p)``: a preconditioner for exact solves with the Hessian.

    ``D`` is ``λI``, or the diagonal of unequal weight decays, in which the smallest positive one stands for
    those that are zero. The first product computes the inverse through Cholesky: ``p × p`` if there are more
    rows than weights, else on the Gram side, ``D⁻¹ - D⁻¹Aᵀ(AD⁻¹Aᵀ + I)⁻¹AD⁻¹``.

    Args:
        risk: Empirical risk at the point of linearisation, of which some weights decay.
        memory_budget: Bytes for the rows and the inverse.

    Raises:
        ValueError: If there is no weight decay, so that the matrix is singular.

    Cost: all rows of ``J`` once and a Cholesky factorisation; then one product with a dense matrix for each
    product (and two with ``A`` on the Gram side).
    """

    is_symmetric = True

    def __init__(self, risk: EmpiricalRisk, *, memory_budget: int) -> None:
        p = risk.layout.size
        super().__init__((p, p), risk.weights.dtype, risk.weights.device)
        self._diagonal = _Diagonal.of(risk)
        self._risk, self._budget = risk, memory_budget

    @cached_property
    def _rows(self) -> LinearOperator:
        return self._diagonal.scaled(GaussNewton(self._risk, memory_budget=self._budget).factor)

    @property
    def _is_tall(self) -> bool:
        return self._rows.shape[0] >= self.shape[0]

    @cached_property
    def _inverse(self) -> Tensor:
        if self._is_tall:
            square = torch.zeros(self.shape, dtype=torch.float64, device=self.device)
            chunk = rows_at_once(self.shape[0], self._budget)
            for start in range(0, self._rows.shape[0], chunk):
                rows = self._rows.rows(start, min(start + chunk, self._rows.shape[0]))
                part = comm.share(len(rows))
                share = rows[part.start : part.stop].to(torch.float64)
                square += share.T @ share
            square = comm.total(square)
        else:
            square = gram(self._rows, self._budget)
        square.diagonal().add_(self._diagonal.damping)
        return torch.cholesky_inverse(torch.linalg.cholesky(square))

    def _apply(self, block: Tensor) -> Tensor:
        scaled = self._diagonal.times(block)
        if self._is_tall:
            return self._diagonal.times((self._inverse @ scaled.to(torch.float64)).to(block.dtype))
        inner = (self._inverse @ (self._rows @ scaled).to(torch.float64)).to(block.dtype)
        return self._diagonal.times((scaled - self._rows.T @ inner) / self._diagonal.damping)


def rows_at_once(weights: int, memory_budget: int) -> int:
    """The number of rows that are added to ``AᵀA`` at a time.

    Args:
        weights: Number ``p`` of weights in a row.
        memory_budget: Bytes that rows and matrix may take.
    """
    return max(1, min(4096, memory_budget // (16 * weights)))


class InformativeInverse(LinearOperator):
    """The inverse ``(AᵀA + D)⁻¹`` with the informative rows of ``A`` only, ``(p, p)``: a preconditioner.

    The directions left out add little to ``AᵀA``; CG with exact products corrects for them in a few steps.

    Args:
        risk: Empirical risk at the point of linearisation, of which some weights decay.
        moved: Indices of points of which all rows are in use.
        discard: Share of the trace of the loss's curvature that may be left out.
        memory_budget: Bytes that graphs kept between products may take.

    Raises:
        ValueError: If there is no weight decay, so that the matrix is singular.

    Cost: the ``s`` rows in use, which are kept, and a Cholesky factorisation of their Gram matrix; then two
    products with the ``(s, p)`` rows for each product.
    """

    is_symmetric = True

    def __init__(
        self, risk: EmpiricalRisk, moved: Sequence[int], *, discard: float = 0.1, memory_budget: int
    ) -> None:
        p = risk.layout.size
        super().__init__((p, p), risk.weights.dtype, risk.weights.device)
        self._diagonal = _Diagonal.of(risk)
        choice = choose_directions(OutputCurvature.of(risk), moved, discard, risk.weights.dtype)
        self._choice_weights = choice.weights
        self._source = DirectionalJacobian(risk, choice.directions, memory_budget=memory_budget)

    @property
    def count(self) -> int:
        """Number of rows in use."""
        return self._source.shape[0]

    @cached_property
    def _rows(self) -> Tensor:
        return self._choice_weights.unsqueeze(1) * self._diagonal.scaled(self._source).rows(0, self.count)

    @cached_property
    def _root(self) -> Tensor:
        square = (self._rows @ self._rows.T).to(torch.float64)
        square.diagonal().add_(self._diagonal.damping)
        return torch.linalg.cholesky(square)

    def _apply(self, block: Tensor) -> Tensor:
        scaled = self._diagonal.times(block)
        inner = torch.cholesky_solve((self._rows @ scaled).to(torch.float64), self._root)
        return self._diagonal.times((scaled - self._rows.T @ inner.to(block.dtype)) / self._diagonal.damping)


@dataclass(frozen=True)
class _Diagonal:
    """The diagonal ``D = λ S⁻²``, so that ``AᵀA + D = S⁻¹((AS)ᵀ(AS) + λI)S⁻¹``."""

    damping: float  # Multiple ``λ`` of the identity
    scale: Tensor | None = None  # Diagonal of ``S``, ``(p,)``; ``None`` for the identity

    @classmethod
    def of(cls, risk: EmpiricalRisk) -> "_Diagonal":
        """The weight decays of a risk, refused if there is none."""
        if not risk.has_decay:
            raise bad_value(
                "weight_decay",
                expected="positive for a Gauss-Newton inverse",
                got="none",
                cure="Without it the matrix is singular: use MINRES or Dual.",
            )
        decay = positive_decay(risk)
        return cls(1.0, decay.rsqrt()) if isinstance(decay, Tensor) else cls(decay)

    def times(self, block: Tensor) -> Tensor:
        """``S`` times a block ``(p, k)``."""
        return block if self.scale is None else self.scale.unsqueeze(1) * block

    def scaled(self, rows: LinearOperator) -> LinearOperator:
        """``A S``."""
        return rows if self.scale is None else ColumnScaled(rows, self.scale)
