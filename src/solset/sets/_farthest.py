"""The farthest point of a flat disc from a set, from which the excess of an affine set follows."""

from collections.abc import Callable

import scipy
import torch
from torch import Tensor

from solset.sets._affine import AffineSet
from solset.sets._convex import ClosedSet


def farthest_affine(source: AffineSet, target: AffineSet, center: Tensor, reach: float) -> float:
    """``max d(center + Z t, target)`` over ``‖t‖ ≤ reach``, with ``Z`` a basis of the source's directions.

    ``d`` is ``‖g + N t‖`` with ``N`` the part of ``Z`` off the target's directions: a convex quadratic over a
    ball, solved exactly as a trust-region problem (Moré & Sorensen 1983).

    Cost: two solves with ``p`` right-hand sides, then ``O(p³)``.
    """
    unit = torch.eye(len(center), dtype=center.dtype, device=center.device)
    projector = source.directions(unit).to(torch.float64)
    values, vectors = torch.linalg.eigh((projector + projector.T) / 2)
    basis = vectors[:, values > 0.5]
    if basis.shape[1] == 0:
        return float(torch.linalg.vector_norm(center - target.project(center).value))
    gap = (center - target.project(center).value).to(torch.float64)
    moved = basis.to(center.dtype)
    off = (moved - target.directions(moved)).to(torch.float64)
    return _largest_norm(gap, off, reach)


def _largest_norm(gap: Tensor, matrix: Tensor, reach: float) -> float:
    """``max ‖gap + matrix t‖`` over ``‖t‖ ≤ reach``."""
    if matrix.shape[1] == 0 or reach == 0.0:
        return float(torch.linalg.vector_norm(gap))
    _, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    slope = right @ (matrix.T @ gap)
    square = singular**2
    top = float(square.max())
    scale = float(torch.linalg.vector_norm(slope))
    if top <= 1e-24 * max(1.0, float(gap @ gap)) / reach**2:
        return float(torch.linalg.vector_norm(gap))

    def step(multiplier: float) -> Tensor:
        return slope / (multiplier - square)

    high = top + scale / reach
    low = top * (1 + 1e-15) + 1e-300
    is_hard = scale == 0.0 or float(torch.linalg.vector_norm(step(low))) <= reach
    if is_hard:
        # The slope has no part along the leading direction: add that direction, with either sign.
        free = square < top * (1 - 1e-12)
        inner = torch.where(free, slope / torch.where(free, top - square, 1.0), 0.0)
        rest = max(0.0, reach**2 - float(inner @ inner)) ** 0.5
        lead = torch.zeros_like(inner)
        lead[int(square.argmax())] = rest
        ends = [inner + lead, inner - lead]
    else:
        ends = [step(_root(lambda s: float(torch.linalg.vector_norm(step(s))) - reach, low, high))]
    return max(float(torch.linalg.vector_norm(gap + matrix @ (right.T @ t))) for t in ends)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """The root of a decreasing function that is positive at ``low`` and not at ``high``, up to rounding."""
    high *= 1 + 1e-12
    if function(low) <= 0:
        return low
    return float(scipy.optimize.brentq(function, low, high, xtol=1e-300, rtol=1e-15))  # type: ignore[arg-type]


def ascend(
    center: Tensor,
    reach: float,
    directions: Callable[[Tensor], Tensor],
    target: ClosedSet,
    start: Tensor,
    *,
    max_steps: int = 100,
) -> float:
    """A lower bound of ``max d(center + z, target)`` over a disc, by ascent along its rim.

    Each step goes to the rim point farthest along the gradient ``x - P(x)`` of ``½d²``; for a convex target
    ``d`` cannot fall. The function ``directions`` projects on the span of the disc.
    """
    best, direction = target.distance(center), directions(start)
    for _ in range(max_steps):
        length = torch.linalg.vector_norm(direction)
        if float(length) == 0.0:
            break
        point = center + reach * direction / length
        away = target.distance(point)
        if not away > best * (1 + 1e-12):
            break
        best, direction = away, directions(point - nearest(target, point))
    return best


def nearest(closed: ClosedSet, point: Tensor) -> Tensor:
    """A nearest point of any set in this room."""
    if isinstance(closed, AffineSet):
        return closed.project(point).value
    return closed.project(point) if hasattr(closed, "project") else closed.nearest(point)  # type: ignore[attr-defined]
