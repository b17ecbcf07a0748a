"""Budgets: nothing leaves them, ever, and every direction kept leads inside."""

from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from solset import Problem
from solset.poisoning import Budget

POINTS = [3, 0]
norms, scopes = st.sampled_from(["l2", "linf"]), st.sampled_from(["per_point", "total"])
seeds = st.integers(0, 9_999)


def draw(*shape: int, seed: int, dtype=torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def problem(seed: int = 0, dtype=torch.float64, scale: float = 1.0) -> Problem:
    inputs = scale * draw(5, 2, 3, seed=seed, dtype=dtype)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 1)).to(dtype).eval()
    return Problem(model, nn.MSELoss(), inputs, draw(5, 1, seed=1, dtype=dtype), gradient_tol=inf)


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    norm=norms,
    scope=scopes,
    radius=st.sampled_from([0.0, 1e-9, 0.01, 1.0, 37.0]),
    size=st.sampled_from([1e-6, 1.0, 1e8]),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_nothing_leaves_the_budget_or_the_box(seed, norm, scope, radius, size, scale, dtype):
    # No tolerance: the norm as computed, and the moved features as rounded.
    own = problem(seed, dtype, scale)
    inputs, _ = own.risk().points[POINTS]
    lower = inputs - scale * draw(2, 2, 3, seed=seed + 1, dtype=dtype).abs()
    upper = inputs + scale * draw(2, 2, 3, seed=seed + 2, dtype=dtype).abs()
    feasible = Budget(POINTS, radius, norm, scope, lower, upper).at(own)
    wish = size * draw(2, 2, 3, seed=seed + 3, dtype=dtype)
    for dx in (
        feasible.project(wish),
        feasible.farthest(wish),
        feasible.random(torch.Generator().manual_seed(seed)),
    ):
        moved, _ = own.risk().move(POINTS, dx).points[POINTS]
        assert bool(((moved >= lower) & (moved <= upper)).all())
        blocks = dx.reshape(1, -1) if scope == "total" else dx.flatten(1)
        if norm == "l2":
            assert max(float(torch.linalg.vector_norm(block)) for block in blocks) <= radius
        else:
            assert float(dx.abs().max()) <= radius


@settings(max_examples=60, deadline=None)
@given(seed=seeds, norm=norms, scope=scopes)
def test_the_farthest_perturbation_beats_every_other(seed, norm, scope):
    feasible = Budget(POINTS, 0.8, norm, scope, -1.0, 1.5).at(problem(scale=0.3))
    direction = draw(2, 2, 3, seed=seed)
    best = float((direction * feasible.farthest(direction)).sum())
    for k in range(8):
        other = feasible.project(3 * draw(2, 2, 3, seed=seed + 1 + k))
        assert float((direction * other).sum()) <= best + 1e-9


@settings(max_examples=60, deadline=None)
@given(seed=seeds, norm=norms, scope=scopes)
def test_a_tangent_step_is_uphill_and_stays_feasible_to_first_order(seed, norm, scope):
    feasible = Budget(POINTS, 0.8, norm, scope, -1.0, 1.5).at(problem(scale=0.3))
    dx = feasible.farthest(draw(2, 2, 3, seed=seed))
    gradient = draw(2, 2, 3, seed=seed + 1)
    direction = feasible.tangent(dx, feasible.steepest(gradient))
    assert float((gradient * direction).sum()) >= -1e-12
    step = dx + 1e-7 * direction
    assert float((feasible.project(step) - step).norm()) <= 1e-11


def test_a_box_projection_is_a_clamp():
    own = problem()
    feasible = Budget(POINTS, 0.1, "linf").at(own)
    wish = draw(2, 2, 3, seed=5)
    assert torch.equal(feasible.project(wish), wish.clamp(-0.1, 0.1))


def test_scopes_share_or_repeat_the_radius():
    own, wish = problem(), 10 * draw(2, 2, 3, seed=5)
    each = Budget(POINTS, 1.0, scope="per_point").at(own).project(wish)
    together = Budget(POINTS, 1.0, scope="total").at(own).project(wish)
    torch.testing.assert_close(each.flatten(1).norm(dim=1), torch.ones(2, dtype=torch.float64))
    assert float(together.norm()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"radius": -1.0}, ValueError, "`radius` must be finite and not negative; got -1.0"),
        ({"radius": inf}, ValueError, "`radius` must be finite and not negative; got inf"),
        ({"radius": "1"}, TypeError, "`radius` must be a number; got '"),
        ({"norm": "l1"}, ValueError, "`norm` must be one of"),
        ({"scope": "each"}, ValueError, "`scope` must be one of"),
        ({"lower": float("nan")}, ValueError, "`lower` must be a number; got nan"),
        ({"points": [7]}, ValueError, r"`points` must be in 0\.\.4; got \[7\]"),
        ({"points": []}, ValueError, "`points` must be at least one index"),
        ({"upper": torch.ones(4)}, ValueError, r"`upper` must be a number or a tensor that broadcasts to"),
        ({"lower": 50.0}, ValueError, "`budget` must be one that some perturbation keeps; got an empty feas"),
        ({"lower": 1.0, "upper": 0.0, "radius": 99.0}, ValueError, "or lower exceeds upper"),
    ],
)
def test_bad_budgets_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        Budget(**{"points": POINTS, "radius": 1.0, **options}).at(problem())
