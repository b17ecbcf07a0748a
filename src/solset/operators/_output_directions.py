"""Output directions in which the loss is curved, and the rows of the Jacobian along them.

On a fitted classification problem almost all of ``Λ`` vanishes: the loss depends on a few hundred output
directions of a thousand points, and only the rows of ``J`` along these directions need to be computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from solset.checks import checked, within
from solset.errors import bad_value
from solset.linalg import LinearOperator, Product
from solset.operators._curvature import loss_curvature
from solset.operators._first import Jacobian
from solset.operators._per_sample import PerSampleGradients
from solset.risk import EmpiricalRisk

ROUNDED = 100  # units of rounding within which two directions are the same


@checked
@dataclass(frozen=True)
class InformativeRows:
    """The setting that only informative rows of ``J`` are used, and how many.

    Attributes:
        tol: Relative residual ``‖J v + J_x Δx‖ / ‖J_x Δx‖`` over all rows up to which rows may be left out.
            In the norm every output of a moved point has weight 1, and an output direction of another point
            has weight ``(λ / λ_max)^{1/2}``, where ``λ`` is the curvature of the loss along it.
        max_rows: Largest number of rows that may be used.

    Raises:
        ValueError: If the tolerance is not between 0 and 1, or the number is below 1.
    """

    tol: float = 3e-3
    max_rows: int = 6000

    def __post_init__(self) -> None:
        if not 0 < self.tol < 1:
            raise bad_value("tol", expected="between 0 and 1", got=self.tol, cure="Use 3e-3.")
        within("max_rows", self.max_rows, 1, cure="Leave it out.")


@dataclass(frozen=True, eq=False, repr=False)
class OutputCurvature:
    """The loss's curvature in the outputs of each point, ``Λ_i = U_i diag(λ_i) U_iᵀ`` times ``α``.

    Attributes:
        values: Eigenvalues ``λ_i``, ``(n, c)`` in float64, none negative.
        vectors: Matrices ``U_i`` with eigenvectors as columns, ``(n, c, c)`` in float64.
    """

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(
        cls, risk: EmpiricalRisk, outputs: Tensor | None = None, targets: Tensor | None = None
    ) -> "OutputCurvature":
        """The curvature at the weights of a risk.

        Args:
            risk: Empirical risk with the loss and the network.
            outputs: Outputs of all points, ``(n, c)``; computed by default.
            targets: Targets of all points; read from the risk by default.

        Cost: one forward pass unless outputs are passed; memory for ``2·n·c²`` numbers.
        """
        blocks = loss_curvature(risk, outputs, targets)
        values, vectors = torch.linalg.eigh(blocks.to(torch.float64))
        return cls(values.clamp_min(0), vectors)

    @property
    def importance(self) -> Tensor:
        """The ratio ``λ / λ_max`` for each direction, ``(n, c)``."""
        largest = self.values.max()
        return self.values / largest if bool(largest > 0) else torch.ones_like(self.values)


@dataclass(frozen=True, eq=False, repr=False)
class OutputDirections:
    """Unit directions ``u`` in the outputs of single points ``i``, each with a row ``uᵀ J_i``.

    Attributes:
        points: Index ``i`` of each direction's point, ``(s,)``.
        columns: Place of each direction among the eigenvectors of ``Λ_i``, ``(s,)``.
        vectors: Unit vectors ``u``, ``(s, c)``.
    """

    points: Tensor
    columns: Tensor
    vectors: Tensor

    @classmethod
    def eigenvectors(
        cls, curvature: OutputCurvature, points: Tensor, columns: Tensor, dtype: torch.dtype
    ) -> "OutputDirections":
        """The eigenvectors of ``Λ`` at places ``(point, column)``, ``(s,)`` each."""
        return cls(points, columns, curvature.vectors[points, :, columns].to(dtype))

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, eq=False, repr=False)
class DirectionChoice:
    """The output directions in use.

    Attributes:
        directions: Directions in use: all of the moved points, then the others by falling curvature, then
            directions that were added later; those whose rows are at hand before any of them.
        moved: Number of directions of moved points.
        discarded: Share of the trace of ``Λ`` that belongs to directions left out.
        importance: Ratio ``λ / λ_max`` for each direction of each point, 1 for moved points, ``(n, c)``.
        curvature: Curvature of the loss in the outputs.
    """

    directions: OutputDirections
    moved: int
    discarded: float
    importance: Tensor
    curvature: OutputCurvature

    @property
    def taken(self) -> Tensor:
        """Mask of the directions in use, ``(n, c)``."""
        mask = torch.zeros_like(self.importance, dtype=torch.bool)
        mask[self.directions.points, self.directions.columns] = True
        return mask

    @property
    def weights(self) -> Tensor:
        """The factors ``(αλ)^{1/2}`` by which the loss weights the rows in use, ``(s,)``."""
        chosen = self.curvature.values[self.directions.points, self.directions.columns]
        return chosen.sqrt().to(self.directions.vectors.dtype)

    def with_more(self, extra: Tensor) -> "DirectionChoice":
        """This choice followed by the directions at flat indices ``extra`` into ``(n, c)``."""
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

    def shared_first(self, earlier: "DirectionChoice") -> tuple["DirectionChoice", Tensor]:
        """The same choice in another order, and the mask ``(s,)`` of an earlier one's directions in it.

        Args:
            earlier: Choice whose directions come first, in its own order, as far as this one has them.
        """
        here, there, c = self.directions, earlier.directions, self.importance.shape[1]
        places = torch.full((self.importance.numel(),), -1, device=here.points.device)
        places[here.points * c + here.columns] = torch.arange(len(here), device=places.device)
        at = places[there.points * c + there.columns]
        # Eigenvectors of equal curvatures are arbitrary, and points that join change the matrix.
        least = 1 - ROUNDED * torch.finfo(there.vectors.dtype).eps
        is_same = (there.vectors * here.vectors[at]).sum(1) > least
        is_shared = (at >= 0) & is_same
        is_new = torch.ones(len(here), dtype=torch.bool, device=at.device)
        is_new[at[is_shared]] = False
        order = torch.cat([at[is_shared], is_new.nonzero().flatten()])
        vectors = torch.cat([there.vectors[is_shared], here.vectors[is_new]])
        ordered = OutputDirections(here.points[order], here.columns[order], vectors)
        return replace(self, directions=ordered), is_shared


def choose_directions(
    curvature: OutputCurvature, moved: Sequence[int], discard: float, dtype: torch.dtype
) -> DirectionChoice:
    """All directions of the moved points, and the most curved directions of the others.

    Args:
        curvature: Curvature of the loss in the outputs.
        moved: Indices ``K`` of the moved points.
        discard: Share of the trace of ``Λ`` that may be left out.
        dtype: Floating-point type of the directions.
    """
    n, c = curvature.values.shape
    chosen = torch.tensor(list(moved), dtype=torch.long, device=curvature.values.device)
    importance = curvature.importance.clone()
    importance[chosen] = 1.0
    others = curvature.values.clone()
    others[chosen] = 0.0
    falling, order = others.flatten().sort(descending=True, stable=True)
    total = float(curvature.values.sum())
    tail = total * discard
    left_out = falling.flip(0).cumsum(0).flip(0)  # the curvature left out if the list ends before each entry
    keep = order[(left_out > tail) & (falling > 0)]
    of_moved = (chosen.unsqueeze(1) * c + torch.arange(c, device=chosen.device)).flatten()
    first = OutputDirections.eigenvectors(curvature, of_moved // c, of_moved % c, dtype)
    start = DirectionChoice(first, len(of_moved), 0.0, importance, curvature)
    return start.with_more(keep)


def directions_to_add(choice: DirectionChoice, error: Tensor, allowed: float) -> Tensor:
    """Flat indices of the fewest directions that leave at most ``allowed`` of the weighted squared error.

    Args:
        choice: Output directions in use so far.
        error: Residual ``J v + J_x Δx`` of all points, ``(n, c)``.
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
    """The map ``P`` from the outputs of points to their parts along the directions, ``(s, n·c)``.

    Args:
        directions: Output directions ``u``, one for each row.
        positions: Place of each direction's point among the points of the columns, ``(s,)``.
        count: Number ``n`` of points of the columns.
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
        risk: Empirical risk at the point of linearisation.
        directions: Output directions ``u`` with their points.
        memory_budget: Bytes that graphs kept between products may take.
        like: Rows of other directions at the same weights, whose route serves these too; ``None`` for none.

    Cost: a product costs as much as one with the Jacobian of these points; a row about one gradient of its
    point.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        directions: OutputDirections,
        *,
        memory_budget: int,
        like: "DirectionalJacobian | None" = None,
    ) -> None:
        unique, positions = torch.unique(directions.points, return_inverse=True)
        jacobian = Jacobian(risk, points=unique.tolist(), memory_budget=memory_budget)
        super().__init__(DirectionSelector(directions, positions, len(unique)), jacobian)
        self._risk, self.directions = risk, directions
        is_known = like is not None and like._risk is risk
        self._per_sample = like._per_sample if like and is_known else PerSampleGradients(risk)
        self._budget = memory_budget

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, in batches whose activations fit the memory budget."""
        points, vectors = self.directions.points[start:stop], self.directions.vectors[start:stop]
        return self._per_sample.rows_of(points.tolist(), vectors, at_once=self._at_once)

    @cached_property
    def _at_once(self) -> int:
        return self._per_sample.batch_for(self._budget)


def _discarded(curvature: OutputCurvature, taken: Tensor) -> float:
    total = float(curvature.values.sum())
    return float(curvature.values[~taken].sum()) / total if total > 0 else 0.0
