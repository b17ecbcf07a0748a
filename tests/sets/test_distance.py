"""Excess and Pompeiu–Hausdorff distance: conventions, metric axioms, exact values and honest bounds."""

from math import inf, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solset import AffineSet
from solset.linalg import DenseOperator
from solset.sets import (
    Ball,
    Box,
    Halfspace,
    PointCloud,
    Polyhedron,
    SetDistance,
    Simplex,
    distance,
    excess,
    pompeiu_hausdorff,
)
from solset.solvers import LSMR, Dense

seeds = st.integers(0, 9_999)
keys = st.tuples(st.integers(1, 6), seeds)
EMPTY = PointCloud(torch.empty(0, 3, dtype=torch.float64))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def cloud(key: tuple[int, int]) -> PointCloud:
    return PointCloud(normal(key[0], 3, seed=key[1]))


def affine(matrix: Tensor, rhs: Tensor, solver=None) -> AffineSet:
    system = (Dense() if solver is None else solver).prepare(DenseOperator(matrix))
    return AffineSet(system, rhs, torch.zeros(matrix.shape[1], dtype=torch.float64))


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


NOWHERE = affine(rows([1.0, 0.0, 0.0], [1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0], dtype=torch.float64))


class TestPointClouds:
    @settings(max_examples=60, deadline=None)
    @given(a=keys, b=keys)
    def test_excess_is_the_largest_of_the_smallest(self, a, b):
        a, b = cloud(a), cloud(b)
        table = torch.cdist(a.points, b.points, compute_mode="donot_use_mm_for_euclid_dist")
        found = excess(a, b)
        assert found.is_exact
        assert found.value == pytest.approx(float(table.min(dim=1).values.max()), rel=1e-12)

    @settings(max_examples=60, deadline=None)
    @given(a=keys, b=keys, c=keys)
    def test_excess_satisfies_the_triangle_inequality(self, a, b, c):
        a, b, c = cloud(a), cloud(b), cloud(c)
        assert excess(a, c).value <= excess(a, b).value + excess(b, c).value + 1e-12

    @settings(max_examples=60, deadline=None)
    @given(a=keys, b=keys, c=keys)
    def test_pompeiu_hausdorff_is_a_metric(self, a, b, c):
        a, b, c = cloud(a), cloud(b), cloud(c)

        def h(x, y):
            return pompeiu_hausdorff(x, y).value

        assert h(a, a) == 0.0
        assert h(a, b) == h(b, a)
        assert (h(a, b) > 0.0) == (not torch.equal(a.points, b.points))
        assert h(a, c) <= h(a, b) + h(b, c) + 1e-12
        shuffled = PointCloud(torch.cat([a.points.flip(0), a.points[:1]]))
        assert h(a, shuffled) == 0.0

    @settings(max_examples=40, deadline=None)
    @given(a=keys, b=keys, seed=seeds)
    def test_pompeiu_hausdorff_bounds_the_change_of_every_distance(self, a, b, seed):
        a, b = cloud(a), cloud(b)
        point = 3.0 * normal(3, seed=seed)
        assert abs(distance(point, a) - distance(point, b)) <= pompeiu_hausdorff(a, b).value + 1e-12

    @settings(max_examples=40, deadline=None)
    @given(a=keys, b=keys)
    def test_excess_grows_with_its_source_and_falls_with_its_target(self, a, b):
        a, b = cloud(a), cloud(b)
        both = PointCloud(torch.cat([a.points, b.points]))
        assert excess(a, both).value == 0.0
        assert excess(both, b).value == excess(a, b).value


