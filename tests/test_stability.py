"""Training stability: the distance to the estimated set is the norm of ``A⁺CΔx``, however it is computed."""

import math

import pytest
import torch
from torch import Tensor

from solset import Move, Problem, training_stability
from solset.errors import SolsetWarning
from solset.paper._toy import toy_problem

POINTS = [4, 1]


def draw(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_rows(problem) -> tuple[Tensor, Tensor]:
    """``J`` and the columns of ``J_x`` that belong to the moved points, by torch alone."""
    risk = problem.risk()
    inputs, _ = risk.points[range(problem.point_count)]

    def outputs(w: Tensor, moved: Tensor) -> Tensor:
        x = inputs.index_copy(0, torch.tensor(POINTS), moved)
        return risk.forward(risk.layout.split(w), x).reshape(-1)

    J, J_x = torch.func.jacrev(outputs, argnums=(0, 1))(risk.weights, inputs[POINTS])
    return J, J_x.flatten(1)


def test_distance_is_the_norm_of_the_minimum_norm_element(fitted):
    problem, dx = fitted.problem(), draw(2, 3)
    found = training_stability(problem, Move(POINTS, dx))
    change = problem.derivative(points=POINTS)(dx).min_norm().value
    assert found.optimality == "interpolating"
    assert found.distance == pytest.approx(float(change.norm()), rel=1e-12)
    torch.testing.assert_close(found.solution.value - problem.weights(), change, rtol=0, atol=1e-12)


def test_distance_is_that_of_dense_linear_algebra(fitted):
    problem, dx = fitted.problem(), draw(2, 3)
    J, J_x = dense_rows(problem)
    expected = (torch.linalg.pinv(J) @ (J_x @ dx.reshape(-1))).norm()
    assert training_stability(problem, Move(POINTS, dx)).distance == pytest.approx(float(expected), rel=1e-9)


def test_at_an_isolated_minimum_it_is_the_length_of_the_only_answer(logistic):
    case, weight_decay = logistic
    problem, dx = case.problem(weight_decay=weight_decay), draw(2, 3)
    found = training_stability(problem, Move(POINTS, dx), samples=3, generator=torch.Generator())
    assert found.optimality == "stationary"
    for sample in found.samples:
        torch.testing.assert_close(sample.value, found.solution.value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("radius", [None, 1e-3, 10.0])
def test_no_sample_is_nearer_than_the_distance(fitted, radius):
    problem, dx = fitted.problem(), draw(2, 3)
    found = training_stability(
        problem, Move(POINTS, dx), samples=20, radius=radius, generator=torch.Generator().manual_seed(0)
    )
    lengths = [float((sample.value - problem.weights()).norm()) for sample in found.samples]
    assert len(found.samples) == 20
    assert found.sampled_distance == pytest.approx(min(lengths), rel=1e-12)
    assert min(lengths) >= found.distance


def test_samples_satisfy_the_set_equation(fitted):
    problem, dx = fitted.problem(), draw(2, 3)
    J, J_x = dense_rows(problem)
    generator = torch.Generator().manual_seed(0)
    found = training_stability(problem, Move(POINTS, dx), samples=5, radius=2.0, generator=generator)
    for sample in found.samples:
        error = J @ (sample.value - problem.weights()) + J_x @ dx.reshape(-1)
        assert error.norm() <= 1e-10 * (J_x @ dx.reshape(-1)).norm()
        assert sample.residual <= 1e-10


def test_samples_are_those_of_the_generator(fitted):
    def first(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return (
            training_stability(fitted.problem(), Move(None, draw(6, 3)), samples=1, generator=generator)
            .samples[0]
            .value
        )

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_elements_are_weights_that_a_model_can_take(fitted):
    found = training_stability(
        fitted.problem(), Move(None, draw(6, 3)), samples=1, generator=torch.Generator()
    )
    for solution in (found.solution, *found.samples):
        changed = solution.apply_to(fitted.model)
        parts = [value.detach().reshape(-1) for value in changed.parameters()]
        assert torch.equal(torch.cat(parts), solution.value)


def test_an_empty_set_is_reported_and_represented_by_its_least_squares_element():
    # Two points constrain one product w₁w₂: J = (1, 2)ᵀ(w₂, w₁), moving the first alone asks for 2δ(1, 0).
    problem, _ = toy_problem()
    delta = 0.1
    dx = torch.tensor([[delta]], dtype=torch.float64)
    found = training_stability(problem, Move([0], dx), optimality="interpolating")
    assert found.is_empty
    assert found.status == "inconsistent"
    assert found.solution.residual == pytest.approx(2 / math.sqrt(5), abs=1e-12)  # the part along (2, -1)
    assert found.distance == pytest.approx(2 * delta / 5 / math.sqrt(5), abs=1e-12)
    assert not training_stability(problem, Move([0], dx), optimality="stationary").is_empty


def test_nothing_moved_is_nothing_changed(fitted):
    problem, dx = fitted.problem(), torch.zeros(6, 3, dtype=torch.float64)
    found = training_stability(problem, Move(None, dx), samples=3, generator=torch.Generator())
    assert (found.distance, found.perturbation, found.ratio) == (0.0, 0.0, 0.0)
    assert torch.equal(found.solution.value, problem.weights())
    assert not found.is_empty
    assert found.sampled_distance is not None
    assert 0 < found.sampled_distance <= 1.0  # of the stated ball of radius 1


def test_the_ratio_is_free_of_the_size_of_the_step(fitted):
    problem, dx = fitted.problem(), draw(6, 3)
    one, ten = (training_stability(problem, Move(None, t * dx)) for t in (1e-3, 1e-2))
    assert one.ratio == pytest.approx(one.distance / float(1e-3 * dx.norm()), rel=1e-12)
    assert ten.ratio == pytest.approx(one.ratio, rel=1e-9)
    assert ten.distance == pytest.approx(10 * one.distance, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"samples": 2}, r"`generator` must be a torch.Generator when samples are asked for; got None"),
        ({"samples": -1, "generator": torch.Generator()}, r"`samples` must be at least 0; got -1"),
        (
            {"samples": 1, "radius": 0.0, "generator": torch.Generator()},
            r"`radius` must be positive and finite; got 0",
        ),
        ({"points": [6]}, r"`points` must be in 0\.\.5; got \[6\]"),
    ],
)
def test_impossible_wishes_are_refused(fitted, options, says):
    points = options.pop("points", range(6))
    dx = torch.zeros(len(points), 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=says):
        training_stability(fitted.problem(), Move(points, dx), **options)


