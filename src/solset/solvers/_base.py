"""A system that a solver prepared, its solutions, and the base of all solvers: frozen values."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solset.errors import Status, bad_type
from solset.linalg import LeftSide, LinearOperator, NormalOperator
from solset.results import WeightsResult, computed
from solset.solvers._needs import Needs
from solset.solvers.filters import Filter, MinimumNorm

if TYPE_CHECKING:
    from solset.solvers._decomposed import GramPrepared
    from solset.solvers._direct import SymmetricPrepared

LARGEST = 1.0 + 1e-4  # relative residual that a least-squares solution cannot exceed, with room for rounding


@dataclass(frozen=True, eq=False, repr=False)
class Solution(WeightsResult):
    """An element of a solution set, or the nearest thing to one, and how far to trust it.

    Attributes:
        value: Flat vector ``(p,)``, or a block ``(p, k)`` of several elements.
        status: The way in which the solve ended.
        residual: Relative residual ``‖Av - b‖ / ‖b‖`` of the linear system, 0 where ``b = 0``; the largest
            over a block.
        steps: Number of iterations; 0 for a direct solve.
        layout: Names and shapes of the parameters when ``value`` holds weights, else ``None``.
        notes: Sentences on premises that do not hold, though the linear system was solved.
        drift: Length of the change that the gradient left by training would make alone, ``‖A⁺R‖``, relative
            to the length of this change; 0 where nothing was asked, or no gradient was left.
        start: Trained weights from which the change was made, ``(p,)``; ``None`` where ``value`` is a change.
        moved: Change of the weights as it was solved for, which their sum with the trained ones rounds;
            ``None`` where ``value`` is a change.

    Example:
        >>> Solution(torch.tensor([3.0, 4.0]), Status.CONVERGED, 1e-12, steps=7)
        Solution(converged, residual 1e-12, 7 steps, norm 5)
    """

    value: Tensor
    status: Status
    residual: float
    steps: int
    layout: Mapping[str, torch.Size] | None = None
    notes: tuple[str, ...] = ()
    drift: float = 0.0
    start: Tensor | None = field(default=None, repr=False)
    moved: Tensor | None = field(default=None, repr=False)

    @property
    def change(self) -> Tensor:
        """The change of the weights, ``(p,)``, or a block ``(p, k)`` of several."""
        if self.moved is not None:
            return self.moved
        return self.value if self.start is None else self.value - self.start

    @property
    def headline(self) -> str:
        """Status, residual, steps (none for a direct solve), and the length of the longest element.

        Of weights it is the length of their change, and its share of the length of the trained weights.
        """
        lengths = torch.linalg.vector_norm(self.change, dim=0)
        length = float(lengths.max()) if lengths.numel() else 0.0
        steps = {0: "direct", 1: "1 step"}.get(self.steps, f"{self.steps} steps")
        end = f"{self.status}, residual {self.residual:.3g}, {steps}"
        if self.start is None:
            return f"{end}, norm {length:.3g}"
        size = float(torch.linalg.vector_norm(self.start))
        return f"{end}, change {length:.3g}" + (
            f", {100 * length / size:.3g} % of the weights" if size else ""
        )

    @computed
    def message(self) -> str:
        """The end of the solve, where it did not converge, and the notes."""
        is_solved = self.status in {Status.CONVERGED, Status.DOUBTFUL}
        end = "" if is_solved else f"the solve ended with status '{self.status}'"
        return "; ".join(text for text in (end, *self.notes) if text)

    def _named_weights(self) -> tuple[Tensor, Mapping[str, torch.Size] | None]:
        return self.value, self.layout

    def with_value(self, value: Tensor) -> "Solution":
        """The same outcome for another value, such as an image of this one."""
        return replace(self, value=value, moved=None)

    def moved_by(self, start: Tensor, layout: Mapping[str, torch.Size] | None) -> "Solution":
        """The same outcome for ``start`` plus this change: weights, where names and shapes are given."""
        is_known = layout is not None
        weights, moved = (start, self.value) if is_known else (None, None)
        return replace(self, value=start + self.value, layout=layout, start=weights, moved=moved)

    def raise_if_failed(self) -> "Solution":
        """This solution, if it converged.

        Raises:
            SolverError: If the status is anything but ``converged``; the error carries this solution.
        """
        if self.status is not Status.CONVERGED:
            raise SolverError(self)
        return self


class Prepared(ABC):
    """An operator with everything that a solver keeps about it.

    Attributes:
        operator: The matrix ``A`` of the system ``A v = b``.
        doubt: Sentence that says why the rank is not known; empty where it is, or was not asked.
        is_blind: Whether rounding hides eigenvalues that count, so that no solution can be relied on.
        known_kernel: Number of independent directions that are known to be in the kernel of ``A``.
    """

    operator: LinearOperator
    doubt: str = ""
    is_blind: bool = False
    known_kernel: int = 0

    @property
    def leverage(self) -> float:
        """The largest share of the curvature in any direction that an update takes; not a number for none."""
        return float("nan")

    @property
    def is_decided(self) -> bool:
        """Whether no update takes all of the curvature in a direction, or more."""
        return True

    def trusted(self, solution: Solution) -> Solution:
        """The same solution, ``doubtful`` where rounding hides eigenvalues on which it rests.

        Args:
            solution: Solution of a system with this matrix.
        """
        if self.is_blind and solution.status in {Status.CONVERGED, Status.INCONSISTENT}:
            return replace(solution, status=Status.DOUBTFUL)
        return solution

    @abstractmethod
    def solve(self, rhs: Tensor) -> Solution:
        """The least-squares solution of ``A v = b`` of minimum norm, ``A⁺ b``.

        Args:
            rhs: Right-hand side ``b``, ``(m,)`` or a block ``(m, k)``.
        """

    def reach(self, rhs: Tensor) -> float:
        """The length ``‖A⁺ b‖`` of the solution.

        Args:
            rhs: Right-hand side ``b``, ``(m,)``.
        """
        return float(torch.linalg.vector_norm(self.solve(rhs).value))

    @abstractmethod
    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """The element that a spectral filter ``φ`` picks.

        ``φ(A) b`` for a symmetric operator, ``Aᵀ φ(AAᵀ) b`` for any other.

        Args:
            choice: Filter ``φ``, a function of the eigenvalues.
            rhs: Right-hand side ``b``, ``(m,)`` or a block ``(m, k)``.
        """

    def solve_transposed(self, rhs: Tensor) -> Solution:
        """The minimum-norm least-squares solution of ``Aᵀ y = c``.

        Args:
            rhs: Right-hand side ``c``, ``(p,)`` or a block ``(p, k)``.

        Raises:
            TypeError: If the solver keeps nothing that serves the transposed system.
        """
        if self.operator.is_symmetric:
            return self.solve(rhs)
        raise bad_type(
            "solver",
            expected="one that also solves with Aᵀ",
            got=type(self).__name__,
            cure="Use Dense or Dual.",
        )

    @abstractmethod
    def curvature(self) -> "Prepared":
        """The symmetric operator whose flow this system follows: itself, or ``AᵀA`` for rows ``A``."""

    @property
    def rank(self) -> int | None:
        """The numerical rank, or ``None`` where the solver never sees the spectrum."""
        return None

    @property
    def clearance(self) -> float | None:
        """The smallest eigenvalue that counts, relative to the largest; ``None`` without a spectrum."""
        return None

    @property
    def lowest(self) -> float | None:
        """The smallest eigenvalue outside the kernel over the largest; ``None`` without a spectrum."""
        return None

    @property
    def amplification(self) -> float | None:
        """The factor by which ``A⁺`` lengthens rounding of a right-hand side; ``None`` without a spectrum."""
        return None

    @property
    def gram(self) -> Tensor | None:
        """The Gram matrix ``AAᵀ`` in float64, ``(m, m)``; ``None`` where the solver keeps none in memory."""
        return None

    def left_side(self) -> LeftSide | None:
        """A decomposition of ``A`` for ratios ``‖Cᵀu‖ / ‖Aᵀu‖``; ``None`` where the solver keeps none."""
        return None

    def gram_side(self) -> "GramPrepared | None":
        """This object, where the solver keeps a Gram matrix of rows, in memory or on the disk."""
        return None

    def factor(self) -> "Factor | None":
        """What is kept of a symmetric ``A``, for products that run no network; ``None`` without such."""
        return None

    def symmetric_side(self) -> "SymmetricPrepared | None":
        """This object, where the solver keeps the decomposition of a symmetric operator."""
        return None

    def keeping(self, mask: Tensor) -> "Prepared | None":  # noqa: ARG002 - part of the interface
        """The prepared operator of some of the rows alone, if it costs no row; else ``None``.

        Args:
            mask: Mask of the rows that stay, ``(m,)``.
        """
        return None

    def weighted(self, weights: LinearOperator) -> "Prepared | None":  # noqa: ARG002 - part of the interface
        """The prepared operator ``W A``, if it costs no new rows of ``A``; else ``None``."""
        return None


@dataclass(frozen=True, eq=False)
class Factor:
    """What a solver keeps of a symmetric matrix, by which functions of it cost no product with it.

    Attributes:
        function: Function of a filter ``φ`` and a block ``b`` in float64 that gives ``φ(A) b``.
        rank: Numerical rank of ``A``.
        smallest: Smallest eigenvalue of ``A`` that counts as non-zero.
        largest: Largest absolute eigenvalue of ``A``.
        tol: Relative residual up to which a system counts as consistent.
    """

    function: Callable[[Filter, Tensor], Tensor]
    rank: int
    smallest: float
    largest: float
    tol: float


@dataclass(frozen=True)
class Solver(ABC):
    """A method with its settings; hashable, comparable, printable."""

    def takes(self, operator: LinearOperator) -> bool:  # noqa: ARG002 - part of the interface
        """Whether the solver can work on the operator: some need symmetric ones, some rows."""
        return True

    @abstractmethod
    def prepare(self, operator: LinearOperator) -> Prepared:
        """Everything that can be computed before a right-hand side is known.

        Args:
            operator: The matrix ``A``, ``(m, p)``.
        """

    def plan(self, operator: LinearOperator) -> Needs:  # noqa: ARG002 - part of the interface
        """The memory, disk and products that the solver will need; computes nothing.

        Args:
            operator: The matrix ``A``, ``(m, p)``.
        """
        return Needs(note=f"{type(self).__name__} does not state its needs")

    def solve(self, operator: LinearOperator, rhs: Tensor) -> Solution:
        """The minimum-norm least-squares solution of ``A v = b``.

        Args:
            operator: The matrix ``A``, ``(m, p)``.
            rhs: Right-hand side ``b``, ``(m,)`` or a block ``(m, k)``.
        """
        return self.prepare(operator).solve(rhs)


def relative_residual(
    operator: LinearOperator, value: Tensor, rhs: Tensor, product: Tensor | None = None
) -> tuple[Tensor, float]:
    """``A v - b`` and its norm relative to ``b``, the largest over the columns of a block.

    Args:
        operator: The matrix ``A``, ``(m, p)``.
        value: Solution ``v``, ``(p,)`` or a block.
        rhs: Right-hand side ``b``, ``(m,)`` or a block.
        product: Product ``A v``, where it is known already.
    """
    difference = (operator @ value if product is None else product) - rhs
    size = torch.linalg.vector_norm(rhs.reshape(rhs.shape[0], -1), dim=0)
    error = torch.linalg.vector_norm(difference.reshape(rhs.shape[0], -1), dim=0)
    ratio = torch.where(size == 0, torch.zeros_like(size), error / size)
    return difference, float(ratio.max()) if ratio.numel() else 0.0


def attainable(tol: float, operator: LinearOperator) -> float:
    """The relative residual that counts as consistent: ``tol``, or what the dtype can tell from rounding."""
    return max(tol, 100 * torch.finfo(operator.dtype).eps)


def aim(tol: float, operator: LinearOperator) -> float:
    """The relative residual to iterate for: ``tol``, but nothing that only rounding could reach."""
    return max(tol, 8 * torch.finfo(operator.dtype).eps)


def judge(
    operator: LinearOperator,
    value: Tensor,
    rhs: Tensor,
    tol: float,
    steps: int,
    *,
    chosen: Filter | None = None,
    product: Tensor | None = None,
) -> Solution:
    """The solution with the status that its own residual proves.

    ``converged`` if ``‖r‖ ≤ tol ‖b‖``, where a ``tol`` below what the dtype can tell from rounding counts
    as that; ``inconsistent`` if the residual is larger but orthogonal to the range of ``A`` (a least-squares
    solution); ``diverged`` if it exceeds 1, which no least-squares solution does; ``max_steps`` if it is
    none of these, or if ``A`` is damped and so contradicts nothing. A filter other than the pseudo-inverse
    leaves a residual on purpose and is ``converged`` whenever it is finite. With ``steps=0``, a direct
    solve, a larger residual up to 1 is taken for that of a least-squares solution without a check.
    """
    if not bool(torch.isfinite(value).all()):
        return Solution(value, Status.NONFINITE, float("inf"), steps)
    difference, residual = relative_residual(operator, value, rhs, product)
    if not math.isfinite(residual):  # the right-hand side or a product is no number
        return Solution(value, Status.NONFINITE, math.inf, steps)
    small = attainable(tol, operator)
    if residual <= small or not isinstance(chosen, MinimumNorm | None):
        return Solution(value, Status.CONVERGED, residual, steps)
    if residual > LARGEST:  # zero itself has residual 1: no least-squares solution is worse
        return Solution(value, Status.DIVERGED, residual, steps)
    normal = torch.linalg.vector_norm(operator.T @ difference)
    pulled = torch.linalg.vector_norm(operator.T @ rhs)
    is_definite = isinstance(operator, NormalOperator) and operator.floor > 0  # every system has a solution
    is_least_squares = (bool(normal <= small * pulled) or steps == 0) and not is_definite
    return Solution(value, Status.INCONSISTENT if is_least_squares else Status.MAX_STEPS, residual, steps)


class SolverError(RuntimeError):
    """A solve that did not converge, raised only when the caller asked for it.

    Attributes:
        solution: The partial solution, with its status and residual.
    """

    def __init__(self, solution: "Solution") -> None:
        super().__init__(
            f"the solver ended with status '{solution.status}' at relative residual "
            f"{solution.residual:.3g} after {solution.steps} steps"
        )
        self.solution = solution