class TestEmptySets:
    @pytest.mark.parametrize("empty", [EMPTY, NOWHERE], ids=["cloud", "affine"])
    @pytest.mark.parametrize(
        "other",
        [Ball(torch.zeros(3, dtype=torch.float64), 1.0), PointCloud(rows([0.0, 0.0, 0.0])), Simplex(3)],
        ids=lambda other: type(other).__name__,
    )
    def test_conventions(self, empty, other):
        assert distance(torch.zeros(3, dtype=torch.float64), empty) == inf
        assert excess(empty, other, radius=1.0) == SetDistance(0.0, is_exact=True)
        assert excess(other, empty, radius=1.0) == SetDistance(inf, is_exact=True)
        assert pompeiu_hausdorff(empty, other, radius=1.0) == SetDistance(inf, is_exact=True)

    def test_two_empty_sets_are_equal(self):
        assert pompeiu_hausdorff(EMPTY, NOWHERE).value == 0.0

    def test_two_sets_beyond_the_radius_are_not_compared(self):
        sets = [affine(rows([0.0, 1.0]), torch.tensor([y], dtype=torch.float64)) for y in (5.0, 7.0)]
        with pytest.raises(ValueError, match="more than 5"):
            pompeiu_hausdorff(*sets, radius=1.0)
        assert pompeiu_hausdorff(*sets, radius=8.0).value == pytest.approx(2.0)

    def test_a_single_point_is_an_affine_set_too(self):
        point = affine(torch.eye(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64))
        line = affine(rows([0.0, 1.0]), torch.tensor([3.0], dtype=torch.float64))
        assert excess(point, line, radius=10.0) == SetDistance(3.0, is_exact=True)
        assert excess(point, point, radius=10.0) == SetDistance(0.0, is_exact=True)

    def test_an_affine_set_beyond_the_radius_has_nothing_in_the_ball(self):
        plane = affine(rows([1.0, 0.0, 0.0]), torch.tensor([5.0], dtype=torch.float64))
        assert excess(plane, EMPTY, radius=4.9) == SetDistance(0.0, is_exact=True)
        assert excess(plane, EMPTY, radius=5.1) == SetDistance(inf, is_exact=True)


class TestConvexSets:
    @settings(max_examples=30, deadline=None)
    @given(seed=seeds, r=st.floats(0.1, 3.0), s=st.floats(0.1, 3.0))
    def test_balls_equal_the_search_for_the_worst_point(self, seed, r, s):
        first, second = Ball(normal(3, seed=seed), r), Ball(normal(3, seed=seed + 1), s)
        found = excess(first, second)
        outward = first.center - second.center
        worst = first.center + r * outward / outward.norm()
        assert found.is_exact
        assert found.value == pytest.approx(second.distance(worst), abs=1e-12)

    @settings(max_examples=30, deadline=None)
    @given(seed=seeds)
    def test_boxes_equal_the_worst_corner(self, seed):
        a, b, c, d = (normal(3, seed=seed + i) for i in range(4))
        first, second = (Box(torch.minimum(x, y), torch.maximum(x, y)) for x, y in ((a, b), (c, d)))
        corners = torch.cartesian_prod(*torch.stack([first.lower, first.upper], dim=1))
        found = excess(first, second)
        assert found.is_exact
        assert found.value == pytest.approx(max(second.distance(x) for x in corners), abs=1e-12)

    def test_a_box_in_an_unbounded_one(self):
        unit = Box(torch.zeros(2), torch.ones(2))
        positive = Box(torch.tensor([0.5, -inf]), torch.tensor([inf, inf]))
        assert excess(unit, positive) == SetDistance(0.5, is_exact=True)

    def test_a_ball_against_a_halfspace(self):
        ball = Ball(torch.tensor([3.0, 0.0]), 1.0)
        assert excess(ball, Halfspace(torch.tensor([2.0, 0.0]), 2.0)).value == pytest.approx(3.0)
        assert excess(ball, Halfspace(torch.tensor([1.0, 0.0]), 9.0)).value == 0.0

    def test_a_simplex_is_farthest_at_a_vertex(self):
        found = excess(Simplex(3), Ball(torch.tensor([1.0, 0.0, 0.0]), 0.0))
        assert found.is_exact
        assert found.value == pytest.approx(sqrt(2.0))

    @pytest.mark.parametrize(
        ("source", "target", "value"),
        [
            (Ball(torch.zeros(2), 1.0), Box(torch.zeros(2), torch.ones(2)), 1.0),
            (Ball(torch.zeros(2), 2.0), PointCloud(torch.zeros(1, 2)), 2.0),
            (Box(-torch.ones(2), torch.ones(2)), Ball(torch.zeros(2), 1.0), sqrt(2.0) - 1.0),
            (Simplex(2), PointCloud(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), sqrt(0.5)),
            (Polyhedron(torch.eye(2), torch.zeros(2)), Ball(torch.zeros(2), 0.5), 2.5),
        ],
        ids=["ball-box", "ball-cloud", "box-ball", "simplex-cloud", "polyhedron-ball"],
    )
    def test_anything_else_is_bounded_from_below_and_says_so(self, source, target, value):
        found = excess(source, target, radius=3.0, generator=rng(0))
        assert not found.is_exact
        assert 0.4 * value < found.value <= value + 1e-5
        assert excess(source, target, radius=3.0, generator=rng(0)) == found

    def test_a_search_needs_a_generator(self):
        with pytest.raises(ValueError, match="manual_seed"):
            excess(Ball(torch.zeros(2), 1.0), Box(torch.zeros(2), torch.ones(2)))

    def test_an_unbounded_set_needs_a_radius(self):
        with pytest.raises(ValueError, match="Truncate"):
            excess(Halfspace(torch.ones(2), 0.0), Ball(torch.zeros(2), 1.0), generator=rng(0))


