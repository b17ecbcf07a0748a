"""Definition 1 (excess, Pompeiu–Hausdorff distance) and Definition 2 (outer and inner limits)."""

from math import cos, inf, pi, sin

import torch
from torch import Tensor

from solset import AffineSet
from solset.linalg import DenseOperator
from solset.sets import (
    Ball,
    Halfspace,
    PointCloud,
    distance,
    excess,
    in_inner_limit,
    in_outer_limit,
    pompeiu_hausdorff,
)
from solset.solvers import Dense


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def line(angle: float) -> AffineSet:
    """The line through 0 at an angle to the first axis."""
    normal = vector(-sin(angle), cos(angle))
    return AffineSet(
        Dense().prepare(DenseOperator(normal[None])), torch.zeros(1, dtype=torch.float64), vector(0, 0)
    )


def test_definition_1_excess_and_pompeiu_hausdorff_distance():
    """e(C, D) is how far C sticks out of D; h is the larger of the two."""
    corner = PointCloud(torch.stack([vector(0, 0), vector(1, 0)]))
    square = PointCloud(torch.stack([vector(0, 0), vector(1, 0), vector(0, 1), vector(1, 1), vector(4, 4)]))
    assert distance(vector(0, 3), square) == 2.0
    assert excess(corner, square).value == 0.0
    assert excess(square, corner).value == 5.0
    assert pompeiu_hausdorff(corner, square).value == 5.0

    nothing = PointCloud(torch.empty(0, 2, dtype=torch.float64))
    assert excess(nothing, square).value == 0.0
    assert excess(square, nothing).value == inf
    assert pompeiu_hausdorff(nothing, square).value == inf

    for radius in (1.0, 10.0):  # two lines through 0: within ρ they part by ρ sin(angle)
        apart = pompeiu_hausdorff(line(0.0), line(pi / 6), radius=radius)
        assert apart.is_exact
        assert abs(apart.value - radius / 2) <= 1e-12


def test_definition_2_outer_and_inner_limits():
    """The outer limit holds what the sets come back to, the inner limit what they stay at."""
    # Alternating sets: C_k = {0, 1} for even k and {0, -1} for odd k.
    alternating = [PointCloud(torch.tensor([[0.0], [(-1.0) ** k]], dtype=torch.float64)) for k in range(40)]
    for value, outer, inner in (
        (0.0, True, True),
        (1.0, True, False),
        (-1.0, True, False),
        (0.5, False, False),
    ):
        assert in_outer_limit(vector(value), alternating, tail=10, distance_tol=1e-9) is outer
        assert in_inner_limit(vector(value), alternating, tail=10, distance_tol=1e-9) is inner

    # Shrinking balls converge to their centre: both limits are {0}, approached at the speed 1/k.
    shrinking = [Ball(vector(0, 0), 1.0 / k) for k in range(1, 501)]
    assert in_inner_limit(vector(0, 0), shrinking, tail=100, distance_tol=0.0)
    assert in_inner_limit(vector(0.0025, 0), shrinking, tail=100, distance_tol=5e-4)
    assert not in_outer_limit(vector(0.01, 0), shrinking, tail=100, distance_tol=1e-3)

    # Turning halfspaces ⟨(cos k, sin k), x⟩ ≤ 0: every point is met again and again, only 0 is kept.
    turning = [Halfspace(vector(cos(k), sin(k)), 0.0) for k in range(200)]
    assert in_outer_limit(vector(3, -2), turning, tail=50, distance_tol=0.0)
    assert not in_inner_limit(vector(3, -2), turning, tail=50, distance_tol=0.1)
    assert in_inner_limit(vector(0, 0), turning, tail=50, distance_tol=0.0)

    # Lines that lie down on the axis: C_k → C although h(C_k, C) = ∞ without truncation.
    falling = [line(1.0 / k) for k in range(1, 1001)]
    assert in_inner_limit(vector(5, 0), falling, tail=100, distance_tol=0.01)
    assert not in_outer_limit(vector(0, 1), falling, tail=100, distance_tol=0.01)
