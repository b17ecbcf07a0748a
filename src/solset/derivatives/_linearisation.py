"""The pair of matrices that linearises a solution map, the solver of its systems, and its premises.

Every certificate asks the premises, and each of them can veto it.
"""

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from solset.errors import bad_value
from solset.linalg import LinearOperator, Product, Space
from solset.results import Result, computed
from solset.sets import AffineSet, Leftover, TrainingFlow
from solset.solvers import GramPrepared, Prepared, Solution, Solver, element_of
from solset.solvers.filters import Filter


class Verdict(StrEnum):
    """The outcome of the check of a premise."""

    HELD = "held"
    FAILED = "failed"
    UNCHECKED = "not checked"


PremiseName = Literal["loss", "derivative", "kinks", "minimum", "scale"]


@dataclass(frozen=True)
class Premise:
    """One premise of a certificate and what its check found.

    Attributes:
        name: Name of the premise: ``"loss"`` (a sum over points of the outputs alone), ``"derivative"``
            (products agree with differences of the gradient), ``"kinks"`` (the map is differentiable here),
            ``"minimum"`` (the weights are a solution) or ``"scale"`` (numbers that count as zero are small
            against what they are compared with).
        verdict: Outcome of the check.
        reason: Phrase that says what was found, with a number; empty where the premise holds.
    """

    name: PremiseName
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, repr=False)
class Premises(Result):
    """The premises of one linearisation. A certificate says "exact" or "verified" only if all of them hold.

    Attributes:
        each: Premises with their verdicts, in the order in which they were checked.

    Example:
        >>> held = Premise("loss", Verdict.HELD)
        >>> Premises((held, Premise("kinks", Verdict.FAILED, "2 points lie on a kink")))
        Premises(loss held, kinks failed: 2 points lie on a kink)
    """

    each: tuple[Premise, ...] = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """The reasons of the premises that failed."""
        return tuple(premise.reason for premise in self.each if premise.verdict is Verdict.FAILED)

    @property
    def veto(self) -> str:
        """The reasons why no certificate may be given; empty where every premise holds."""
        doubts = [premise for premise in self.each if premise.verdict is not Verdict.HELD]
        return "; ".join(one.reason or f"the premise '{one.name}' was {one.verdict}" for one in doubts)

    @property
    def headline(self) -> str:
        """Every premise with its verdict, and the reason of one that does not hold."""
        texts = [f"{one.name} {one.verdict}" + (f": {one.reason}" if one.reason else "") for one in self.each]
        return ", ".join(texts) or "none"

    @computed
    def message(self) -> str:
        """The veto."""
        return self.veto


NEGATIVE = 1e-9  # size of a negative eigenvalue, relative to the largest, that is more than rounding
_VERDICTS = {True: "equality verified", False: "qualification fails", None: "equality not verified"}


@dataclass(frozen=True, repr=False)
class Qualification(Result):
    """Whether the formula set equals the derivative.

    Attributes:
        is_verified: ``True`` or ``False`` where it was decided, ``None`` where it was not.
        reason: Sentence that says why it was decided so, or why not.
    """

    is_verified: bool | None
    reason: str

    @property
    def headline(self) -> str:
        """The verdict and its reason."""
        return f"{_VERDICTS[self.is_verified]}: {self.reason}"

    @computed
    def message(self) -> str:
        """The reason of the verdict."""
        return self.reason


