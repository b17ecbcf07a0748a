"""The affine set ``{r + v : A v = b}``: what a generalized derivative returns."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

import torch
from torch import Tensor

from solset.checks import positive, require, shaped, within
from solset.errors import SolsetWarning, Status, bad_value
from solset.sets._convex import slack_at
from solset.sets._trust import Leftover, examined
from solset.solvers import Prepared, Solution, attainable, element_of, refuse_divergence
from solset.solvers.filters import Filter, GradientFlow, MinimumNorm, RankCut


@dataclass(frozen=True, eq=False, repr=False)
class TrainingFlow:
    """The gradient flow of training, for maps whose constraint is another linear system.

    Attributes:
        system: Function that returns the flow's own system: weighted rows, or the Hessian.
        rhs: Function that returns the right-hand side in that system.
        gradient: Gradient left at the trained point, ``(p,)``.
    """

    system: Callable[[], Prepared]
    rhs: Callable[[], Tensor]
    gradient: Tensor

    def element(self, choice: Filter) -> Solution:
        """The filtered change of weights; warns if the leftover gradient moves them by a tenth of it or more.

        Args:
            choice: Spectral filter that stands for the duration of training.
        """
        system = self.system()
        solution = _picked(system, choice, self.rhs())
        if isinstance(choice, GradientFlow) and bool((self.gradient != 0).any()):
            drift = float(torch.linalg.vector_norm(system.curvature().filtered(choice, -self.gradient).value))
            effect = float(torch.linalg.vector_norm(solution.value))
            if not drift <= 0.1 * effect:
                warnings.warn(
                    f"training had not stopped: over this duration the leftover gradient alone moves the "
                    f"weights by {drift:.3g}, the perturbation by {effect:.3g}; the frozen filter cannot be "
                    f"trusted here, use `tangent_recursion`",
                    SolsetWarning,
                    stacklevel=3,
                )
        return solution


@dataclass(frozen=True, eq=False, repr=False)
class AffineSet:
    """The set ``{reference + v : A v = b}``, solved only when asked.

    The direction space is ``ker A``; the set is empty exactly when ``b`` lies outside ``range A``. An empty
    set is never hidden: its elements are least-squares solutions with their relative residual, and
    :meth:`is_empty` is true.

    Attributes:
        constraint: Matrix ``A`` prepared by a solver, or a function that has it prepared at first use.
        rhs: Right-hand side ``b``, ``(m,)``.
        reference: Point from which changes are measured, ``(p,)``: 0 for a derivative, ``w̄`` for an estimate.
        layout: Names and shapes of the parameters if elements are weights, else ``None``.
        defect: Relative residual inherited from the set of which this one is an image.
        training: System that gradient flow and Tikhonov act on; ``None`` for ``(A, b)``.
        notes: Sentences on premises of the set that do not hold; every element carries them in its message.
        leftover: Gradient that training left, which is compared with every answer; ``None`` for none.
        name: Name of the optimality map whose solutions they are; empty for other sets.

    Example:
        >>> from solset.linalg import DenseOperator
        >>> from solset.solvers import Dense
        >>> A = Dense().prepare(DenseOperator(torch.tensor([[3.0, 4.0]])))
        >>> line = AffineSet(A, torch.tensor([5.0]), torch.zeros(2))
        >>> line.min_norm().value
        tensor([0.6000, 0.8000])
        >>> line.is_empty()
        False
        >>> line
        AffineSet(in R^2, dimension 1)
    """

    constraint: Prepared | Callable[[], Prepared]
    rhs: Tensor
    reference: Tensor
    layout: Mapping[str, torch.Size] | None = None
    defect: float = 0.0
    training: TrainingFlow | None = None
    notes: tuple[str, ...] = ()
    leftover: Leftover | None = None
    name: str = ""

    @cached_property
    def system(self) -> Prepared:
        """The matrix ``A`` with whatever its solver keeps, prepared at first use."""
        return self.constraint if isinstance(self.constraint, Prepared) else self.constraint()

    def min_norm(self) -> Solution:
        """The element nearest to the reference point: ``reference + A⁺ b``.

        Returns:
            The solution; a residual above the solver's tolerance says that the set is empty.

        Cost: the preparation of the solver where nothing asked it before, one solve, which later calls share,
        and what compares the answer with the gradient: see :class:`Leftover`.
        """
        return self._translated(self._examined(self._smallest))

    def project(self, point: Tensor) -> Solution:
        """The element nearest to ``point``: ``v - A⁺(A v - b)``.

        Args:
            point: Vector that is projected, ``(p,)``.

        Cost: one solve and one product.
        """
        change = self._change(point)
        correction = self.system.solve(self.rhs - self.system.operator @ change)
        return self._certified(correction.with_value(change + correction.value))

    def element(self, choice: Filter | None = None) -> Solution:
        """The element that a spectral filter picks; by default the one of minimum norm.

        A filter between 0 and the pseudo-inverse stops short of the set on purpose, as training of finite
        duration does; the residual says how far.

        Args:
            choice: Spectral filter from :mod:`solset.solvers.filters`; minimum norm by default.

        Cost: that of :meth:`min_norm`; a filter that follows training prepares its own system once.
        """
        cure = "Pass one of solset.filters, or call min_norm()."
        require("choice", choice, Filter | None, cure=cure)
        if choice is None or isinstance(choice, MinimumNorm):
            return self.min_norm()
        # A rank cut of the weighted spectrum would drop confident points, and moved points may be among them.
        if self.training is not None and not isinstance(choice, RankCut):
            return self._translated(self._examined(self.training.element(choice)))
        return self._translated(self._examined(_picked(self.system, choice, self.rhs)))

    def sample(self, k: int, *, radius: float, generator: torch.Generator) -> tuple[Solution, ...]:
        """Projections onto the set of ``k`` points drawn uniformly from a ball around the reference.

        Args:
            k: Number of points, 1 or more.
            radius: Radius of the ball, in weight units; positive.
            generator: Source of all randomness in the draw.

        Raises:
            ValueError: If ``k`` or the radius is not positive.

        Cost: one product and one solve with ``k`` right-hand sides.
        """
        within("k", k, 1, cure="Ask for one sample or more.")
        positive("radius", radius, cure="Use the scale of ‖Δw‖.")
        size = len(self.reference)
        block = torch.randn(size, k, generator=generator, dtype=torch.float64)
        lengths = torch.rand(k, generator=generator, dtype=torch.float64) ** (1.0 / size)
        block = radius * lengths * block / torch.linalg.vector_norm(block, dim=0)
        block = block.to(self.reference.device, self.reference.dtype)
        correction = self.system.solve(self.rhs.unsqueeze(1) - self.system.operator @ block)
        values = block + correction.value
        return tuple(self._certified(correction.with_value(values[:, j])) for j in range(k))

    def directions(self, block: Tensor) -> Tensor:
        """The parts of ``(p, k)`` columns that lie in the direction space ``ker A``.

        Args:
            block: Columns of which the parts are taken, ``(p, k)``.

        Cost: one product and one solve with ``k`` right-hand sides.
        """
        return block - self.system.solve(self.system.operator @ block).value

    def contains(self, point: Tensor, *, distance_tol: float = 1e-8) -> bool:
        """Whether ``d(point, V) ≤ distance_tol · max(1, ‖point - reference‖)``.

        Args:
            point: Vector that is tested, ``(p,)``.
            distance_tol: Relative distance that counts as zero; at least what the dtype can resolve.

        Cost: that of :meth:`distance`.
        """
        smallest = attainable(distance_tol, self.system.operator)
        return self.distance(point) <= slack_at(point - self.reference, smallest)

    def distance(self, point: Tensor) -> float:
        """``d(point, V)``, infinite if the set is empty.

        Args:
            point: Vector whose distance is measured, ``(p,)``.

        Cost: two solves, the first of which :meth:`min_norm` shares, and a product. With a Gram matrix of
            independent rows neither, and no product at the reference itself.
        """
        change = self._change(point)
        is_onto = self.defect == 0 and self.system.gram is not None and self.system.rank == len(self.rhs)
        if not is_onto and self.is_empty():
            return inf
        is_away = bool((change != 0).any())
        return self.system.reach(self.rhs - self.system.operator @ change if is_away else self.rhs)

    @cached_property
    def dimension(self) -> int:
        """Dimension of the direction space, ``p`` minus the numerical rank.

        Raises:
            ValueError: If the solver never computes the spectrum, or rounding hides eigenvalues that count.

        Cost: one decomposition, where no answer needed it before.
        """
        rank = self.system.rank
        if self.system.is_blind:
            cure = "Scale the columns of the data."
            raise bad_value("solver", expected="one that sees the rank", got=self.system.doubt, cure=cure)
        if rank is None:
            least = self.system.known_kernel
            at_least = f"; symmetries alone make it {least} or more" if least else ""
            raise bad_value(
                "solver",
                expected="a solver that knows the numerical rank",
                got=f"one that is matrix-free, or has a Gram matrix on the disk and dependent rows{at_least}",
                cure="Use Dense or Dual to ask for the dimension, or raise the memory budget.",
            )
        return len(self.reference) - rank

    def is_empty(self, tol: float = 1e-6) -> bool:
        """Whether the least-squares element misses ``b`` by more than ``tol`` relative to ``‖b‖``.

        Only a least-squares element proves that the set is empty: if the solve stopped before one, the answer
        is no, with a warning. A system that the solver's own tolerance calls consistent is not empty. A
        ``tol`` below the rounding of the dtype (1.2e-5 in float32) is raised to it.

        Args:
            tol: Relative residual above which a least-squares element is not in the set.

        Cost: one solve, which :meth:`min_norm` shares.
        """
        solution = self._smallest
        if solution.residual <= attainable(tol, self.system.operator) or solution.status is Status.CONVERGED:
            return False
        if solution.status is Status.INCONSISTENT:
            return True
        warnings.warn(
            f"the solve ended with status '{solution.status}' at relative residual {solution.residual:.3g}: "
            f"whether the set is empty is not known, and its elements are not on it",
            SolsetWarning,
            stacklevel=2,
        )
        return False

    def translate(self, point: Tensor, layout: Mapping[str, torch.Size] | None = None) -> "AffineSet":
        """The set moved by ``point``, with changes measured from the moved reference.

        Args:
            point: Vector that is added to the reference, ``(p,)``.
            layout: Names and shapes of the parameters, if elements of the result are weights.
        """
        return replace(self, reference=self.reference + point, layout=layout)

    def noted(self, note: str) -> "AffineSet":
        """The same set with one more note, of which it warns; itself for an empty one.

        Args:
            note: Sentence on a premise of the set that does not hold.
        """
        if not note:
            return self
        warnings.warn(note, SolsetWarning, stacklevel=3)
        return replace(self, notes=(*self.notes, note))

    def unasked(self, is_on_some_rows: bool) -> "AffineSet":
        """The same set, whose elements say that nobody looked how far the linear model holds.

        Args:
            is_on_some_rows: Whether rows were left out, so that nobody looked whether the others suffice.
        """
        rows = ", nor whether the rows in use suffice" if is_on_some_rows else ""
        note = f"how far the linear model holds was not asked{rows} (verify=False)"
        return replace(self, notes=(*self.notes, note))

    def __repr__(self) -> str:
        size, text = len(self.reference), "dimension not computed"
        if "_smallest" in self.__dict__ or "dimension" in self.__dict__:  # solved: the rank costs nothing
            rank = self.system.rank
            least = self.system.known_kernel
            unknown = f"dimension {least} or more" if least else "dimension not known to the solver"
            text = unknown if rank is None or self.system.is_blind else f"dimension {size - rank}"
        named = f"{self.name} map, " if self.name else ""
        return f"AffineSet({named}in R^{size}, {text})"

    @cached_property
    def _smallest(self) -> Solution:
        solution = self.system.trusted(self.system.solve(self.rhs))
        if self.defect > attainable(1e-8, self.system.operator):
            return replace(solution, residual=max(self.defect, solution.residual), status=Status.INCONSISTENT)
        return solution

    def _examined(self, solution: Solution) -> Solution:
        """The solution with notes on what speaks against it; its length is compared with the weights'."""
        size = 0.0 if self.layout is None else float(torch.linalg.vector_norm(self.reference))
        return examined(solution, self.rhs, size, self.leftover, self.system)

    def _change(self, point: Tensor) -> Tensor:
        shaped("point", point, self.reference.shape, cure="Pass a flat vector of the set's own space.")
        return point - self.reference

    def _certified(self, solution: Solution) -> Solution:
        """The solution with its residual relative to ``‖b‖``, in absolute weights."""
        size = float(torch.linalg.vector_norm(self.rhs))
        error = float(torch.linalg.vector_norm(self.system.operator @ solution.value - self.rhs))
        residual = max(self.defect, error / size if size > 0 else 0.0)
        return self._translated(replace(solution, residual=residual))

    def _translated(self, solution: Solution) -> Solution:
        moved = self.system.trusted(solution).moved_by(self.reference, self.layout)
        notes = self.notes + ((self.system.doubt,) if self.system.doubt else ())
        return replace(moved, notes=notes + solution.notes) if notes else moved


def _picked(system: Prepared, choice: Filter, rhs: Tensor) -> Solution:
    """The element of a filter; refused where gradient descent of that rate diverges."""
    if not isinstance(choice, GradientFlow):
        return element_of(system, choice, rhs)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        solution = element_of(system, choice, rhs)
    refuse_divergence(system, choice, rhs, solution)
    for one in told:  # what is refused is not warned of too
        warnings.warn(one.message, one.category, stacklevel=4)
    return solution
