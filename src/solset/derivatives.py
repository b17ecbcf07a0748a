"""The graphical derivative and the coderivative of a solution map (Theorem 1)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from solset.errors import bad_value
from solset.linalg import LinearOperator, Product, Space
from solset.sets import AffineSet, TrainingFlow, affine_image
from solset.solvers import Prepared, Solution, Solver


@dataclass(frozen=True)
class Qualification:
    """Whether the formula set equals the derivative.

    Attributes:
        is_verified: ``True`` or ``False`` where it was decided, ``None`` where it was not.
        reason: Sentence that says why it was decided so, or why not.
    """

    is_verified: bool | None
    reason: str


class OptimalityMap(ABC):
    """An optimality map, whose zeros count as solutions, as far as sets and certificates ask about it.

    Attributes:
        name: Name of the map, as it is passed for ``optimality`` and stored with results.
        keeps_outputs: Whether solutions are the weights that keep all training outputs, so that ``A`` are
            rows of ``J``; otherwise ``A`` is a symmetric ``(p, p)`` matrix.
        is_exact: Whether ``A`` is the derivative of the map, and not an approximation of it.
    """

    name: ClassVar[str]
    keeps_outputs: ClassVar[bool] = False
    is_exact: ClassVar[bool] = True

    def qualification(self, rank: int, rows: int, left_out: int) -> Qualification:  # noqa: ARG002 - of a selection
        """Whether Theorem 1 holds with equality, by the numerical rank of ``A``.

        Args:
            rank: Numerical rank of ``A``.
            rows: Number of rows of ``A``.
            left_out: Number of rows of the whole constraint that are not in use.
        """
        if rank == rows:
            return Qualification(True, f"the constraint has full row rank {rows}")
        need = "equality needs a solution set of locally constant rank"
        return Qualification(None, f"the Hessian has rank {rank} of {rows}; {need}")


@dataclass(frozen=True)
class Constraint:
    """The matrix ``A`` with what a solver has computed for it; all choices of moved points share it.

    Attributes:
        operator: Matrix ``A``: the Hessian ``H``, its Gauss–Newton form, or the Jacobian ``J``.
        solver: Solver of systems with ``A``.
        row_weights: Function that gives ``W``, with ``(WA)ᵀ(WA)`` the curvature that training follows, where
            ``A`` are rows; called when a filter first needs it.
        prepared: Preparation of the solver, where it is there already; ``None`` makes it at first use.
    """

    operator: LinearOperator
    solver: Solver
    row_weights: Callable[[], LinearOperator] | None = None
    prepared: Prepared | None = None

    @cached_property
    def system(self) -> Prepared:
        """The matrix ``A`` with its factorisation or other preparation, computed at first use."""
        return self.solver.prepare(self.operator) if self.prepared is None else self.prepared

    @cached_property
    def weights(self) -> LinearOperator | None:
        """``W``, computed at first use; ``None`` for a symmetric ``A``."""
        return None if self.row_weights is None else self.row_weights()

    @cached_property
    def flow(self) -> Prepared:
        """The system whose gradient flow training follows: ``A``, or its rows weighted by the loss."""
        weights = self.weights
        if weights is None:
            return self.system
        cheap = self.system.weighted(weights)
        return self.solver.prepare(Product(weights, self.operator)) if cheap is None else cheap

    def weigh(self, rhs: Tensor) -> Tensor:
        """A right-hand side of ``A`` as one of the flow's system."""
        weights = self.weights
        return rhs if weights is None else weights @ rhs


@dataclass(frozen=True)
class Linearisation:
    """The pair ``(A, C)`` that linearises a solution map: ``A v + C Δx = 0``.

    Attributes:
        constraint: ``A``, with its solver.
        data: ``C``: the mixed derivative ``B`` or ``J_x``, acting on data directions.
        data_space: Shape of a data direction at the door.
        weight_space: Shape of a weight direction at the door.
        gradient: The risk's gradient at the trained point, ``(p,)``.
        map: Optimality map that is linearised.
        reason: Sentence that says why this map was taken.
        left_out: Number of rows of the whole constraint that are not in use.
    """

    constraint: Constraint
    data: LinearOperator
    data_space: Space
    weight_space: Space
    gradient: Tensor
    map: OptimalityMap
    reason: str
    left_out: int = 0

    @property
    def system(self) -> Prepared:
        """The prepared ``A``."""
        return self.constraint.system

    @property
    def optimality(self) -> str:
        """The name of the optimality map."""
        return self.map.name

    @property
    def rows(self) -> int:
        """The number of rows of ``A`` that are in use."""
        return self.constraint.operator.shape[0]

    @property
    def rank(self) -> int | None:
        """The numerical rank of ``A``; ``None`` where the solver does not see the spectrum."""
        return self.system.rank

    def solve(self, rhs: Tensor) -> Solution:
        """The minimum-norm solution of ``A v = b``.

        Args:
            rhs: Right-hand side ``b``, ``(m,)`` or a block ``(m, k)``.
        """
        return self.system.solve(rhs)

    def push(self, dx: Tensor) -> Tensor:
        """The product ``C Δx``, ``(m,)``.

        Args:
            dx: Data direction, flat or in its own shape.
        """
        return self.data @ self.data_space.flatten(dx)

    def pull(self, y: Tensor) -> Tensor:
        """The product ``Cᵀ y``: a flat data direction, or a block of them.

        Args:
            y: Vector in the space of the constraint, ``(m,)`` or a block ``(m, k)``.
        """
        return self.data.T @ y

    @cached_property
    def qualification(self) -> Qualification:
        """Whether Theorem 1 holds with equality here, as far as it was verified.

        Cost: one decomposition, if the solver sees the spectrum.
        """
        if self.rank is None:
            return Qualification(None, "the solver does not see the spectrum, so no rank was verified")
        return self.map.qualification(self.rank, self.rows, self.left_out)


