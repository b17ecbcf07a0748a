"""Which rows of the Jacobian carry the constraint: output directions, chosen by the loss's curvature.

On a fitted classification problem almost all of ``Λ`` vanishes: a few hundred output directions of a thousand
points are all that the loss can feel, and only their rows of ``J`` need to be computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from solset.checks import checked
from solset.errors import bad_value
from solset.linalg import LinearOperator, Product
from solset.operators._curvature import loss_curvature
from solset.operators._first import Jacobian
from solset.operators._per_sample import PerSampleGradients
from solset.risk import EmpiricalRisk


@checked
@dataclass(frozen=True)
class InformativeRows:
    """How many rows of ``J`` to work on.

    Attributes:
        tol: Relative residual, over all rows, up to which rows may be left out: that of ``J v + J_x Δx``
            relative to ``J_x Δx``, where every output of a moved point has weight one and an output
            direction of another point ``(λ / λ_max)^{1/2}``, with ``λ`` its curvature of the loss.
        most: Rows at most.

    Raises:
        ValueError: If the tolerance or the number is not positive.
    """

    tol: float = 3e-3
    max_rows: int = 6000

    def __post_init__(self) -> None:
        if not 0 < self.tol < 1:
            raise bad_value("tol", expected="between 0 and 1", got=self.tol, cure="Use 3e-3.")
        if self.max_rows < 1:
            raise bad_value("max_rows", expected="one row or more", got=self.max_rows, cure="Leave it out.")


@dataclass(frozen=True)
class OutputCurvature:
    """The loss's curvature in the outputs of each point, ``Λ_i = U_i diag(λ_i) U_iᵀ`` times ``α``.

    Attributes:
        values: ``(n, c)`` in float64, none negative.
        vectors: Columns of ``U_i``, ``(n, c, c)`` in float64.
    """

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(
        cls, risk: EmpiricalRisk, outputs: Tensor | None = None, targets: Tensor | None = None
    ) -> "OutputCurvature":
        """At the risk's weights. Cost: one forward pass unless outputs are given; ``2·n·c²`` numbers.

        Args:
            risk: Whose loss.
            outputs: Those of all points, where they are known.
            targets: Those of all points, where they are known.
        """
        blocks = loss_curvature(risk, outputs, targets)
        values, vectors = torch.linalg.eigh(blocks.to(torch.float64))
        return cls(values.clamp_min(0), vectors)

    @property
    def importance(self) -> Tensor:
        """``λ / λ_max``, ``(n, c)``."""
        largest = self.values.max()
        return self.values / largest if bool(largest > 0) else torch.ones_like(self.values)


@dataclass(frozen=True)
class OutputDirections:
    """Unit directions in the outputs of single points; each stands for the row ``uᵀ J_i``.

    Attributes:
        points: ``i``, ``(s,)``.
        columns: Which eigenvector of ``Λ_i`` it is, ``(s,)``.
        vectors: ``u``, ``(s, c)``.
    """

    points: Tensor
    columns: Tensor
    vectors: Tensor

    @classmethod
    def eigenvectors(
        cls, curvature: OutputCurvature, points: Tensor, columns: Tensor, dtype: torch.dtype
    ) -> "OutputDirections":
        """Those eigenvectors of ``Λ``.

        Args:
            curvature: Gives them.
            points: ``(s,)``.
            columns: ``(s,)``.
            dtype: Of the result.
        """
        return cls(points, columns, curvature.vectors[points, :, columns].to(dtype))

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class DirectionChoice:
    """The rows in use.

    Attributes:
        directions: All of the moved points first, then the others by falling curvature, then added ones.
        moved: How many belong to moved points.
        discarded: Share of the trace of ``Λ`` that belongs to directions left out.
        importance: ``λ / λ_max`` of every direction of every point, moved ones at one, ``(n, c)``.
        curvature: The loss's.
    """

    directions: OutputDirections
    moved: int
    discarded: float
    importance: Tensor
    curvature: OutputCurvature

    @property
    def taken(self) -> Tensor:
        """Which directions are in use, ``(n, c)``."""
        mask = torch.zeros_like(self.importance, dtype=torch.bool)
        mask[self.directions.points, self.directions.columns] = True
        return mask

    @property
    def weights(self) -> Tensor:
        """``(αλ)^{1/2}`` of the directions in use: how training sees their rows, ``(s,)``."""
        chosen = self.curvature.values[self.directions.points, self.directions.columns]
        return chosen.sqrt().to(self.directions.vectors.dtype)

    def with_more(self, extra: Tensor) -> "DirectionChoice":
        """With the directions of the flat indices ``extra`` into ``(n, c)`` behind the present ones."""
        c = self.importance.shape[1]
        here = self.directions
        more = OutputDirections.eigenvectors(self.curvature, extra // c, extra % c, here.vectors.dtype)
        joined = OutputDirections(
            torch.cat([here.points, more.points]),
            torch.cat([here.columns, more.columns]),
            torch.cat([here.vectors, more.vectors]),
        )
        grown = replace(self, directions=joined)
        return replace(grown, discarded=_discarded(self.curvature, grown.taken))


def choose_directions(
    curvature: OutputCurvature, moved: Sequence[int], discard: float, dtype: torch.dtype
) -> DirectionChoice:
    """All rows of the moved points, and those of others that carry all but a share of the curvature's trace.

    Args:
        curvature: The loss's.
        moved: ``K``.
        discard: Share of the trace of ``Λ`` that may be left out.
        dtype: Of the directions.
    """
    n, c = curvature.values.shape
    chosen = torch.as_tensor(list(moved), device=curvature.values.device)
    importance = curvature.importance.clone()
    importance[chosen] = 1.0
    others = curvature.values.clone()
    others[chosen] = 0.0
    falling, order = others.flatten().sort(descending=True, stable=True)
    total = float(curvature.values.sum())
    tail = total * discard
    left_out = falling.flip(0).cumsum(0).flip(0)  # what is discarded if the list is cut before each entry
    keep = order[(left_out > tail) & (falling > 0)]
    own = (chosen.unsqueeze(1) * c + torch.arange(c, device=chosen.device)).flatten()
    first = OutputDirections.eigenvectors(curvature, own // c, own % c, dtype)
    start = DirectionChoice(first, len(own), 0.0, importance, curvature)
    return start.with_more(keep)


def directions_to_add(choice: DirectionChoice, error: Tensor, allowed: float) -> Tensor:
    """Flat indices of the fewest directions that leave at most ``allowed`` of the weighted squared error.

    Args:
        choice: The rows in use.
        error: ``J v + J_x Δx`` of all points, ``(n, c)``.
        allowed: Weighted squared error that the directions still left out may carry.
    """
    scores = torch.where(choice.taken, 0.0, weighted_squares(choice, error))
    falling, order = scores.flatten().sort(descending=True)
    left_out = falling.flip(0).cumsum(0).flip(0)
    return order[left_out > allowed]


def weighted_squares(choice: DirectionChoice, error: Tensor) -> Tensor:
    """``importance · (Uᵀ e)²`` of every output direction, ``(n, c)``."""
    along = torch.einsum("nij,ni->nj", choice.curvature.vectors, error.to(torch.float64))
    return choice.importance * along**2


class DirectionSelector(LinearOperator):
    """``P``: from the outputs of points to the chosen directions, ``(s, n·c)``.

    Args:
        directions: The ``u``.
        positions: Where each one's point stands among the points of the columns, ``(s,)``.
        count: ``n``, the points of the columns.
    """

    def __init__(self, directions: OutputDirections, positions: Tensor, count: int) -> None:
        s, c = directions.vectors.shape
        super().__init__((s, count * c), directions.vectors.dtype, directions.vectors.device)
        self._vectors, self._positions, self._count = directions.vectors, positions, count

    def _apply(self, block: Tensor) -> Tensor:
        outputs = block.reshape(self._count, -1, block.shape[1])[self._positions]
        return torch.einsum("sc,sck->sk", self._vectors, outputs)

    def _apply_transposed(self, block: Tensor) -> Tensor:
        shares = torch.einsum("sc,sk->sck", self._vectors, block)
        total = block.new_zeros(self._count, *shares.shape[1:])
        return total.index_add_(0, self._positions, shares).reshape(self.shape[1], -1)


class DirectionalJacobian(Product):
    """The rows ``uᵀ J_i`` of chosen output directions, ``(s, p)``.

    Args:
        risk: At the point of linearisation.
        directions: The ``u`` and their points.
        memory_budget: Bytes that graphs kept between products may take.

    Cost: a product is one with the Jacobian of the points concerned; a row about one gradient of its point.
    """

    def __init__(self, risk: EmpiricalRisk, directions: OutputDirections, *, memory_budget: int) -> None:
        unique, positions = torch.unique(directions.points, return_inverse=True)
        jacobian = Jacobian(risk, points=unique.tolist(), memory_budget=memory_budget)
        super().__init__(DirectionSelector(directions, positions, len(unique)), jacobian)
        self._risk, self.directions = risk, directions
        self._per_sample, self._budget = PerSampleGradients(risk), memory_budget

    def rows(self, start: int, stop: int) -> Tensor:
        """Per-sample gradients, in batches whose activations fit the memory budget."""
        points, vectors = self.directions.points[start:stop], self.directions.vectors[start:stop]
        return self._per_sample.rows_of(points.tolist(), vectors, at_once=self._at_once)

    @cached_property
    def _at_once(self) -> int:
        return self._per_sample.batch_for(self._budget)


def _discarded(curvature: OutputCurvature, taken: Tensor) -> float:
    total = float(curvature.values.sum())
    return float(curvature.values[~taken].sum()) / total if total > 0 else 0.0