class TestAffineSets:
    line = affine(rows([0.0, 1.0, 0.0], [0.0, 0.0, 1.0]), torch.zeros(2, dtype=torch.float64))

    def plane_through_zero(self, angle: float) -> AffineSet:
        t = torch.tensor(angle, dtype=torch.float64)
        normal = torch.stack([-torch.sin(t), torch.cos(t), torch.zeros_like(t)])
        return affine(normal[None], torch.zeros(1, dtype=torch.float64))

    @pytest.mark.parametrize("radius", [None, 0.0, -1.0, inf, float("nan")])
    def test_need_a_radius(self, radius):
        with pytest.raises(ValueError, match="Truncate the set to the scale you care about"):
            excess(self.line, self.line, radius=radius)

    def test_parallel_sets_are_as_far_as_their_distance(self):
        shifted = self.line.translate(torch.tensor([9.0, 3.0, 4.0], dtype=torch.float64))
        found = pompeiu_hausdorff(self.line, shifted, radius=2.0)
        assert found.is_exact
        assert found.value == pytest.approx(5.0)

    @pytest.mark.parametrize("angle", [0.01, 0.3, 1.5])
    def test_sets_through_one_point_part_as_the_sine_of_their_angle(self, angle):
        found = excess(self.line, self.plane_through_zero(angle), radius=2.0)
        assert found.is_exact
        assert found.value == pytest.approx(2.0 * torch.sin(torch.tensor(angle).double()).item())

    def test_a_subset_has_no_excess_and_the_larger_set_has(self):
        plane = self.plane_through_zero(0.0)
        assert excess(self.line, plane, radius=2.0).value == pytest.approx(0.0, abs=1e-12)
        assert excess(plane, self.line, radius=2.0).value == pytest.approx(2.0)

    def test_the_ball_is_centred_at_the_reference(self):
        # The line y = 1 seen from 0 with ρ = 2 reaches x = ±√3; its distance from x = 0 is √3.
        line = affine(rows([0.0, 1.0]), torch.ones(1, dtype=torch.float64))
        axis = affine(rows([1.0, 0.0]), torch.zeros(1, dtype=torch.float64))
        assert excess(line, axis, radius=2.0).value == pytest.approx(sqrt(3.0))
        moved = line.translate(torch.tensor([10.0, 0.0], dtype=torch.float64))
        assert excess(moved, axis, radius=2.0).value == pytest.approx(10.0 + sqrt(3.0))

    @settings(max_examples=25, deadline=None)
    @given(m=st.integers(1, 3), k=st.integers(1, 3), seed=seeds, radius=st.floats(0.5, 5.0))
    def test_no_point_of_the_truncated_set_is_farther(self, m, k, seed, radius):
        p = 4
        first = affine(normal(m, p, seed=seed), 0.3 * normal(m, seed=seed + 1))
        second = affine(normal(k, p, seed=seed + 2), normal(k, seed=seed + 3))
        found = excess(first, second, radius=radius)
        center = first.min_norm().value
        if float(center.norm()) > radius:
            assert found == SetDistance(0.0, is_exact=True)
            return
        reach = (radius**2 - float(center.norm()) ** 2) ** 0.5
        along = first.directions(normal(p, 400, seed=seed + 4))
        rim = center[:, None] + reach * along / torch.linalg.vector_norm(along, dim=0)
        tried = max(second.distance(x) for x in rim.T[:40])
        assert tried <= found.value + 1e-9
        # The rim of a line is two points, that of a plane a circle: 400 directions all but attain it there.
        if p - m <= 2:
            matrix, rhs = second.system.operator.to_dense(), second.rhs
            away = torch.linalg.vector_norm(torch.linalg.pinv(matrix) @ (matrix @ rim - rhs[:, None]), dim=0)
            assert found.value == pytest.approx(float(away.max()), rel=1e-2)

    def test_the_hard_case_where_the_sets_are_nearest_along_another_axis(self):
        # Distance² from (x, y, 1) to the z-free axis set {y = 0, z = 0} is y² + 1: the gap (0, 0, 1) has no
        # part along the leading direction y.
        plane = affine(rows([0.0, 0.0, 1.0]), torch.ones(1, dtype=torch.float64))
        assert excess(plane, self.line, radius=2.0).value == pytest.approx(2.0)

    def test_against_points_and_balls_it_is_a_lower_bound(self):
        ball = Ball(torch.zeros(3, dtype=torch.float64), 0.5)
        found = excess(self.line, ball, radius=2.0, generator=rng(0))
        assert not found.is_exact
        assert found.value == pytest.approx(1.5)
        point = PointCloud(rows([1.0, 0.0, 0.0]))
        assert excess(self.line, point, radius=2.0, generator=rng(0)).value == pytest.approx(3.0)

    def test_a_solver_without_a_spectrum_gives_the_same(self):
        A, b, C, d = normal(2, 5, seed=1), normal(2, seed=2), normal(1, 5, seed=3), normal(1, seed=4)
        values = [
            excess(affine(A, b, solver), affine(C, d, solver), radius=4.0).value
            for solver in (Dense(), LSMR(tol=1e-12))
        ]
        assert values[0] == pytest.approx(values[1], abs=1e-8)

    def test_large_affine_sets_are_searched_and_never_overstated(self, monkeypatch):
        A, b, C, d = normal(2, 5, seed=1), normal(2, seed=2), normal(1, 5, seed=3), normal(1, seed=4)
        first, second = affine(A, b), affine(C, d)
        exact = excess(first, second, radius=4.0)
        monkeypatch.setattr("solset.sets._distances._DENSE_SIZE", 4)
        searched = excess(first, second, radius=4.0, generator=rng(0))
        assert (exact.is_exact, searched.is_exact) == (True, False)
        assert 0.99 * exact.value <= searched.value <= exact.value * (1 + 1e-9)


def test_a_set_it_cannot_search_is_refused():
    class Odd:
        def distance(self, point: Tensor) -> float:
            return float(point.norm())

        def contains(self, point: Tensor, *, distance_tol: float = 1e-8) -> bool:
            return self.distance(point) <= distance_tol

    with pytest.raises(ValueError, match="PointCloud of points of the set"):
        excess(Odd(), Ball(torch.zeros(2), 1.0))
    assert excess(PointCloud(torch.ones(1, 4)), Odd()).value == pytest.approx(2.0)


def test_a_distance_says_whether_it_is_exact():
    assert repr(SetDistance(2.0, is_exact=True)) == "SetDistance(2, exact)"
    assert repr(SetDistance(1 / 3, is_exact=False)) == "SetDistance(0.333333, a lower bound)"