@dataclass(frozen=True)
class RowCheck:
    """The error that comes from rows of the constraint that are left out, by one product with all rows.

    Let ``v`` be the minimum-norm solution on the rows in use and ``e = J v + J_x Δx`` the error over all
    points. Where the constraint is consistent and no rank is cut, ``v`` is never longer than the solution on
    all rows.

    Attributes:
        residual: Relative residual ``‖W e‖ / ‖J_x Δx‖``. The weight ``W`` is 1 on every output of a moved
            point, and ``(λ / λ_max)^{1/2}`` on an output direction of another point, where ``λ`` is the
            curvature of the loss in this direction.
        moved_residual: Relative residual ``‖e‖ / ‖J_x Δx‖`` over the moved points alone.
        unit_residual: Relative residual ``‖e‖ / ‖J_x Δx‖`` over all points; it also counts changes of the
            outputs that do not change the loss.
        risk_rise: Second-order term ``½ Σ αλ (uᵀe)²`` of the change of the risk that ``e`` causes, in loss
            units. The first-order term is not included; it is zero only at zero residual.
        rows: Number of rows in use.
        all_rows: Number ``m`` of all rows.
        discarded: Share of the trace of the loss's curvature that the omitted rows carry.
        tol: Largest ``residual`` that counts as accurate, as it was asked for.
    """

    residual: float
    moved_residual: float
    unit_residual: float
    risk_rise: float
    rows: int
    all_rows: int
    discarded: float
    tol: float

    @property
    def is_accurate(self) -> bool:
        """Whether ``residual`` is at most ``tol``."""
        return self.residual <= self.tol


class Selection(ABC):
    """A linearisation on some rows of its constraint, to which rows are added until they suffice.

    Attributes:
        linearisation: Pair ``(A, C)`` on the rows in use.
    """

    linearisation: Linearisation

    @property
    @abstractmethod
    def plan(self) -> str:
        """One sentence with the number of rows, their bytes and the expected gradients."""

    @abstractmethod
    def verify(self, dx: Tensor) -> RowCheck:
        """Solves for a data direction, checks all rows, and adds rows until the residual is small enough.

        Args:
            dx: Change of the moved points, flat ``(|K|·d,)``.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the rows in use and all that was computed from them.

        Args:
            folder: Path of a folder that does not exist yet.
        """


