"""A problem at moved data and other weights is the one that a user would build there."""

import pytest
import torch

from solset import Move, Problem
from solset.operators import Hessian

POINTS = [4, 1]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_is_the_problem_built_there(fitted):
    problem, dx = fitted.problem(batch_size=4), 0.1 * draw(2, 3)
    weights = problem.weights() + 0.01 * draw(74, seed=1)
    moved = problem.moved_to(Move(POINTS, dx), weights)
    inputs = fitted.inputs.index_add(0, torch.tensor(POINTS), dx)
    built = Problem(fitted.model, fitted.loss, inputs, fitted.targets, gradient_tol=float("inf"))
    at = built.risk().at(weights)
    assert torch.equal(moved.weights(), weights)
    torch.testing.assert_close(moved.gradient(), at.gradient(), rtol=0, atol=1e-14)
    torch.testing.assert_close(Hessian(moved.risk()).to_dense(), Hessian(at).to_dense(), rtol=0, atol=1e-12)
    assert moved.point_count == problem.point_count
    assert moved.fit > problem.fit  # found anew, off the set
    assert repr(moved).startswith("Problem(Sequential, n=6, p=74, c=2")


def test_keeps_nothing_of_the_linearisations_before(fitted):
    problem, dx = fitted.problem(), 0.1 * draw(2, 3)
    problem.derivative(points=POINTS)
    weights = problem.estimate(Move(POINTS, dx)).min_norm().value
    moved = problem.moved_to(Move(POINTS, dx), weights)
    step = 1e-3 * draw(2, 3, seed=2)
    found = moved.derivative(points=POINTS, optimality="stationary")(step).min_norm()
    own = problem.derivative(points=POINTS, optimality="stationary")(step).min_norm()
    assert float((found.value - own.value).norm()) > 1e-3 * float(own.value.norm())
    assert torch.equal(problem.weights(), fitted.problem().weights())


def test_refuses_what_does_not_fit(fitted):
    problem = fitted.problem()
    with pytest.raises(ValueError, match=r"`dx` must be of shape \(2, 3\)"):
        problem.moved_to(Move(POINTS, draw(3, 3)), problem.weights())
    with pytest.raises(ValueError, match=r"`weights` must be of shape \(74,\)"):
        problem.moved_to(Move(POINTS, draw(2, 3)), draw(3))