def test_without_samples_there_is_no_sampled_distance(fitted):
    found = training_stability(fitted.problem(), Move(None, draw(6, 3)))
    assert found.sampled_distance is None
    assert found.samples == ()


def test_a_stability_prints_on_one_line_and_changes_a_copy_of_the_model(fitted):
    problem = fitted.problem()
    stability = training_stability(problem, Move(POINTS, draw(2, 3)))
    assert repr(stability) == (
        f"Stability(distance {stability.distance:.4g}, {stability.ratio:.3g} per input unit, converged)"
    )
    assert torch.equal(stability.weights, stability.solution.value)
    changed = stability.apply_to(problem.risk().model)
    joined = torch.cat([weights.detach().flatten() for weights in changed.parameters()])
    assert torch.equal(joined, stability.weights)


def test_a_distance_beyond_the_weights_is_told(fitted):
    problem = fitted.problem()
    change = Move(POINTS, 1e3 * draw(2, 3))
    with pytest.warns(SolsetWarning, match="larger than the weights"):
        stability = training_stability(problem, change)
    assert "larger than the weights" in stability.message


def test_a_short_distance_keeps_its_digits_in_single_precision():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    problem = Problem(model, torch.nn.MSELoss(), torch.ones(1, 1), torch.full((1, 1), 2.0))  # w = 2 / x
    short = torch.full((1, 1), 3.3e-7)
    assert training_stability(problem, Move(None, short)).distance == pytest.approx(6.6e-7, rel=1e-5)
