"""Every kind of change against problems that are really solved again, and along paths."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from solset import (
    Add,
    Decay,
    Move,
    Problem,
    Relabel,
    Remove,
    Reweight,
    follow_path,
    retrain,
    training_stability,
)
from solset.changes import Change
from solset.retraining import LevenbergMarquardt, Newton, follow_retraining

F64 = torch.float64
NEWTON = Newton(gradient_tol=1e-13)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def trained(loss: nn.Module, y: Tensor) -> Problem:
    """A linear model at the minimum of its risk with weight decay."""
    model = nn.Linear(3, 3, dtype=F64)
    x = drawn(0, 12, 3)
    start = Problem(model, loss, x, y, weight_decay=0.1, gradient_tol=float("inf"))
    weights = Newton(gradient_tol=1e-14).run(start.risk(), start.risk().outputs()).weights
    for part, value in zip(model.parameters(), start.risk().layout.split(weights), strict=True):
        part.data = value.clone()
    return Problem(model, loss, x, y, weight_decay=0.1)


def labelled() -> Problem:
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=F64)
    return trained(nn.CrossEntropyLoss(weight=weights), torch.arange(12) % 3)


def numbered() -> Problem:
    return trained(nn.CrossEntropyLoss(), drawn(1, 12, 3).softmax(dim=1))


CHANGES: dict[str, Change] = {
    "move": Move([2, 5], 0.3 * drawn(2, 2, 3)),
    "labels": Relabel([2, 5], [1, 0]),
    "reweight": Reweight([2, 5], [0.4, -0.6]),
    "remove": Remove([2, 5]),
    "remove, divisor before": Remove([2, 5], divisor="before"),
    "add": Add(drawn(3, 2, 3), torch.tensor([1, 2])),
    "decay": Decay(0.03),
    "decay of one group": Decay({"bias": 0.05}),
    "sum": Remove([2]) + Relabel([5], [0]) + Add(drawn(3, 1, 3), torch.tensor([1])) + Decay(0.02),
}


@pytest.mark.parametrize("name", [*CHANGES, "soft labels"])
def test_the_first_order_error_falls_with_the_square_of_the_share(name):
    problem = numbered() if name == "soft labels" else labelled()
    change = CHANGES.get(name, Relabel([2, 5], drawn(4, 2, 3).softmax(dim=1)))
    weights = problem.weights()
    slope = problem.estimate(change, order="first").min_norm().value - weights
    errors = []
    for share in (0.04, 0.02):
        end = NEWTON.run(change.partly(problem.risk(), share), problem.risk().outputs()).weights
        errors.append(float((end - weights - share * slope).norm()))
    assert abs(math.log2(errors[0] / errors[1]) - 2) <= 0.1


@pytest.mark.parametrize("name", CHANGES)
def test_a_path_ends_where_retraining_ends(name):
    problem, change = labelled(), CHANGES[name]
    course = follow_path(problem, change, max_error=1e-5, progress=False)
    truth = retrain(problem, change, method=NEWTON).weights
    assert float((course.weights - truth).norm()) <= 1e-4 * float((truth - problem.weights()).norm())


@pytest.mark.parametrize("name", ["remove", "remove, divisor before", "add", "sum"])
def test_a_newton_step_is_nearer_to_the_truth_than_first_order(name):
    problem, change = labelled(), CHANGES[name]
    if name == "sum":  # a change of decay has no Newton step
        change = Remove([2, 5]) + Add(drawn(3, 1, 3), torch.tensor([1]))
    truth = retrain(problem, change, method=NEWTON).weights
    errors = [
        float((problem.estimate(change, order=order).min_norm().value - truth).norm())
        for order in ("first", None)
    ]
    assert errors[1] < 0.7 * errors[0]


def fitted() -> Problem:
    model = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 2)).to(F64)
    for seed, part in enumerate(model.parameters()):
        part.data = 0.7 * drawn(10 + seed, *part.shape)
    x = drawn(5, 6, 3)
    return Problem(model, nn.MSELoss(), x, model(x).detach())


@pytest.mark.parametrize("kind", ["relabel", "add", "both"])
def test_at_a_fitted_point_the_error_falls_with_the_square_of_the_change(kind):
    problem = fitted()
    risk, x = problem.risk(), drawn(6, 2, 3)
    inside, outside = risk.points[[1, 4]][1], risk.model(x).detach()
    errors = []
    for share in (0.02, 0.01):
        step = share * drawn(7, 2, 2)
        parts = {"relabel": Relabel([1, 4], inside + step), "add": Add(x, outside + step)}
        change = parts["relabel"] + parts["add"] if kind == "both" else parts[kind]
        estimate = problem.estimate(change, optimality="interpolating").min_norm().value
        truth = retrain(problem, change, method=LevenbergMarquardt(output_tol=1e-12)).weights
        errors.append(float((estimate - truth).norm()))
    assert abs(math.log2(errors[0] / errors[1]) - 2) <= 0.15


def test_retraining_of_a_fitted_problem_without_points_stays_where_it_is():
    problem = fitted()
    end = retrain(problem, Remove([0]), method=LevenbergMarquardt())
    assert float(end.change.norm()) <= 1e-14


@pytest.mark.parametrize("name", ["labels", "remove", "add", "decay", "sum"])
def test_a_followed_retraining_is_one_on_the_changed_data(name):
    problem, change = labelled(), CHANGES[name]
    course = follow_retraining(problem, change, steps=20, learning_rate=0.1, progress=False)
    risk = change.applied_to(problem.risk())
    for _ in range(20):
        risk = risk.at(risk.weights - 0.1 * risk.gradient())
    moved = float((risk.weights - problem.weights()).norm())
    assert float((course.weights - risk.weights).norm()) <= 0.05 * moved
    assert math.isfinite(course.stations[-1].moved_loss)


def test_two_labels_at_one_checkpoint_are_two_paths(tmp_path):
    problem, file = labelled(), tmp_path / "path.safetensors"
    follow_path(problem, Relabel([2], [0]), checkpoint=file, progress=False)
    with pytest.raises(ValueError, match="data"):
        follow_path(problem, Relabel([2], [1]), checkpoint=file, progress=False)


def test_where_outputs_are_kept_only_moves_are_followed():
    problem = fitted()
    change = Relabel([1], problem.risk().points[[1]][1] + 0.1)
    with pytest.raises(ValueError, match="`change` must be a move, where outputs are kept"):
        follow_path(problem, change, progress=False)


def test_changed_problems_are_linearised_again_where_they_are():
    problem = labelled()
    change = Relabel([2], [0]) + Add(drawn(3, 1, 3), torch.tensor([1]))
    end = retrain(problem, change, method=NEWTON).weights
    assert float(problem.moved_to(change, end).gradient().norm()) <= 1e-12


def test_a_removal_under_sample_weights_divides_by_the_weights_that_are_left():
    weights = torch.linspace(0.5, 2.0, 12, dtype=F64)
    model, x, y = nn.Linear(3, 1, dtype=F64), drawn(0, 12, 3), drawn(1, 12, 1)
    problem = Problem(
        model, nn.MSELoss(), x, y, weight_decay=0.1, sample_weights=weights, gradient_tol=float("inf")
    )
    losses = (model(x) - y).square().flatten().detach()
    rest = [i for i in range(12) if i not in {2, 5}]
    expected = float((weights[rest] @ losses[rest]) / weights[rest].sum())
    changed = replace(Remove([2, 5]).applied_to(problem.risk()), weight_decay=0.0)
    assert abs(changed.value() - expected) <= 1e-12
    joined = Add(x[:1], y[:1]).applied_to(problem.risk())
    mean = weights.mean()
    expected = float((weights @ losses + mean * losses[0]) / (weights.sum() + mean))
    assert abs(replace(joined, weight_decay=0.0).value() - expected) <= 1e-12


@pytest.mark.parametrize("name", ["labels", "reweight", "remove", "decay"])
def test_the_stability_of_any_change_is_the_length_of_its_estimate(name):
    problem, change = labelled(), CHANGES[name]
    stability = training_stability(problem, change)
    length = float((problem.estimate(change).min_norm().value - problem.weights()).norm())
    assert abs(stability.distance - length) <= 1e-12
    assert "per unit of the change" in repr(stability)
