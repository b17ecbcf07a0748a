"""A box cut by a ball: against the variational inequality that defines a projection, and a general solver."""

from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solset.sets import Ball, Box, BoxedBall, Polyhedron, normal_cone, tangent_cone

SIZE = 4
seeds = st.integers(0, 9_999)
examples = settings(max_examples=40, deadline=None)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def boxed(seed: int) -> BoxedBall:
    """A box around or beside the center, some bounds infinite, and a ball that meets it."""
    center, lower = draw(SIZE, seed=seed), draw(SIZE, seed=seed + 1)
    upper = lower + draw(SIZE, seed=seed + 2).abs()
    if seed % 3 == 0:
        upper[0], lower[1] = inf, -inf
    box = Box(lower, upper)
    return BoxedBall(box, Ball(center, box.distance(center) + float(draw(1, seed=seed + 3).abs()) + 1e-3))


@examples
@given(seed=seeds, length=st.sampled_from([1e-3, 1.0, 30.0, 1e6]))
def test_a_projection_is_inside_and_makes_an_obtuse_angle_with_every_point(seed, length):
    body, point = boxed(seed), length * draw(SIZE, seed=seed + 4)
    near = body.project(point)
    assert torch.equal(body.box.project(near), near)
    assert float((near - body.ball.center).norm()) <= body.ball.radius
    for k in range(5):
        other = body.project(draw(SIZE, seed=seed + 10 + k))
        angle = float((point - near) @ (other - near))
        assert angle <= 1e-9 * (1 + length) * (1 + float((other - near).norm()))
    again = body.project(near)
    torch.testing.assert_close(again, near, rtol=0, atol=1e-12)


@examples
@given(seed=seeds)
def test_the_farthest_point_is_inside_and_no_point_is_farther(seed):
    body, direction = boxed(seed), draw(SIZE, seed=seed + 5)
    far = body.farthest(direction)
    assert torch.equal(body.box.project(far), far)
    assert float((far - body.ball.center).norm()) <= body.ball.radius
    for k in range(10):
        other = body.project(10 * draw(SIZE, seed=seed + 20 + k))
        assert float(direction @ other) <= float(direction @ far) + 1e-9


def test_the_farthest_point_along_nothing_is_the_nearest_to_the_center():
    body = boxed(1)
    zero = torch.zeros(SIZE, dtype=torch.float64)
    assert torch.equal(body.farthest(zero), body.box.project(body.ball.center))


def corner() -> tuple[BoxedBall, Tensor]:
    """A point at which one face of the box and the sphere are both active."""
    one = torch.ones(SIZE, dtype=torch.float64)
    body = BoxedBall(Box(-0.5 * one, 0.6 * one), Ball(0 * one, 1.0))
    return body, body.project(torch.tensor([30.0, 5.5, -4.4, 4.0], dtype=torch.float64))


@examples
@given(seed=seeds)
def test_the_tangent_cone_where_both_bounds_are_active_is_a_polyhedral_cone(seed):
    body, point = corner()
    assert float(point[0]) == 0.6
    assert float(point.norm()) == pytest.approx(1.0)
    outward = torch.zeros(SIZE, dtype=torch.float64)
    outward[0] = 1.0
    truth = Polyhedron(torch.stack([outward, point]), torch.zeros(2, dtype=torch.float64))
    direction = draw(SIZE, seed=seed)
    found = tangent_cone(body, point).project(direction)
    torch.testing.assert_close(found, truth.project(direction), rtol=0, atol=1e-9)
    rest = normal_cone(body, point).project(direction)
    torch.testing.assert_close(found + rest, direction, rtol=0, atol=1e-12)  # Moreau


@examples
@given(seed=seeds)
def test_steps_along_the_tangent_cone_leave_the_set_only_to_second_order(seed):
    body = boxed(seed)
    point = body.project(3 * draw(SIZE, seed=seed + 6))
    direction = tangent_cone(body, point).project(draw(SIZE, seed=seed + 7))
    # The next bound that is not active yet must not come in between.
    gaps = torch.cat([point - body.box.lower, body.box.upper - point])
    inside = body.ball.radius - (point - body.ball.center).norm()
    nearest = min([float(gap) for gap in [*gaps, inside] if gap > 1e-7], default=1.0)
    step = 0.1 * min(nearest, body.ball.radius, 1.0) * direction / max(1.0, float(direction.norm()))
    # A tenth of the step, a hundredth of the distance: the factor hangs on the angle of box and sphere.
    assert body.distance(point + 0.1 * step) <= 0.02 * body.distance(point + step) + 1e-7


def test_inside_everything_is_tangent_and_of_one_point_nothing():
    one = torch.ones(2, dtype=torch.float64)
    direction = draw(2, seed=0)
    inside = BoxedBall(Box(-one, one), Ball(0 * one, 0.5))
    assert torch.equal(tangent_cone(inside, 0.1 * one).project(direction), direction)
    single = BoxedBall(Box(-one, one), Ball(0 * one, 0.0))
    assert torch.equal(tangent_cone(single, 0 * one).project(direction), 0 * one)


@pytest.mark.parametrize(
    ("box", "ball", "says"),
    [
        (Box(torch.zeros(2), torch.ones(2)), Ball(torch.zeros(3), 1.0), "of size 2, like the box; got 3"),
        (
            Box(torch.ones(2), 2 * torch.ones(2)),
            Ball(torch.zeros(2), 1.0),
            "one that meets the box; got radius 1 around a center 1.41421 away",
        ),
    ],
)
def test_what_does_not_meet_is_refused(box, ball, says):
    with pytest.raises(ValueError, match=f"`ball` must be {says}"):
        BoxedBall(box, ball)
