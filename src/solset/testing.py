"""Public checks that a user can run on their own operators, models and problems."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from solset.linalg import LinearOperator
from solset.problem import Problem


def adjoint_gap(operator: LinearOperator, *, generator: torch.Generator) -> float:
    """``|⟨A v, u⟩ - ⟨v, Aᵀ u⟩| / (‖A v‖‖u‖)`` at random ``u`` and ``v``: rounding for a true adjoint.

    Args:
        operator: ``A``.
        generator: The source of randomness.

    Example:
        >>> from solset.linalg import DenseOperator
        >>> matrix = DenseOperator(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
        >>> adjoint_gap(matrix, generator=torch.Generator().manual_seed(0)) < 1e-15
        True
    """
    m, p = operator.shape
    v = torch.randn(p, generator=generator, dtype=torch.float64).to(operator.device, operator.dtype)
    u = torch.randn(m, generator=generator, dtype=torch.float64).to(operator.device, operator.dtype)
    image = operator @ v
    gap = abs(float(image @ u) - float(v @ (operator.T @ u)))
    size = float(image.norm() * u.norm())
    return gap / size if size > 0 else gap


def optimality_errors(
    problem: Problem,
    dx: Tensor,
    change: Tensor,
    *,
    points: Sequence[int] | None = None,
    scales: Sequence[float],
) -> list[float]:
    """``‖R(x̄ + tΔx, w̄ + tv) - R(x̄, w̄)‖`` along ``t``: of second order exactly if ``v`` answers ``Δx``.

    Args:
        problem: The trained point.
        dx: ``Δx``, ``(|K|, *input)``.
        change: ``v``, ``(p,)``.
        points: ``K``; all points by default.
        scales: The values of ``t``.

    Cost: one gradient per scale.
    """
    chosen = problem.check_points(points)
    space = problem.data_space(chosen)
    step, start = space.unflatten(space.flatten(dx)), problem.gradient()
    errors = []
    for t in scales:
        moved = problem.risk().move(chosen, t * step).at(problem.weights() + t * change)
        errors.append(float((moved.gradient() - start).norm()))
    return errors


def log_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of ``log y`` against ``log x``: the order of an error.

    Args:
        x: Positive.
        y: Positive.

    Example:
        >>> round(log_slope([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]), 6)
        2.0
    """
    return float(np.polyfit(np.log(np.asarray(x)), np.log(np.asarray(y)), 1)[0])
