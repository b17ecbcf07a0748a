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
from solset.solvers import Dual

F64 = torch.float64
NEWTON = Newton(gradient_tol=1e-13)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def trained(loss: nn.Module, y: Tensor) -> Problem:
    """A linear model at the minimum of its risk with weight decay."""
    model = nn.Linear(3, 3, dtype=F64)
    x = drawn(0, 12, 3)
    start = Problem(model, loss, x, y, weight_decay=0.1, gradient_tol=float("inf"))
    weights = Newton(gradient_tol=1e-14).run(start.risk(), start.risk().outputs).weights
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
        end = NEWTON.run(change.partly(problem.risk(), share), problem.risk().outputs).weights
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


@pytest.mark.parametrize("kind", ["move", "relabel", "add", "all"])
def test_at_a_fitted_point_the_error_falls_with_the_square_of_the_change(kind):
    problem = fitted()
    risk, x = problem.risk(), drawn(6, 2, 3)
    inside, outside = risk.points[[1, 4]][1], risk.model(x).detach()
    errors = []
    for share in (0.02, 0.01):
        step = share * drawn(7, 2, 2)
        parts = {"relabel": Relabel([1, 4], inside + step), "add": Add(x, outside + step)}
        parts["move"] = Move([1, 2], share * drawn(9, 2, 3))
        parts["all"] = sum(parts.values()) + Remove([0])
        change = parts[kind]
        estimate = problem.estimate(change, optimality="interpolating").min_norm().value
        truth = retrain(problem, change, method=LevenbergMarquardt(output_tol=1e-11)).weights
        errors.append(float((estimate - truth).norm()))
    assert abs(math.log2(errors[0] / errors[1]) - 2) <= 0.1


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


def fitted_changes(problem: Problem) -> dict[str, Change]:
    """Changes at a fitted point that its outputs can follow."""
    risk, x = problem.risk(), drawn(6, 2, 3)
    inside, outside = risk.points[[1, 4]][1], risk.model(x).detach()
    step = 0.3 * drawn(7, 2, 2)
    move, relabel = Move([2], 0.2 * drawn(8, 1, 3)), Relabel([1, 4], inside + step)
    add = Add(x, outside + step)
    return {
        "move": move,
        "relabel": relabel,
        "add": add,
        "remove": Remove([0]),
        "reweight": Reweight([0, 3], [0.5, -0.5]),
        "sum": move + relabel + add + Remove([0]),
    }


class Written:
    """The rows of a fitted problem after a change, written out by autograd."""

    def __init__(self, problem: Problem, change: Change) -> None:
        risk = problem.risk()
        self.risk, self.parts = risk, getattr(change, "parts", (change,))
        gone = {i for part in self.parts if isinstance(part, Remove) for i in part.points}
        joined = [part for part in self.parts if isinstance(part, Add)]
        x, y = risk.points[range(6)]
        self.dx, after = torch.zeros_like(x), y.clone()
        for part in self.parts:
            if isinstance(part, Move):
                self.dx[part.points] = part.dx
            if isinstance(part, Relabel):
                after[part.points] = part.targets
        left = [i for i in range(6) if i not in gone]
        new = [part.inputs for part in joined]
        self.x = torch.cat([x[left], *new])
        self.dx = torch.cat([self.dx[left], *(torch.zeros_like(one) for one in new)])
        self.end = torch.cat([after[left], *(part.targets for part in joined)]).flatten()
        self.start = self.outputs(risk.weights, 0.0)

    def outputs(self, weights: Tensor, share: float) -> Tensor:
        shapes = self.risk.layout.shapes
        pieces = weights.split([shape.numel() for shape in shapes.values()])
        named = {k: part.reshape(shapes[k]) for k, part in zip(shapes, pieces, strict=True)}
        return torch.func.functional_call(self.risk.model, named, (self.x + share * self.dx,)).flatten()

    def slope(self, weights: Tensor, share: float) -> Tensor:
        rows = torch.func.jacrev(self.outputs)(weights, share)
        at = torch.tensor(share, dtype=F64)
        moved = torch.func.jacrev(self.outputs, argnums=1)(weights, at)
        return torch.linalg.pinv(rows) @ (self.end - self.start - moved)

    def followed(self, steps: int = 10) -> Tensor:
        """The end of the path by the formula of Runge and Kutta."""
        weights, h = self.risk.weights, 1 / steps
        for i in range(steps):
            t = i * h
            a = self.slope(weights, t)
            b = self.slope(weights + h / 2 * a, t + h / 2)
            c = self.slope(weights + h / 2 * b, t + h / 2)
            d = self.slope(weights + h * c, t + h)
            weights = weights + h / 6 * (a + 2 * b + 2 * c + d)
        return weights


