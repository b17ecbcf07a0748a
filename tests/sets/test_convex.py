"""Convex sets: what every projection must satisfy, then each set against brute force."""

from itertools import combinations
from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solset.sets import Ball, Box, ClosedSet, ConvexSet, Halfspace, PointCloud, Polyhedron, Simplex

KINDS = ["ball", "point", "box", "half box", "halfspace", "simplex", "polyhedron"]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def polyhedron(p: int, seed: int, rows: int = 5) -> Polyhedron:
    """A random polyhedron with a known interior or boundary point."""
    matrix, inside = normal(rows, p, seed=seed), normal(p, seed=seed + 1)
    return Polyhedron(matrix, matrix @ inside + normal(rows, seed=seed + 2).abs() * (seed % 3))


def make(kind: str, p: int, seed: int) -> ConvexSet:
    a, b = normal(p, seed=seed), normal(p, seed=seed + 1)
    match kind:
        case "ball":
            return Ball(a, float(b.abs()[0]) + 0.1)
        case "point":
            return Ball(a, 0.0)
        case "box":
            return Box(torch.minimum(a, b), torch.maximum(a, b))
        case "half box":
            return Box(torch.where(a > 0, a, -inf), torch.full_like(a, inf))
        case "halfspace":
            return Halfspace(a, float(b[0]))
        case "simplex":
            return Simplex(p, float(b.abs()[0]) + 0.1)
    return polyhedron(p, seed)


keys = st.tuples(st.sampled_from(KINDS), st.integers(1, 5), st.integers(0, 9_999))
seeds = st.integers(0, 9_999)
scales = st.sampled_from([0.0, 0.1, 1.0, 30.0])
examples = settings(max_examples=70, deadline=None)


@examples
@given(key=keys, seed=seeds, scale=scales)
def test_a_projection_lies_in_the_set_and_projecting_again_changes_nothing(key, seed, scale):
    closed = make(*key)
    once = closed.project(scale * normal(closed.size, seed=seed))
    assert closed.contains(once, distance_tol=1e-10)
    assert float((closed.project(once) - once).norm()) <= 1e-10 * max(1.0, scale)


@examples
@given(key=keys, seed=seeds, scale=scales)
def test_a_projection_satisfies_the_variational_inequality(key, seed, scale):
    # x is the projection of v iff ⟨v - x, u - x⟩ ≤ 0 for every u in the set.
    closed = make(*key)
    point, other = scale * normal(closed.size, seed=seed), closed.project(normal(closed.size, seed=seed + 1))
    nearest = closed.project(point)
    assert float((point - nearest) @ (other - nearest)) <= 1e-9 * max(1.0, scale) ** 2


@examples
@given(key=keys, seed=seeds, scale=scales)
def test_a_projection_does_not_expand(key, seed, scale):
    closed = make(*key)
    a, b = scale * normal(closed.size, seed=seed), scale * normal(closed.size, seed=seed + 1)
    moved = float((closed.project(a) - closed.project(b)).norm())
    assert moved <= float((a - b).norm()) + 1e-10 * max(1.0, scale)


@examples
@given(key=keys, seed=seeds)
def test_distance_and_membership_agree_with_the_projection(key, seed):
    closed = make(*key)
    point = 2.0 * normal(closed.size, seed=seed)
    away = float((point - closed.project(point)).norm())
    assert closed.distance(point) == pytest.approx(away, abs=1e-15)
    assert closed.contains(point) == (away <= 1e-8 * max(1.0, float(point.norm())))
    assert isinstance(closed, ClosedSet)