class OptimalityMap(ABC):
    """An optimality map, whose zeros count as solutions, as far as sets and certificates ask about it.

    Attributes:
        name: Name of the map, as it is passed for ``optimality`` and stored with results.
        keeps_outputs: Whether solutions are the weights that keep all training outputs, so that ``A`` are
            rows of ``J``; otherwise ``A`` is a symmetric ``(p, p)`` matrix.
        is_exact: Whether ``A`` is the derivative of the map, and not an approximation of it.
        feels_gradient: Whether a gradient that training left moves the solutions of the map by itself.
    """

    name: ClassVar[str]
    keeps_outputs: ClassVar[bool] = False
    is_exact: ClassVar[bool] = True
    feels_gradient: ClassVar[bool] = True

    @property
    def remark(self) -> str:
        """Sentence that every element carries; empty for maps whose elements need none."""
        return ""

    def qualification(self, rank: int, rows: int, left_out: int) -> Qualification:  # noqa: ARG002 - of a selection
        """Whether Theorem 1 holds with equality, by the rank of the rows in use and the number left out."""
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
        prepared: Preparation of the solver, or a function that makes it from another one; ``None`` makes it
            anew at first use.
        settle: Function that tells kernel from range in a preparation; ``None`` takes the solver's word.
        gradient: Gradient that training left, ``(p,)``, where solutions have none; ``None`` elsewhere.
        followed: Function that gives the system that filters act on; ``None`` for that of ``A``.
    """

    operator: LinearOperator
    solver: Solver
    row_weights: Callable[[], LinearOperator] | None = None
    prepared: Prepared | Callable[[], Prepared] | None = None
    settle: Callable[[Prepared], Prepared] | None = None
    gradient: Tensor | None = None
    followed: Callable[[], Prepared] | None = None

    @cached_property
    def system(self) -> Prepared:
        """The matrix ``A`` with its factorisation or other preparation, computed at first use."""
        if self.prepared is None:
            prepared = self.solver.prepare(self.operator)
        else:
            prepared = self.prepared() if callable(self.prepared) else self.prepared
        return prepared if self.settle is None else self.settle(prepared)

    @property
    def at_hand(self) -> Prepared | None:
        """The prepared matrix where it was computed already; ``None`` before."""
        return self.__dict__.get("system")

    @cached_property
    def drift(self) -> float:
        """The length of the change of the weights that the leftover gradient alone makes, ``‖A⁺R‖``.

        Cost: one solve.
        """
        if self.gradient is None or not bool((self.gradient != 0).any()):
            return 0.0
        return float(self.system.solve(self.gradient).value.norm())

    @cached_property
    def weights(self) -> LinearOperator | None:
        """``W``, computed at first use; ``None`` for a symmetric ``A``."""
        return None if self.row_weights is None else self.row_weights()

    @cached_property
    def flow(self) -> Prepared:
        """The system whose gradient flow training follows: ``A``, or its rows weighted by the loss."""
        if self.followed is not None:
            return self.followed()
        weights = self.weights
        if weights is None:
            return self.system
        cheap = self.system.weighted(weights)
        return self.solver.prepare(Product(weights, self.operator)) if cheap is None else cheap

    def weigh(self, rhs: Tensor) -> Tensor:
        """A right-hand side of ``A`` as one of the flow's system.

        Raises:
            ValueError: If the loss has no curvature at any output that changes, so that nothing would move.
        """
        weights = self.weights
        weighed = rhs if weights is None else weights @ rhs
        if bool(rhs.any()) and not bool(weighed.any()):
            raise bad_value(
                "choice",
                expected="MinimumNorm or RankCut for a loss without curvature, such as an absolute error",
                got="a filter that follows training, whose gradient flow is linearised by the curvature",
                cure="Take min_norm(), or a loss that is curved at its minimum, such as nn.HuberLoss.",
            )
        return weighed


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
        check: Function that checks the premises; called when they are first asked for.
        warns: Whether answers warn of a leftover gradient that moves the weights as well.
        combine: Matrix that makes the rows in use from those of all outputs; ``None`` where all are in use
            as they are, or ``A`` has none.
    """

    constraint: Constraint
    data: LinearOperator
    data_space: Space
    weight_space: Space
    gradient: Tensor
    map: OptimalityMap
    reason: str
    left_out: int = 0
    check: Callable[[], Premises] = Premises
    warns: bool = True
    combine: LinearOperator | None = None

    @cached_property
    def premises(self) -> Premises:
        """The premises under which the pair is the derivative, with what their checks found."""
        return self.check()

    @property
    def linearisation(self) -> "Linearisation":
        """This pair itself, as a selection of rows has one for the rows in use."""
        return self

    @property
    def plan(self) -> str:
        """Empty, since all rows are in use."""
        return ""

    @property
    def system(self) -> Prepared:
        """The prepared ``A``."""
        return self.constraint.system

    @property
    def headline(self) -> str:
        """The map, the number of rows, the solver, and the sizes of data and weights in one line."""
        solver = type(self.constraint.solver).__name__
        sizes = f"{self.data.shape[1]} data directions, {self.gradient.numel()} weights"
        return f"{self.map.name} map, {self.rows} rows, {solver}; {sizes}"

    @property
    def optimality(self) -> str:
        """The name of the optimality map."""
        return self.map.name

    @property
    def operator(self) -> LinearOperator:
        """The matrix ``A``."""
        return self.constraint.operator

    @property
    def rows(self) -> int:
        """The number of rows of ``A`` that are in use."""
        return self.operator.shape[0]

    @property
    def rank(self) -> int | None:
        """The numerical rank of ``A``; ``None`` where the solver does not see the spectrum."""
        return self.system.rank

    def solve(self, rhs: Tensor) -> Solution:
        """The minimum-norm solution of ``A v = b`` for ``b`` of shape ``(m,)``, or a block ``(m, k)``."""
        return self.system.solve(rhs)

    def filtered(self, choice: Filter, rhs: Tensor) -> Tensor:
        """The element ``Aᵀ_W φ(A_W Aᵀ_W) W b`` for rows ``A_W = W A``; ``φ(A) b`` for a symmetric ``A``."""
        return element_of(self.constraint.flow, choice, self.constraint.weigh(rhs)).value

    def filtered_transposed(self, choice: Filter, q: Tensor) -> Solution:
        """The adjoint of :meth:`filtered`: ``Wᵀ A_W φ(Aᵀ_W A_W) q``, or ``φ(A) q``, ``(m,)`` or a block."""
        flow, weights = self.constraint.flow, self.constraint.weights
        inner = element_of(flow.curvature(), choice, q)
        image = inner.value if flow.operator.is_symmetric else flow.operator @ inner.value
        return inner.with_value(image if weights is None else weights.T @ image)

    def gram_side(self) -> GramPrepared | None:
        """The rows with their Gram matrix, where the solver has one; the solver's work is done now."""
        return self.system.gram_side()

    def answers(self, rhs: Tensor) -> AffineSet:
        """The affine set of weight directions ``v`` with ``A v = b``, for ``b`` of shape ``(m,)``."""
        constraint = self.constraint
        return AffineSet(
            lambda: constraint.system,
            rhs,
            torch.zeros_like(self.gradient),
            training=TrainingFlow(lambda: constraint.flow, lambda: constraint.weigh(rhs), self.gradient),
            notes=(*self.premises.failures, *([self.map.remark] if self.map.remark else [])),
            leftover=self.leftover if self.map.feels_gradient else None,
            name=self.map.name,
        )

    @property
    def leftover(self) -> Leftover:
        """What the gradient that training left says against an answer."""
        constraint, size = self.constraint, float(self.gradient.norm())
        return Leftover(lambda: constraint.drift, self.warns, self.map.is_exact, gradient=size)

    def push(self, dx: Tensor) -> Tensor:
        """The product ``C Δx``, ``(m,)``, with a data direction that is flat or in its own shape."""
        return self.data @ self.data_space.flatten(dx)

    def pull(self, y: Tensor) -> Tensor:
        """The product ``Cᵀ y``: a flat data direction for ``y`` of shape ``(m,)``, or a block of them."""
        return self.data.T @ y

    def of_outputs(self, y: Tensor) -> Tensor:
        """A vector ``(m,)`` or block ``(m, k)`` of the rows in use as one of all training outputs."""
        return y if self.combine is None else self.combine.T @ y

    @cached_property
    def minimum(self) -> Premise:
        """Whether the weights are at a minimum of the risk: the inertia of the Hessian, where it was seen.

        A map that keeps the outputs, or one by an approximation of the Hessian, does not ask.

        Cost: one decomposition, if the solver sees the spectrum.
        """
        if self.map.keeps_outputs or not self.map.is_exact:
            return Premise("minimum", Verdict.HELD)
        lowest = self.system.lowest
        if lowest is None:
            text = "no eigenvalue of the Hessian was computed: whether this is a minimum is not known"
            return Premise("minimum", Verdict.UNCHECKED, text)
        if lowest < -NEGATIVE:
            text = (
                f"the weights are not at a minimum: the Hessian has a negative eigenvalue, {-lowest:.2g} of "
                f"the largest in size; training would leave this point"
            )
            return Premise("minimum", Verdict.FAILED, text)
        return Premise("minimum", Verdict.HELD)

    @cached_property
    def qualification(self) -> Qualification:
        """Whether Theorem 1 holds with equality here, as far as it was verified; the premises can veto it.

        Cost: one decomposition, if the solver sees the spectrum.
        """
        if self.premises.veto:
            return Qualification(None, self.premises.veto)
        if self.system.doubt:
            return Qualification(None, self.system.doubt)
        if self.rank is None:
            return Qualification(None, "the solver does not see the spectrum, so no rank was verified")
        if self.minimum.verdict is not Verdict.HELD:
            return Qualification(None, self.minimum.reason)
        return self.map.qualification(self.rank, self.rows, self.left_out)
