"""What speaks against an element of an estimated set, each as a sentence with a number."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.errors import SolsetWarning, Status
from solset.linalg import Deflated, Identity, Sum
from solset.solvers import MINRES, Prepared, Solution

SMALL = 0.1  # share of the answer up to which the change by the leftover gradient counts as small
LONG = 0.1  # length of a change relative to the weights from which kept outputs are asked whether they stay
ROUNDED = 100  # units of rounding of the weights up to which the gradient after a step says nothing
SAFETY = 4  # factor above the gradient over the length of the weights up to which it explains curvature
SOLVED = 1e-2  # relative residual up to which a step solves its system
UPWARDS = 1e-6  # part of ‖v‖‖b‖ from which a negative v·b is more than rounding


@dataclass(frozen=True, eq=False, repr=False)
class Leftover:
    """The gradient that training left, as far as it speaks against an estimate.

    Attributes:
        drift: Function that returns the length of the change that this gradient alone makes, ``‖A⁺R‖``.
        warns: Whether what a gradient explains gives a warning; not where a larger one was accepted.
        is_exact: Whether ``A`` is a Hessian, for which an element may go uphill.
        rest: Function that returns ``∇E'(w̄ + v) - ∇E(w̄)``, what is left of the gradient that the change
            ``v`` of the weights was to remove. ``None`` where no such gradient is known.
        is_newton: Whether ``A v = b`` says that nothing is left to first order; other maps are damped on
            purpose, or keep outputs, and are asked for long changes only.
        gradient: Norm of the gradient that training left.
        nearby: Function that returns the part of it that is there because the data move, not the weights: all
            of it for a short change. ``None`` where the data move far.
    """

    drift: Callable[[], float]
    warns: bool = True
    is_exact: bool = True
    rest: Callable[[Tensor], Tensor] | None = None
    is_newton: bool = True
    gradient: float = 0.0
    nearby: Callable[[], Tensor] | None = None

    def of(self, change: Tensor) -> float:
        """The drift relative to the length of a change of the weights.

        Args:
            change: Change of the weights, ``(p,)``.
        """
        drift, size = self.drift(), float(torch.linalg.vector_norm(change))
        if size > 0:
            return drift / size
        return float("inf") if drift > 0 else 0.0


def examined(
    solution: Solution,
    rhs: Tensor,
    size: float,
    leftover: Leftover | None,
    system: Prepared,
) -> Solution:
    """The change of the weights with its drift and with notes on what speaks against it; warns of each.

    Args:
        solution: Change of the weights that was solved for.
        rhs: Right-hand side ``b`` that it answers, ``(m,)``.
        size: Length of the weights; 0 where it is not known.
        leftover: Gradient that training left; ``None`` where no solution has one.
        system: System that was solved.

    Cost: a gradient for a change whose rest is asked for, and a solve: with what the solver keeps, or with at
        most as many products as the solution took, once to a few digits and once for curvature that a
        leftover gradient explains.
    """
    length = float(torch.linalg.vector_norm(solution.value))
    drift = leftover.of(solution.value) if leftover is not None and bool((rhs != 0).any()) else 0.0
    notes = _of_the_solve(solution, rhs, size, system)
    if leftover is not None and leftover.rest is not None and length <= size > 0:
        notes += _beyond_first_order(solution, rhs, size, leftover, system)
    if leftover is not None and leftover.is_exact and leftover.warns and 0 < length <= size:
        notes += _along_a_kernel(solution, 2 * SAFETY * leftover.gradient / size, system)
    always = len(notes)
    if leftover is not None and leftover.is_exact and solution.status is Status.CONVERGED:
        notes += _uphill(solution, rhs)
    # A shorter change leaves the weights as they are in their dtype.
    if drift > SMALL and length > torch.finfo(solution.value.dtype).eps * size:
        notes.append(
            f"training had not stopped: the leftover gradient alone would move the weights {drift:.3g} times "
            f"as far as this change ({length:.3g}); train further"
        )
    told = notes if leftover is None or leftover.warns else notes[:always]
    for note in told:
        warnings.warn(note, SolsetWarning, stacklevel=4)
    return replace(solution, notes=(*solution.notes, *notes), drift=drift)


def _of_the_solve(solution: Solution, rhs: Tensor, size: float, system: Prepared) -> list[str]:
    """Notes where the solve failed, the change is longer than the weights, or rounding makes a part of it."""
    notes, length = [], float(torch.linalg.vector_norm(solution.value))
    if solution.status not in {Status.CONVERGED, Status.INCONSISTENT, Status.DOUBTFUL}:
        notes.append(
            f"the solve ended with status '{solution.status}' at relative residual {solution.residual:.3g}: "
            f"the element is not on the set"
        )
    if not length <= size and size > 0:
        notes.append(
            f"the change of the weights ({length:.3g}) is larger than the weights ({size:.3g}), where a "
            f"linear estimate says nothing; take a filter, such as filters.GradientFlow or filters.Tikhonov"
        )
    rounding = (
        torch.finfo(rhs.dtype).eps * float(torch.linalg.vector_norm(rhs)) * (system.amplification or 0.0)
    )
    if rounding > SMALL * length > 0:
        notes.append(
            f"the rounding of {str(rhs.dtype).removeprefix('torch.')} alone makes {rounding / length:.2g} of "
            f"this change: the smallest eigenvalue is too near to it; compute in float64"
        )
    return notes


def _uphill(solution: Solution, rhs: Tensor) -> list[str]:
    """A note where the solution goes up in the quadratic model of the risk."""
    climb = float(solution.value @ rhs) if solution.value.shape == rhs.shape else 0.0
    lengths = [float(torch.linalg.vector_norm(each)) for each in (solution.value, rhs)]
    if climb < -UPWARDS * lengths[0] * lengths[1]:
        return [
            f"the element raises the quadratic model of the risk by {-climb / 2:.3g}: the Hessian has "
            f"negative curvature along it, so that the weights are not at a minimum"
        ]
    return []


def _beyond_first_order(
    solution: Solution, rhs: Tensor, size: float, leftover: Leftover, system: Prepared
) -> list[str]:
    """A note where a linear model does not hold as far as a step goes."""
    step, rest = solution.value, leftover.rest
    length = float(torch.linalg.vector_norm(step))
    if rest is None or solution.status not in {Status.CONVERGED, Status.INCONSISTENT}:
        return []
    if leftover.is_newton:
        left = _left_after(solution, rhs, size, leftover, system)
        second = _second_step(left, solution, system) if bool((left != 0).any()) else 0.0
        is_wrong = second > max(SMALL * length, torch.finfo(step.dtype).eps ** 0.5 * size * (length == 0))
        again = f"{second / length:.2g} times as" if length > 0 else f"{second:.2g}"
        what = f"the next Newton step would be {again} long"
    else:
        before = (
            float(torch.linalg.vector_norm(rest(torch.zeros_like(step)))) if length > LONG * size else 0.0
        )
        share = float(torch.linalg.vector_norm(rest(step))) / before if before > 0 else 0.0
        is_wrong, what = share > SMALL, f"{share:.2g} of the gradient that it was to remove is there after it"
    if not is_wrong:
        return []
    return [
        f"the step is {length / size:.2g} of the weights, and {what}: the linear model does not hold that "
        f"far; take a smaller change, order='newton' where the step was of first order, or retrain"
    ]


def _left_after(solution: Solution, rhs: Tensor, size: float, leftover: Leftover, system: Prepared) -> Tensor:
    """The gradient that a step leaves beyond what its own linear model says; arguments as above."""
    step, rest = solution.value, leftover.rest
    length = float(torch.linalg.vector_norm(step))
    if leftover.nearby is not None and length <= LONG * size:
        return leftover.nearby()
    if rest is None:
        return torch.zeros_like(rhs)
    if length <= ROUNDED * torch.finfo(step.dtype).eps * size:  # too short to change a sum with the weights
        return rest(torch.zeros_like(step)) + rhs
    if solution.residual > SOLVED:  # a filter stops short on purpose
        return rest(step) - (system.operator @ step - rhs)
    return rest(step)


def _along_a_kernel(solution: Solution, curvature: float, system: Prepared) -> list[str]:
    """A note where a solver without a spectrum divides by curvature that the leftover gradient explains.

    The part of a step ``v`` below the curvature ``δ`` is ``δ (A + δ)⁻¹ v``.

    Args:
        solution: Change of the weights.
        curvature: Curvature that a gradient explains, ``‖R‖`` over the length of the weights, with a margin.
        system: System that was solved.

    Cost: at most as many products as the solution took.
    """
    operator, step = system.operator, solution.value
    is_known = system.rank is not None or solution.status is not Status.CONVERGED
    if is_known or curvature == 0 or solution.steps == 0 or not operator.is_symmetric:
        return []
    raised = Sum(operator, Identity(len(step), step.dtype, step.device), curvature)
    part = MINRES(tol=SMALL / 2, max_steps=solution.steps).prepare(raised).solve(step)
    share = curvature * float(torch.linalg.vector_norm(part.value) / torch.linalg.vector_norm(step))
    if part.status is not Status.CONVERGED or share <= SMALL:
        return []
    return [
        f"{min(share, 1.0):.2g} of this change lies along directions whose curvature, below {curvature:.2g}, "
        f"the leftover gradient explains: they may be symmetries, along which nothing should move; train "
        f"further, or take solver=solvers.Dense() where the Hessian fits"
    ]


def _second_step(left: Tensor, solution: Solution, system: Prepared) -> float:
    """The length of the step that removes what is left of a gradient."""
    if (
        system.rank is None
    ):  # a few digits are enough, and early steps of MINRES are shorter than its last one
        inside = system.operator.without(left) if isinstance(system.operator, Deflated) else left
        rough = MINRES(tol=SMALL, max_steps=max(solution.steps, 1)).prepare(system.operator)
        return float(torch.linalg.vector_norm(rough.solve(inside).value))
    return float(torch.linalg.vector_norm(system.solve(left).value))
