"""What the methods of retraining share: a step that is halved, and the result at the end."""

from collections.abc import Callable

import torch
from torch import Tensor

from solset.courses import Retrained
from solset.errors import Status
from solset.risk import EmpiricalRisk


def backtracked(
    risk: EmpiricalRisk, direction: Tensor, measure: Callable[[EmpiricalRisk], Tensor], limit: float
) -> tuple[EmpiricalRisk, Tensor, int]:
    """The longest of the steps 1, 1/2, … whose measure is at most the limit, or the shortest of twelve.

    Returns the risk after the step, its measure, and the number of steps tried.
    """
    scale, tried = 1.0, 1
    new = risk.at(risk.weights + direction)
    measured = measure(new)
    while not float(measured.norm()) <= limit and tried < 12:
        scale, tried = scale / 2, tried + 1
        new = risk.at(risk.weights + scale * direction)
        measured = measure(new)
    return new, measured, tried


def finish(
    start: EmpiricalRisk,
    end: EmpiricalRisk,
    gradients: int,
    status: Status,
    course: dict[int, Tensor] | None = None,
) -> Retrained:
    """The result of a training, with the gradient and the risk at its end.

    A training whose weights are not finite ends with status ``nonfinite``, whatever its target.

    Args:
        start: Changed risk at the trained weights.
        end: Changed risk at the weights reached.
        gradients: Number of gradients that the training took.
        status: Outcome of the training, if its weights are finite.
        course: Weights on the way, by step.
    """
    is_finite = bool(torch.isfinite(end.weights).all())
    return Retrained(
        weights=end.weights,
        change=end.weights - start.weights,
        gradient_norm=float(end.gradient().norm()),
        risk=end.value(),
        gradients=gradients,
        status=status if is_finite else Status.NONFINITE,
        layout=start.layout,
        course=course or {},
    )