class GraphicalDerivative:
    """The graphical derivative ``DS(x̄|w̄)``: from a data direction to the set of weight directions.

    ``DS(x̄|w̄)(Δx) = {v : A v + C Δx = 0}`` (Theorem 1; Definition 3), with equality under the
    qualification that :attr:`qualification` reports.

    Where only some rows of a large constraint are in use, the first direction is solved and checked on all
    rows at once, and rows are added until the check holds; further directions use the same rows, and
    :meth:`verify` checks them too.

    Args:
        linearisation: The pair ``(A, C)`` and its solver, or a selection of its rows.
    """

    def __init__(self, linearisation: Linearisation | Selection) -> None:
        self._source = linearisation
        self._check: RowCheck | None = None

    @property
    def linearisation(self) -> Linearisation:
        """The pair ``(A, C)``, on the rows in use."""
        return self._source.linearisation if isinstance(self._source, Selection) else self._source

    def __call__(self, dx: Tensor) -> AffineSet:
        """The affine set of weight directions ``v`` with ``A v + C Δx = 0`` for ``Δx = dx``.

        Args:
            dx: Change of the moved points, shape ``(|K|, *input)``, in input units after preprocessing.

        Cost: one product with ``C``; nothing is solved yet. The first direction on a selection of rows is
        solved and checked at once.
        """
        flat = self.linearisation.data_space.flatten(dx)
        if isinstance(self._source, Selection) and self._check is None and bool(flat.any()):
            self._check = self._source.verify(flat)
        line = self.linearisation
        rhs = -line.push(flat)
        training = TrainingFlow(
            lambda: line.constraint.flow, lambda: line.constraint.weigh(rhs), line.gradient
        )
        return AffineSet(lambda: line.system, rhs, torch.zeros_like(line.gradient), training=training)

    def verify(self, dx: Tensor) -> RowCheck:
        """Checks the rows in use against all rows for this data direction; adds rows until it holds.

        A warning is given if the check fails with the largest number of rows that is allowed.

        Args:
            dx: As for a call.

        Raises:
            ValueError: If all rows are in use already: then residuals are exact and nothing is left out.

        Cost: a solve and one product with the Jacobian of all points, for each time that rows are added.
        """
        if not isinstance(self._source, Selection):
            raise bad_value(
                "rows",
                expected="a derivative on a selection of rows",
                got=f"one that works on its whole constraint ({self.reason})",
                cure="There is nothing left out: the residual of a solution is over all of it.",
            )
        self._check = self._source.verify(self.linearisation.data_space.flatten(dx))
        return self._check

    def save(self, folder: Path | str) -> None:
        """Writes the rows and their Gram matrix to disk, for :meth:`Problem.load_derivative`.

        Args:
            folder: Path of a new folder, or of one without a stored derivative.

        Raises:
            ValueError: If all rows are in use, or the folder holds a derivative already.
            OSError: If the disk has no room; the message says how much is needed.

        Cost: the rows, if they were not computed yet; ``m·p`` numbers on the disk.
        """
        if not isinstance(self._source, Selection):
            raise bad_value(
                "rows",
                expected="a derivative on a selection of rows",
                got=f"one that works on its whole constraint ({self.reason})",
                cure="Take the interpolating map with rows=InformativeRows() that allow enough of them.",
            )
        self._source.save(Path(folder))

    @property
    def check(self) -> RowCheck | None:
        """The latest check of the rows in use; ``None`` if all are, or before the first direction."""
        return self._check

    @property
    def plan(self) -> str:
        """One sentence with the rows in use, their bytes and gradients; empty if all rows are in use."""
        return self._source.plan if isinstance(self._source, Selection) else ""

    @property
    def optimality(self) -> str:
        """The name of the optimality map that was linearised."""
        return self.linearisation.map.name

    @property
    def keeps_outputs(self) -> bool:
        """Whether solutions are the weights that keep all training outputs."""
        return self.linearisation.map.keeps_outputs

    @property
    def solver(self) -> Solver:
        """The solver of the systems with ``A``."""
        return self.linearisation.constraint.solver

    @property
    def rank(self) -> int | None:
        """The numerical rank of ``A``; ``None`` where the solver does not see the spectrum."""
        return self.linearisation.rank

    @property
    def rows(self) -> int:
        """The number of rows of ``A`` that are in use."""
        return self.linearisation.rows

    @property
    def reason(self) -> str:
        """One sentence that says why this map was taken."""
        return self.linearisation.reason

    @property
    def qualification(self) -> Qualification:
        """Whether the formula set was verified to equal the derivative."""
        return self.linearisation.qualification


class Coderivative:
    """The coderivative ``D*S(x̄|w̄)``: from a weight direction to the set of data directions.

    ``D*S(x̄|w̄)(q) = {Cᵀ y : Aᵀ y = -q}`` (Theorem 1; Definition 4), empty for ``q`` outside ``range Aᵀ``.

    Args:
        linearisation: The pair ``(A, C)`` and its solver.
    """

    def __init__(self, linearisation: Linearisation) -> None:
        self.linearisation = linearisation

    def __call__(self, q: Tensor) -> AffineSet:
        """The affine set of data directions dual to ``q``; a single point if ``A`` has full row rank.

        Args:
            q: A weight direction, ``(p,)``.

        Cost: one solve with ``Aᵀ`` and one product with ``Cᵀ``; a projection onto a set of several
        points needs an inner solve in each step.
        """
        line = self.linearisation
        solution = line.system.solve_transposed(-line.weight_space.flatten(q))
        return affine_image(line.pull(solution.value), _spread(line), defect=solution.residual)


def _spread(line: Linearisation) -> "_KernelImage | None":
    """``Cᵀ`` on ``ker Aᵀ``, or ``None`` if it is zero up to rounding: then the coderivative is one point.

    The image of three random vectors from a fixed seed is compared with that of ``Cᵀ`` itself.
    """
    if line.rank == line.rows:
        return None
    image = _KernelImage(line)
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(image.shape[1], 3, generator=generator, dtype=torch.float64)
    probes = probes.to(image.device, image.dtype)
    size = torch.linalg.vector_norm(line.data.T @ probes)
    rounding = torch.finfo(image.dtype).eps ** 0.5
    return image if bool(torch.linalg.vector_norm(image @ probes) > rounding * size) else None


class _KernelImage(LinearOperator):
    """``z ↦ Cᵀ P z`` with ``P`` the projector on ``ker Aᵀ``."""

    def __init__(self, line: Linearisation) -> None:
        m, q = line.constraint.operator.shape[0], line.data.shape[1]
        super().__init__((q, m), line.data.dtype, line.data.device)
        self._line = line

    def _kernel_part(self, block: Tensor) -> Tensor:
        system = self._line.system
        columns = [
            z - system.solve_transposed(system.operator.T @ z.contiguous()).value for z in block.unbind(1)
        ]
        return torch.stack(columns, dim=1)

    def _apply(self, block: Tensor) -> Tensor:
        return self._line.data.T @ self._kernel_part(block)

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._kernel_part(self._line.data @ block)
