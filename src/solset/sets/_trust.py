"""What speaks against an element of an estimated set, each as a sentence with a number."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from solset.errors import SolsetWarning, Status
from solset.solvers import Solution

SMALL = 0.1  # share of the answer up to which the change by the leftover gradient counts as small
LONG = 0.1  # length of a change relative to the weights from which a step is asked how far it falls short
UPWARDS = 1e-6  # part of ‖v‖‖b‖ from which a negative v·b is more than rounding


@dataclass(frozen=True, eq=False, repr=False)
class Leftover:
    """The gradient that training left, as far as it speaks against an estimate.

    Attributes:
        drift: Function that returns the length of the change that this gradient alone makes, ``‖A⁺R‖``.
        warns: Whether what a gradient explains gives a warning; not where a larger one was accepted.
        is_exact: Whether ``A`` is a Hessian, for which an element may go uphill.
        shortfall: Function that returns which share of the gradient that was to vanish is left after a change
            of the weights; asked for long changes only. ``None`` where no such gradient is known.
    """

    drift: Callable[[], float]
    warns: bool = True
    is_exact: bool = True
    shortfall: Callable[[Tensor], float] | None = None

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
    amplification: float | None = None,
) -> Solution:
    """The change of the weights with its drift and with notes on what speaks against it; warns of each.

    Args:
        solution: Change of the weights that was solved for.
        rhs: Right-hand side ``b`` that it answers, ``(m,)``.
        size: Length of the weights; 0 where it is not known.
        leftover: Gradient that training left; ``None`` where no solution has one.
        amplification: Factor by which the solve lengthens rounding; ``None`` where it is not known.
    """
    length = float(torch.linalg.vector_norm(solution.value))
    notes = []
    drift = leftover.of(solution.value) if leftover is not None and bool((rhs != 0).any()) else 0.0
    if solution.status not in {Status.CONVERGED, Status.INCONSISTENT}:
        notes.append(
            f"the solve ended with status '{solution.status}' at relative residual {solution.residual:.3g}: "
            f"the element is not on the set"
        )
    if not length <= size and size > 0:
        notes.append(
            f"the change of the weights ({length:.3g}) is larger than the weights ({size:.3g}), where a "
            f"linear estimate says nothing; take a filter, such as filters.GradientFlow or filters.Tikhonov"
        )
    rounding = torch.finfo(rhs.dtype).eps * float(torch.linalg.vector_norm(rhs)) * (amplification or 0.0)
    if rounding > SMALL * length > 0:
        notes.append(
            f"the rounding of {str(rhs.dtype).removeprefix('torch.')} alone makes {rounding / length:.2g} of "
            f"this change: the smallest eigenvalue is too near to it; compute in float64"
        )
    if leftover is not None and leftover.shortfall is not None and LONG * size < length <= size:
        left = leftover.shortfall(solution.value)
        if not left <= SMALL:
            notes.append(
                f"the step is {length / size:.2g} of the weights, and {left:.2g} of the gradient that "
                f"it was to remove is there after it: the linear model does not hold that far; take a "
                f"smaller change, order='newton' where the step was of first order, or retrain"
            )
    always = len(notes)
    if leftover is not None and leftover.is_exact and solution.status is Status.CONVERGED:
        climb = float(solution.value @ rhs) if solution.value.shape == rhs.shape else 0.0
        if climb < -UPWARDS * length * float(torch.linalg.vector_norm(rhs)):
            notes.append(
                f"the element raises the quadratic model of the risk by {-climb / 2:.3g}: the Hessian has "
                f"negative curvature along it, so that the weights are not at a minimum"
            )
    is_zero = (
        length <= torch.finfo(solution.value.dtype).eps * size
    )  # the weights do not change in their dtype
    if drift > SMALL and not is_zero:
        notes.append(
            f"training had not stopped: the leftover gradient alone would move the weights {drift:.3g} times "
            f"as far as this change ({length:.3g}); train further"
        )
    told = notes if leftover is None or leftover.warns else notes[:always]
    for note in told:
        warnings.warn(note, SolsetWarning, stacklevel=4)
    return solution.with_notes(tuple(notes), drift)
