"""Outer and inner limits over a stated tail."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solset.sets import Ball, PointCloud, in_inner_limit, in_outer_limit

SHRINKING = [Ball(torch.zeros(1), 1.0 / k) for k in range(1, 50)]


@settings(max_examples=60, deadline=None)
@given(
    positions=st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=8),
    at=st.floats(-5.0, 5.0),
    tol=st.floats(0.0, 5.0),
    data=st.data(),
)
def test_the_inner_limit_lies_in_the_outer_one(positions, at, tol, data):
    sets = [PointCloud(torch.tensor([[x]], dtype=torch.float64)) for x in positions]
    point = torch.tensor([at], dtype=torch.float64)
    tail = data.draw(st.integers(1, len(sets)))
    inner = in_inner_limit(point, sets, tail=tail, distance_tol=tol)
    outer = in_outer_limit(point, sets, tail=tail, distance_tol=tol)
    assert outer or not inner
    away = [abs(x - at) for x in positions[-tail:]]
    assert (inner, outer) == (max(away) <= tol, min(away) <= tol)


def test_only_the_tail_counts():
    jumped = [PointCloud(torch.tensor([[9.0]]))] * 5 + [PointCloud(torch.tensor([[0.0]]))] * 3
    zero = torch.zeros(1)
    assert in_inner_limit(zero, jumped, tail=3, distance_tol=0.0)
    assert not in_inner_limit(zero, jumped, tail=4, distance_tol=0.0)
    assert not in_outer_limit(torch.tensor([9.0]), jumped, tail=3, distance_tol=0.0)
    assert in_outer_limit(torch.tensor([9.0]), jumped, tail=4, distance_tol=0.0)


def test_empty_sets_are_infinitely_far():
    empty = PointCloud(torch.empty(0, 1))
    assert not in_outer_limit(torch.zeros(1), [empty], tail=1, distance_tol=1e9)
    assert in_outer_limit(torch.zeros(1), [*SHRINKING, empty], tail=2, distance_tol=0.0)
    assert not in_inner_limit(torch.zeros(1), [*SHRINKING, empty], tail=2, distance_tol=1e9)


@pytest.mark.parametrize("test", [in_outer_limit, in_inner_limit])
@pytest.mark.parametrize(("tail", "tol"), [(0, 0.1), (50, 0.1), (3, -0.1), (3, float("nan"))])
def test_an_impossible_tail_or_tolerance_is_refused(test, tail, tol):
    with pytest.raises(ValueError, match="tail|tol"):
        test(torch.zeros(1), SHRINKING, tail=tail, distance_tol=tol)
