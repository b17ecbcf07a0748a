"""Changes that mean nothing are refused by name, before anything is computed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from solset import Add, Decay, Move, Problem, Relabel, Remove, Reweight, SolsetWarning, Training, WholeBatch
from solset.changes import Change

F64 = torch.float64
X = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 3


def classes(decay: float = 0.1, loss: nn.Module | None = None) -> Problem:
    torch.manual_seed(0)
    model = nn.Linear(3, 3, dtype=F64)
    options = {"weight_decay": decay, "gradient_tol": float("inf")}
    return Problem(model, loss or nn.CrossEntropyLoss(), X, LABELS, **options)


def regression(loss: object) -> Problem:
    torch.manual_seed(0)
    y = torch.randn(6, 1, dtype=F64)
    return Problem(nn.Linear(3, 1, dtype=F64), loss, X, y, weight_decay=0.1, gradient_tol=float("inf"))


NEW = torch.zeros(1, 3, dtype=F64)
ONE = torch.tensor([1])
BAD: list[tuple[Change, type[Exception], str]] = [
    (Remove(range(6)), ValueError, "`points` must be fewer than all"),
    (Reweight(range(6), -1.0), ValueError, "`points` must be fewer than all"),
    (Reweight(None, -1.0), ValueError, "`points` must be fewer than all"),
    (Reweight([1], -1.5), ValueError, "`factors` must be finite and at least -1"),
    (Reweight([1], float("nan")), ValueError, "`factors` must be finite"),
    (Reweight([1], [0.1, 0.2]), ValueError, "`factors` must be one number, or 1"),
    (Reweight([1]), TypeError, "`factors` must be numbers"),
    (Reweight([9], 0.5), ValueError, r"`points` must be in 0\.\.5"),
    (Relabel([1], [3]), ValueError, "`targets` must be such that the loss takes them"),
    (Relabel([1], [-1]), ValueError, "`targets` must be such that the loss takes them"),
    (Relabel([1], [0.5]), TypeError, "`targets` must be torch.int64"),
    (Relabel([1], [[1]]), ValueError, "`targets` must be of shape"),
    (Relabel([1], [0, 1]), ValueError, "`targets` must be of shape"),
    (Relabel([1], "cat"), TypeError, "`targets` must be numbers"),
    (Relabel([1]), TypeError, "`targets` must be numbers"),
    (Add(torch.zeros(1, 4, dtype=F64), ONE), ValueError, "`inputs` must be of shape"),
    (Add(torch.zeros(1, 3), ONE), ValueError, "`inputs` must be torch.float64"),
    (Add(NEW, torch.tensor([3])), ValueError, "`targets` must be such that the loss takes them"),
    (Add(NEW, torch.tensor([0.5])), TypeError, "`targets` must be torch.int64"),
    (Add(NEW, torch.tensor([1, 2])), ValueError, "`targets` must be one per input"),
    (Add(torch.zeros(0, 3, dtype=F64), ONE[:0]), ValueError, "`inputs` must be at least one point"),
    (Add(torch.full((1, 3), float("nan"), dtype=F64), ONE), ValueError, "`inputs` must be finite"),
    (Move([1]), TypeError, "`dx` must be a tensor"),
    (Decay(-0.2), ValueError, "`change` must be such that no weight decay is negative"),
    (Decay({"nothing": 0.1}), ValueError, "`change` must be patterns that match a weight"),
    (Remove([1]) + Remove([1]), ValueError, "Remove and Remove of points"),
    (Remove([1]) + Reweight([1], 0.5), ValueError, "Reweight and Remove of points"),
    (Remove([1]) + Move([1], NEW), ValueError, "Move and Remove of points"),
    (Relabel([1], [0]) + Relabel([1], [2]), ValueError, "Relabel and Relabel of points"),
]


@pytest.mark.parametrize(("change", "error", "words"), BAD, ids=lambda part: repr(part)[:60])
def test_a_change_that_means_nothing_is_refused(change, error, words):
    problem = classes()
    with pytest.raises(error, match=words):
        problem.estimate(change)
    with pytest.raises(error, match=words):
        change.applied_to(problem.risk())


def test_decay_needs_a_problem_with_decay():
    with pytest.raises(ValueError, match="`change` must be a change of something else"):
        classes(decay=0.0).estimate(Decay(0.1))


@pytest.mark.parametrize("change", [0.5, None, torch.zeros(1)])
def test_only_changes_add_up(change):
    with pytest.raises(TypeError, match="`change` must be a change of the training data"):
        Remove([1]) + change


def test_two_additions_of_other_shapes_do_not_add_up():
    with pytest.raises(ValueError, match="`change` must be one Add in a sum"):
        Add(NEW, ONE) + Add(torch.zeros(1, 4, dtype=F64), ONE)


def test_a_class_that_loses_all_its_points_is_flagged_without_decay_only():
    for change in (Remove([2, 5]), Relabel([2, 5], [0, 1]), Reweight([2, 5], -1.0)):
        with pytest.warns(SolsetWarning, match="no point with target 2 is left"):
            classes(decay=0.0).estimate(change, order="first")
        classes().estimate(change, order="first")
    Add(NEW, torch.tensor([2]))
    classes(decay=0.0).estimate(Remove([2, 5]) + Add(NEW, torch.tensor([2])), order="first")


def rounded(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets.round()).square().mean()


def detached(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets.detach()).square().mean()


def as_labels(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(torch.cat([outputs, -outputs], dim=1), (targets[:, 0] > 0).long())


def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
    weights = 1 + targets.square()
    return (weights * (outputs - targets).square()).sum() / weights.sum()


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (detached, "`targets` must be targets in which the loss has a derivative"),
        (weighted, "`targets` must be numbers on which the weights"),
    ],
)
def test_targets_that_the_loss_cannot_differentiate_are_refused(loss, words):
    with pytest.raises(ValueError, match=words):
        regression(loss).estimate(Relabel([1], torch.tensor([[0.7]], dtype=F64)))


def test_a_loss_of_all_outputs_at_once_has_no_points_to_remove():
    def pairs(outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs - outputs.T) - (targets - targets.T)).square().mean()

    problem = regression(WholeBatch(pairs))
    y = torch.zeros(6, 1, dtype=F64)
    for change in (
        Remove([1]),
        Reweight([1], 0.5),
        Reweight(None, 0.5),
        Relabel([1], y[:1]),
        Add(X[:1], y[:1]),
    ):
        with pytest.raises(ValueError, match=r"all .*at once"):
            problem.estimate(change, optimality="stationary")


def test_an_autoencoder_has_no_targets_of_its_own():
    model = nn.Linear(3, 3, dtype=F64)
    problem = Problem(
        model, nn.MSELoss(), X, X, target_moves=True, weight_decay=0.1, gradient_tol=float("inf")
    )
    with pytest.raises(ValueError, match="each is its own input"):
        problem.estimate(Relabel([1], X[:1]))


def test_changes_say_in_one_line_what_they_are():
    assert repr(Reweight([1, 2], 0.5)) == "Reweight(points 1, 2; factors 0.5)"
    assert repr(Relabel([1], torch.zeros(1, 9))) == "Relabel(points 1; to targets of shape (1, 9))"
    assert repr(Move([0], NEW) + Move([0], NEW)) == "Move(points 0; dx of shape (1, 3))"
    assert repr(Remove([1], divisor="before")) == 'Remove(points 1, divisor="before")'


@pytest.mark.parametrize("points", [7, "a", slice(0, 2), [[1]], [1.5], torch.tensor(3), []])
def test_changes_of_no_points_are_printed_and_refused_by_name(points: Any):
    assert repr(Remove(points)).startswith("Remove(points ")
    with pytest.raises((TypeError, ValueError), match="`points` must be"):
        classes().estimate(Remove(points))


def test_factors_that_are_no_numbers_are_printed():
    assert repr(Reweight([1], "a")) == "Reweight(points 1; factors 'a')"  # pyright: ignore[reportArgumentType]


def test_moves_and_factors_of_the_same_point_add_up():
    problem = classes()
    twice = Move([0, 1], X[:2]) + Move([1, 2], X[1:3])
    assert twice.chosen(problem.risk()) == [0, 1, 2]
    torch.testing.assert_close(twice.dx, torch.stack([X[0], 2 * X[1], X[2]]))
    both = Reweight([1], 0.5) + Reweight([1, 2], [0.25, -0.5])
    torch.testing.assert_close(both.direction(problem.risk()), torch.tensor([0.75, -0.5], dtype=F64))


def test_a_training_loses_a_point_only_once():
    change = Remove([1]) + Remove([1])
    with pytest.raises(ValueError, match="no more than the whole of a point"):
        change.of_training(6, lambda: pytest.fail("no feature moves"))


class Certain(nn.Module):
    """Probabilities of two classes; points whose first feature is 9 are of the first for sure."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2, dtype=F64)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        open_to_both = (inputs[:, :1] != 9).to(F64)
        second = torch.softmax(self.layer(inputs), dim=1)[:, 1:] * open_to_both
        return torch.cat([1 - second, second], dim=1)


def log_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -torch.log(outputs.gather(1, labels[:, None])).mean()


def test_a_loss_that_is_infinite_at_a_single_point_is_refused_at_every_door():
    x, labels = X[:6].clone(), torch.tensor([0, 0, 1, 0, 1, 1])
    x[1, 0] = 9.0
    with pytest.raises(ValueError, match=r"`loss` must be finite.*points \[1\]"):
        Problem(Certain(), log_loss, x, labels.index_fill(0, torch.tensor([1]), 1), weight_decay=0.1)
    problem = Problem(Certain(), log_loss, x, labels, weight_decay=0.1, gradient_tol=float("inf"))
    for change in (Relabel([1], [1]), Add(x[1:2], torch.tensor([1]))):
        for order in ("first", "newton"):
            with pytest.raises(ValueError, match="`targets` must be such that the loss is finite"):
                problem.estimate(change, order=order)
    run = Training(Certain, log_loss, x, labels, optimizer=torch.optim.AdamW, batch_size=3).run()
    for change in (Relabel([1], [1]), Add(x[1:2], torch.tensor([1]))):
        for call in (run.estimate, run.retrain):
            with pytest.raises(
                ValueError, match="`targets` must be such that the loss takes them.*not finite"
            ):
                call(change)