@settings(max_examples=60, deadline=None)
@given(key=keys, seed=seeds)
def test_a_point_of_the_set_is_its_own_projection(key, seed):
    closed = make(*key)
    inside = closed.project(normal(closed.size, seed=seed))
    outside = inside + 10.0 * (normal(closed.size, seed=seed + 1))
    assert closed.distance(inside) <= 1e-10
    assert closed.distance(outside) <= float((outside - inside).norm()) + 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_float32_points_stay_float32(kind):
    closed = make(kind, 3, seed=5)
    for name in ("center", "lower", "upper", "normal", "matrix", "bounds"):
        if hasattr(closed, name):
            object.__setattr__(closed, name, getattr(closed, name).to(torch.float32))
    nearest = closed.project(torch.tensor([3.0, -4.0, 0.5]))
    assert nearest.dtype is torch.float32
    assert closed.contains(nearest, distance_tol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("point", [torch.zeros(2), torch.zeros(3, 1), torch.tensor([0.0, nan, 0.0])])
def test_a_point_of_another_shape_or_without_a_value_is_refused(kind, point):
    with pytest.raises(ValueError, match="`point`"):
        make(kind, 3, seed=5).project(point)


ZERO, ONE = torch.zeros(2), torch.ones(2)
FACING = torch.tensor([[1.0], [-1.0]])
WRONG = {
    "negative radius": (lambda: Ball(ZERO, -1.0), "radius"),
    "radius without a value": (lambda: Ball(ZERO, nan), "radius"),
    "infinite radius": (lambda: Ball(ZERO, inf), "radius"),
    "infinite center": (lambda: Ball(torch.tensor([inf, 0.0]), 1.0), "center"),
    "empty box": (lambda: Box(torch.tensor([0.0, 2.0]), ONE), "upper"),
    "box without a value": (lambda: Box(torch.tensor([0.0, nan]), ONE), "upper"),
    "box at infinity": (lambda: Box(torch.full((2,), inf), torch.full((2,), inf)), "upper"),
    "bounds of two lengths": (lambda: Box(ZERO, torch.ones(3)), "upper"),
    "no direction": (lambda: Halfspace(ZERO, 1.0), "normal"),
    "no offset": (lambda: Halfspace(ONE, inf), "offset"),
    "no coordinates": (lambda: Simplex(0), "coordinates"),
    "empty simplex": (lambda: Simplex(2, 0.0), "total"),
    "contradiction": (lambda: Polyhedron(FACING, torch.tensor([0.0, -1.0])), "non-empty"),
    "hair-thin contradiction": (lambda: Polyhedron(FACING, torch.tensor([0.0, -1e-9])), "non-empty"),
    "impossible zero row": (lambda: Polyhedron(torch.zeros(1, 2), torch.tensor([-1.0])), "non-empty"),
    "bound at minus infinity": (lambda: Polyhedron(torch.eye(2), torch.tensor([0.0, -inf])), "non-empty"),
    "bound without a value": (lambda: Polyhedron(torch.eye(2), torch.tensor([0.0, nan])), "bounds"),
    "matrix without a value": (lambda: Polyhedron(torch.full((1, 2), nan), torch.zeros(1)), "matrix"),
    "bounds for other rows": (lambda: Polyhedron(torch.eye(2), torch.zeros(3)), "bounds"),
    "a flat cloud": (lambda: PointCloud(torch.zeros(3)), "points"),
    "a cloud without a value": (lambda: PointCloud(torch.full((1, 2), nan)), "points"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_impossible_set_is_refused_by_the_name_of_its_argument(name):
    build, word = WRONG[name]
    with pytest.raises(ValueError, match=word):
        build()


@settings(max_examples=60, deadline=None)
@given(p=st.integers(1, 4), rows=st.integers(1, 6), seed=seeds, scale=scales)
def test_a_polyhedron_projects_as_the_best_of_all_active_sets(p, rows, seed, scale):
    closed, point = polyhedron(p, seed, rows), scale * normal(p, seed=seed + 7)
    A, b = closed.matrix, closed.bounds
    candidates = [point]
    for count in range(1, rows + 1):
        for active in map(list, combinations(range(rows), count)):
            inverse = torch.linalg.pinv(A[active], rtol=1e-12)
            candidates.append(point + inverse @ (b[active] - A[active] @ point))
    feasible = [c for c in candidates if bool((A @ c <= b + 1e-10 * max(1.0, scale)).all())]
    best = min(feasible, key=lambda c: float((c - point).norm()))
    torch.testing.assert_close(closed.project(point), best, rtol=0, atol=1e-9 * max(1.0, scale))


@settings(max_examples=30, deadline=None)
@given(p=st.integers(1, 5), seed=seeds)
def test_a_polyhedron_agrees_with_the_sets_that_have_a_formula(p, seed):
    point, unit = 3.0 * normal(p, seed=seed + 7), torch.eye(p, dtype=torch.float64)
    box, half, simplex = make("box", p, seed), make("halfspace", p, seed), make("simplex", p, seed)
    assert isinstance(box, Box)
    assert isinstance(half, Halfspace)
    assert isinstance(simplex, Simplex)
    ones, total = torch.ones(1, p, dtype=torch.float64), torch.tensor([simplex.total], dtype=torch.float64)
    pairs = [
        (box, Polyhedron(torch.cat([unit, -unit]), torch.cat([box.upper, -box.lower]))),
        (half, Polyhedron(half.normal[None], torch.tensor([half.offset], dtype=torch.float64))),
        (
            simplex,
            Polyhedron(torch.cat([-unit, ones, -ones]), torch.cat([point.new_zeros(p), total, -total])),
        ),
    ]
    for formula, general in pairs:
        torch.testing.assert_close(general.project(point), formula.project(point), rtol=0, atol=1e-9)


@pytest.mark.parametrize("far", [1.0, 1e4, 1e8])
def test_a_polyhedron_far_away_is_as_exact_as_one_at_hand(far):
    # The wedge |x₂| ≤ -x₁/1000: far points violate it by a thousandth of their distance.
    rows = torch.tensor([[1e-3, 1.0], [1e-3, -1.0]], dtype=torch.float64)
    wedge = Polyhedron(rows, torch.zeros(2, dtype=torch.float64))
    nearest = wedge.project(torch.tensor([far, 0.0], dtype=torch.float64))
    assert float(nearest.norm()) <= 1e-10 * far


def test_a_polyhedron_without_a_binding_row_is_the_whole_space():
    point = torch.tensor([3.0, -7.0])
    everywhere = Polyhedron(torch.cat([torch.zeros(1, 2), torch.eye(2)]), torch.tensor([0.0, inf, inf]))
    assert torch.equal(everywhere.project(point), point)
    assert torch.equal(Polyhedron(torch.empty(0, 2), torch.empty(0)).project(point), point)


def test_the_slack_of_a_polyhedron_is_a_distance():
    closed = Polyhedron(torch.tensor([[3.0, 4.0]]), torch.tensor([10.0]))
    torch.testing.assert_close(closed.slack(ZERO), torch.tensor([2.0]))


class TestPointCloud:
    @settings(max_examples=50, deadline=None)
    @given(k=st.integers(1, 8), p=st.integers(1, 4), seed=seeds)
    def test_nearest_is_the_best_row(self, k, p, seed):
        points, point = normal(k, p, seed=seed), normal(p, seed=seed + 1)
        cloud = PointCloud(points)
        lengths = [float((row - point).norm()) for row in points]
        assert cloud.distance(point) == pytest.approx(min(lengths), rel=1e-12)
        assert torch.equal(cloud.nearest(point), points[lengths.index(min(lengths))])
        assert all(cloud.contains(row) for row in points)
        assert not cloud.contains(point + 100.0)

    def test_without_points_it_is_the_empty_set(self):
        empty = PointCloud(torch.empty(0, 2))
        assert empty.is_empty
        assert empty.distance(ZERO) == inf
        assert not empty.contains(ZERO)
        with pytest.raises(ValueError, match="at least one"):
            empty.nearest(ZERO)


def test_a_set_prints_its_kind_and_space_on_one_line():
    shown = [
        Ball(torch.zeros(500), 1.0),
        Simplex(3),
        PointCloud(torch.zeros(1, 2)),
        PointCloud(torch.zeros(0, 4)),
    ]
    assert list(map(repr, shown)) == [
        "Ball(in R^500)",
        "Simplex(in R^3)",
        "PointCloud(1 point in R^2)",
        "PointCloud(0 points in R^4)",
    ]
