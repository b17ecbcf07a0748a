"""Tangent and normal cones: Moreau's decomposition, and what each must contain by definition."""

from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solset import AffineSet
from solset.linalg import DenseOperator
from solset.sets import Ball, Box, ConvexSet, Halfspace, Polyhedron, Simplex, normal_cone, tangent_cone
from solset.solvers import Dense

SIZE = 3


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


POLYHEDRON = Polyhedron(normal(6, SIZE, seed=1), normal(6, seed=2).abs())
PLANE = AffineSet(
    Dense().prepare(DenseOperator(normal(1, SIZE, seed=3))), normal(1, seed=4), torch.zeros(SIZE).double()
)
SETS = {
    "ball": Ball(normal(SIZE, seed=5), 1.0),
    "box": Box(vector(-0.5, 0.0, -0.1), vector(0.5, 0.2, 0.1)),
    "open box": Box(vector(-0.5, -inf, 0.0), vector(inf, 0.1, inf)),
    "flat box": Box(vector(0.0, 0.0, -1.0), vector(0.0, 1.0, 1.0)),
    "halfspace": Halfspace(normal(SIZE, seed=6), 0.2),
    "simplex": Simplex(SIZE, 2.0),
    "polyhedron": POLYHEDRON,
    "affine": PLANE,
}
some_set = st.sampled_from(sorted(SETS))
seeds = st.integers(0, 9_999)
examples = settings(max_examples=70, deadline=None)


def place(closed: ConvexSet | AffineSet, point: Tensor) -> Tensor:
    found = closed.project(point)
    return found if isinstance(found, Tensor) else found.value


@examples
@given(name=some_set, seed=seeds, scale=st.sampled_from([0.01, 1.0, 5.0]))
def test_moreau(name, seed, scale):
    closed = SETS[name]
    x, v = place(closed, scale * normal(SIZE, seed=seed)), normal(SIZE, seed=seed + 1)
    tangent, perpendicular = tangent_cone(closed, x), normal_cone(closed, x)
    along, across = tangent.project(v), perpendicular.project(v)
    torch.testing.assert_close(along + across, v, rtol=0, atol=1e-10)
    assert float(along @ across) == pytest.approx(0.0, abs=1e-10)
    assert tangent.contains(along)
    assert perpendicular.contains(across)


@examples
@given(name=some_set, seed=seeds, scale=st.sampled_from([1.0, 5.0]))
def test_the_normal_cone_is_what_its_definition_says(name, seed, scale):
    # v - P(v) is normal at P(v), and ⟨normal, u - x⟩ ≤ 0 for every point u of the set.
    closed = SETS[name]
    outside = scale * normal(SIZE, seed=seed)
    x, u = place(closed, outside), place(closed, normal(SIZE, seed=seed + 1))
    perpendicular = normal_cone(closed, x)
    assert perpendicular.contains(outside - x)
    across = perpendicular.project(normal(SIZE, seed=seed + 2))
    assert float(across @ (u - x)) <= 1e-8


@examples
@given(name=some_set, seed=seeds)
def test_the_tangent_cone_holds_every_direction_into_the_set_and_no_other(name, seed):
    closed = SETS[name]
    x, u = place(closed, 3.0 * normal(SIZE, seed=seed)), place(closed, normal(SIZE, seed=seed + 1))
    tangent = tangent_cone(closed, x)
    assert tangent.contains(u - x)
    # d(x + t v, C) = o(t) for a tangent v: second order in t for the ball, zero for what is polyhedral.
    v = tangent.project(normal(SIZE, seed=seed + 2))
    for t in (1e-3, 1e-4):
        assert closed.distance(x + t * v) <= 2.0 * t**2 * max(1.0, float(v @ v)) + 1e-12


@examples
@given(name=some_set, seed=seeds, factor=st.floats(0.0, 50.0))
def test_they_are_cones(name, seed, factor):
    closed = SETS[name]
    x, v = place(closed, 3.0 * normal(SIZE, seed=seed)), normal(SIZE, seed=seed + 1)
    for cone in (tangent_cone(closed, x), normal_cone(closed, x)):
        torch.testing.assert_close(cone.project(factor * v), factor * cone.project(v), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("closed", "point", "tangent", "perpendicular"),
    [
        (Box(vector(0, 0), vector(1, 1)), vector(0, 0.5), vector(0, -1), vector(-1, 0)),
        (Box(vector(0, 0), vector(1, 1)), vector(0.5, 0.5), vector(-1, -1), vector(0, 0)),
        (Box(vector(0, 0), vector(0, 1)), vector(0, 1), vector(0, -1), vector(-1, 0)),
        (Ball(vector(0, 0), 2.0), vector(-2, 0), vector(0, -1), vector(-1, 0)),
        (Ball(vector(0, 0), 2.0), vector(1, 0), vector(-1, -1), vector(0, 0)),
        (Ball(vector(1, 1), 0.0), vector(1, 1), vector(0, 0), vector(-1, -1)),
        (Halfspace(vector(-3, 0), 0.0), vector(0, 7), vector(0, -1), vector(-1, 0)),
        (Halfspace(vector(-3, 0), 0.0), vector(2, 7), vector(-1, -1), vector(0, 0)),
        (Simplex(2), vector(0.5, 0.5), vector(0, 0), vector(-1, -1)),
        (Polyhedron(-torch.eye(2).double(), vector(0, 0)), vector(0, 0), vector(0, 0), vector(-1, -1)),
        (Polyhedron(-torch.eye(2).double(), vector(0, 0)), vector(4, 0), vector(-1, 0), vector(0, -1)),
    ],
)
def test_closed_forms_for_the_direction_minus_one_minus_one(closed, point, tangent, perpendicular):
    direction = vector(-1, -1)
    torch.testing.assert_close(tangent_cone(closed, point).project(direction), tangent)
    torch.testing.assert_close(normal_cone(closed, point).project(direction), perpendicular)


def test_the_simplex_agrees_with_the_polyhedron_it_is():
    unit, ones = torch.eye(SIZE).double(), torch.ones(1, SIZE).double()
    general = Polyhedron(torch.cat([-unit, ones, -ones]), vector(0, 0, 0, 2, -2))
    for point in (vector(2, 0, 0), vector(1, 1, 0), vector(0.5, 0.5, 1.0)):
        for seed in range(10):
            v = normal(SIZE, seed=seed)
            expected = tangent_cone(general, point).project(v)
            torch.testing.assert_close(
                tangent_cone(Simplex(SIZE, 2.0), point).project(v), expected, rtol=0, atol=1e-10
            )


@pytest.mark.parametrize("name", [name for name in SETS])
def test_a_point_outside_is_refused(name):
    far = vector(7.0, 11.0, -13.0)
    outside = next(point for point in (far, -far) if not SETS[name].contains(point))
    for cone in (tangent_cone, normal_cone):
        with pytest.raises(ValueError, match="Project it on the set first"):
            cone(SETS[name], outside)


def test_a_set_without_a_known_cone_is_refused():
    cone = normal_cone(Ball(vector(0, 0), 1.0), vector(1, 0))
    with pytest.raises(TypeError, match="Describe it by one of them"):
        tangent_cone(cone, vector(1, 0))
