"""The graphical derivative and the coderivative of a solution map (Theorem 1), and their linear elements."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from solset.derivatives._linearisation import Linearisation, Premises, Qualification
from solset.derivatives._selection import RowCheck, Selection
from solset.errors import SolsetWarning, bad_value
from solset.linalg import LinearOperator
from solset.sets import AffineSet, affine_image
from solset.solvers import Solution, Solver
from solset.solvers.filters import Filter, GradientFlow, MinimumNorm, Recipe, Tikhonov


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
        self._rows = linearisation if isinstance(linearisation, Selection) else None
        self._check: RowCheck | None = None

    def __repr__(self) -> str:
        """The map, the rows, the solver and the sizes in one line."""
        return f"GraphicalDerivative({self.linearisation.headline})"

    @property
    def linearisation(self) -> Linearisation:
        """The pair ``(A, C)``, on the rows in use."""
        return self._source.linearisation

    def __call__(self, dx: Tensor, *, verify: bool = True) -> AffineSet:
        """The affine set of weight directions ``v`` with ``A v + C Δx = 0`` for ``Δx = dx``.

        Args:
            dx: Change of the moved points, shape ``(|K|, *input)``, in input units after preprocessing.
            verify: Whether the first direction on a selection of rows is checked on all of them.

        Cost: one product with ``C``; nothing is solved yet. The first direction on a selection of rows is
        solved and checked at once.
        """
        flat = self.linearisation.data_space.flatten(dx)
        if verify and self._rows is not None and self._check is None and bool(flat.any()):
            self._check = self._rows.verify(flat)
        line = self.linearisation
        for failure in line.premises.failures:
            warnings.warn(failure, SolsetWarning, stacklevel=2)
        return line.answers(-line.push(flat))

    def verify(self, dx: Tensor) -> RowCheck:
        """Checks the rows in use against all rows for this data direction; adds rows until it holds.

        A warning is given if the check fails with the largest number of rows that is allowed.

        Args:
            dx: As for a call.

        Raises:
            ValueError: If all rows are in use already: then residuals are exact and nothing is left out.

        Cost: a solve and one product with the Jacobian of all points, for each time that rows are added.
        """
        cure = "No rows are left out: the residual of a solution is over all of them."
        self._check = self._selection(cure).verify(self.linearisation.data_space.flatten(dx))
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
        cure = "Take the interpolating map with rows=InformativeRows() that allow enough of them."
        self._selection(cure).save(Path(folder))

    def _selection(self, cure: str) -> Selection:
        """The selection of rows; refused where all rows are in use."""
        if self._rows is not None:
            return self._rows
        got = f"one that works on its whole constraint ({self.reason})"
        raise bad_value("rows", expected="a derivative on a selection of rows", got=got, cure=cure)

    @property
    def check(self) -> RowCheck | None:
        """The latest check of the rows in use; ``None`` if all are, or before the first direction."""
        return self._check

    @property
    def plan(self) -> str:
        """One sentence with the rows in use, their bytes and gradients; empty if all rows are in use."""
        return self._source.plan

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
    def premises(self) -> Premises:
        """The premises under which the formula set is the derivative, with what their checks found."""
        return self.linearisation.premises

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

    def __repr__(self) -> str:
        """The map, the rows, the solver and the sizes in one line."""
        return f"Coderivative({self.linearisation.headline})"

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


@dataclass(frozen=True)
class Response:
    """The linear map ``Δx ↦ v`` from data to the chosen element of the graphical derivative, and its adjoint.

    ``v = -A⁺ C Δx`` for the minimum norm; ``v = -Aᵀ_W φ(A_W Aᵀ_W) W C Δx`` with the weighted rows
    ``A_W = W A`` for a filter that follows training (``-φ(H) B Δx`` for a symmetric ``A``).

    Attributes:
        linearisation: Pair ``(A, C)`` of constraint and data operator.
        element: Filter that chooses the element; ``None`` or ``MinimumNorm`` for the nearest one.
    """

    linearisation: Linearisation
    element: Filter | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.element, MinimumNorm | GradientFlow | Recipe | Tikhonov | None):
            raise bad_value(
                "element",
                expected="None, MinimumNorm, GradientFlow, Recipe or Tikhonov",
                got=self.element,
                cure="A rank cut is a choice of the solver: Dual(rank_tolerance=...).",
            )

    def push(self, dx: Tensor) -> Tensor:
        """The weight change ``v``, ``(p,)``, for ``dx`` of shape ``(|K|, *input)``.

        Cost: one product with ``C`` and one solve.
        """
        line = self.linearisation
        rhs = -(line.data @ line.data_space.flatten(dx))
        if self.follows_training:
            return line.filtered(self._filter, rhs)
        return line.solve(rhs).value

    def pull(self, q: Tensor) -> tuple[Tensor, Solution]:
        """The adjoint ``-Cᵀ (Aᵀ)⁺ q`` of a weight direction ``q``, shaped like ``dx``, and the solve for it.

        The residual of the solve is ``‖(I - A⁺A) q‖ / ‖q‖`` for every element: the share of ``q`` along which
        the set is unbounded.

        Cost: one solve with ``Aᵀ`` (two for a filter), one product with ``Cᵀ``.
        """
        line, adjoint = self.linearisation, self.adjoint(q)
        solved = line.system.solve_transposed(q) if self.follows_training else adjoint
        return line.data_space.unflatten(-(line.data.T @ adjoint.value)), solved

    def adjoint(self, q: Tensor) -> Solution:
        """The vector ``y`` for which ``-Cᵀ y`` is the adjoint of ``q``, whatever the data operator ``C``.

        ``y = (Aᵀ)⁺ q`` for the minimum norm.

        Args:
            q: Direction in the space of the weights, ``(p,)``, or a block ``(p, k)``.

        Cost: one solve with ``Aᵀ`` for each column.
        """
        line = self.linearisation
        if self.follows_training:
            return line.filtered_transposed(self._filter, q)
        return line.system.solve_transposed(q)

    @property
    def _filter(self) -> Filter:
        return self.element or MinimumNorm()

    @property
    def follows_training(self) -> bool:
        """Whether the element is one that training of a finite duration reaches."""
        return isinstance(self.element, GradientFlow | Recipe | Tikhonov)