@pytest.mark.parametrize("kind", ["relabel", "add", "remove", "reweight", "sum"])
def test_outputs_that_fit_are_followed_along_every_change(kind):
    problem = fitted()
    change, written = fitted_changes(problem)[kind], Written(problem, fitted_changes(problem)[kind])
    estimate = problem.estimate(change, optimality="interpolating").min_norm().change
    assert float((estimate - written.slope(problem.weights(), 0.0)).norm()) <= 1e-10
    course = follow_path(problem, change, max_error=1e-3, progress=False)
    assert course.is_complete
    assert float((written.outputs(course.weights, 1.0) - written.end).norm()) <= 1e-8
    truth = written.followed()
    assert float((course.weights - truth).norm()) <= 1e-3 * float((truth - problem.weights()).norm()) + 1e-14
    assert course.stations[-1].all_loss <= 1e-12


def test_a_path_of_a_decay_is_refused_where_outputs_are_kept():
    problem = fitted()
    with pytest.raises(ValueError, match="do not decay"):
        follow_path(problem, Decay(0.1), progress=False)


def test_points_that_join_add_their_rows_to_the_gram_matrix_that_is_there(monkeypatch):
    problem, prepared = fitted(), []
    change, before = fitted_changes(problem)["add"], Dual.prepare_rows
    monkeypatch.setattr(Dual, "prepare_rows", lambda *given: prepared.append(1) or before(*given))
    first = problem.estimate(change).min_norm().value
    again = Add(change.inputs + 0.1, change.targets)
    expected = Written(problem, again).slope(problem.weights(), 0.0)
    found = problem.estimate(again).min_norm()
    assert len(prepared) == 1
    assert float((found.change - expected).norm()) <= 1e-10
    assert (
        float((first - problem.weights() - Written(problem, change).slope(problem.weights(), 0.0)).norm())
        <= 1e-10
    )


def test_changed_problems_are_linearised_again_where_they_are():
    problem = labelled()
    change = Relabel([2], [0]) + Add(drawn(3, 1, 3), torch.tensor([1]))
    end = retrain(problem, change, method=NEWTON).weights
    assert float(problem.moved_to(change, end).gradient().norm()) <= 1e-12


@pytest.mark.parametrize("rare", [1.0, 30.0])
def test_a_removal_under_sample_weights_divides_by_the_weights_that_are_left(rare):
    weights = torch.linspace(0.5, 2.0, 40, dtype=F64)
    weights[[7, 23]] = rare  # points that a few evenly chosen ones do not show
    model, x, y = nn.Linear(3, 1, dtype=F64), drawn(0, 40, 3), drawn(1, 40, 1)
    problem = Problem(
        model, nn.MSELoss(), x, y, weight_decay=0.1, sample_weights=weights, gradient_tol=float("inf")
    )
    losses = (model(x) - y).square().flatten().detach()
    rest = [i for i in range(40) if i not in {2, 5}]
    expected = float((weights[rest] @ losses[rest]) / weights[rest].sum())
    changed = replace(Remove([2, 5]).applied_to(problem.risk()), weight_decay=0.0)
    assert abs(changed.value() - expected) <= 1e-12
    joined = Add(x[:1], y[:1]).applied_to(problem.risk())
    mean = weights.mean()
    expected = float((weights @ losses + mean * losses[0]) / (weights.sum() + mean))
    assert abs(replace(joined, weight_decay=0.0).value() - expected) <= 1e-12


@pytest.mark.parametrize("label", [-100, 2])
def test_a_label_that_does_not_count_is_a_removal(label):
    problem = trained(
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.0], dtype=F64)), torch.arange(12) % 2
    )
    steps = [
        problem.estimate(change, order="newton").min_norm().value
        for change in (Relabel([3, 4], [label, label]), Remove([3, 4]))
    ]
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-12, atol=1e-12)
    joined = problem.estimate(Add(drawn(3, 1, 3), torch.tensor([label]))).min_norm()
    torch.testing.assert_close(joined.value, problem.weights(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["labels", "reweight", "remove", "decay"])
def test_the_stability_of_any_change_is_the_length_of_its_estimate(name):
    problem, change = labelled(), CHANGES[name]
    stability = training_stability(problem, change)
    length = float((problem.estimate(change).min_norm().value - problem.weights()).norm())
    assert abs(stability.distance - length) <= 1e-12
    assert "per unit of the change" in repr(stability)
