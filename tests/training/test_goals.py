"""A run takes the goals of a problem, one or a block, as functions of its trained module."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from solset import Add, Move, Relabel, Remove, Training
from solset.goals import (
    Goal,
    HeldOutLoss,
    Margin,
    ModelFunction,
    PointLosses,
    Prediction,
    SmoothedAUROC,
    TargetWeights,
    WeightFunction,
)

GENERATOR = torch.Generator().manual_seed(3)
X, Y = torch.randn(12, 4, generator=GENERATOR, dtype=torch.float64), torch.arange(12) % 3
TESTS = torch.randn(3, 4, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1])
CROSS_ENTROPY = nn.functional.cross_entropy


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()


@pytest.fixture(scope="module")
def run():
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return Training(net, nn.CrossEntropyLoss(), X, Y, optimizer=sgd, epochs=2, batch_size=4).run()


def flat(model: nn.Module) -> Tensor:
    return torch.cat([value.reshape(-1) for value in model.parameters()])


def auroc(model: nn.Module) -> Tensor:
    scores = model(TESTS)[:, 1]
    return torch.sigmoid(scores[:1, None] - scores[None, 1:]).mean()


def margins(model: nn.Module) -> Tensor:
    outputs = model(TESTS)
    chosen = outputs.gather(1, LABELS[:, None])
    others = outputs.masked_fill(nn.functional.one_hot(LABELS, 3).bool(), -torch.inf)
    return chosen[:, 0] - others.logsumexp(1)


IS_FIRST = torch.tensor([True, False, False])
GOALS = {
    "held-out loss": (HeldOutLoss(TESTS, LABELS), lambda m: CROSS_ENTROPY(m(TESTS), LABELS)),
    "each loss": (PointLosses(TESTS, LABELS), lambda m: CROSS_ENTROPY(m(TESTS), LABELS, reduction="none")),
    "prediction": (Prediction(TESTS[:2], output=2), lambda m: m(TESTS[:2])[:, 2]),
    "margin": (Margin(TESTS, LABELS), margins),
    "AUROC": (SmoothedAUROC(TESTS, IS_FIRST, output=1), auroc),
    "weights": (WeightFunction(lambda w: w.square().sum()), lambda m: flat(m).square().sum()),
    "distance": (TargetWeights(torch.ones(53, dtype=torch.float64)), lambda m: (flat(m) - 1).norm()),
    "model": (ModelFunction(lambda m: m(TESTS).sum()), lambda m: m(TESTS).sum()),
}


@pytest.mark.parametrize(("goal", "function"), GOALS.values(), ids=GOALS)
def test_a_goal_is_the_function_of_the_module_that_it_stands_for(run, goal, function):
    worth, expected = run.attribute(goal), run.attribute(function)
    torch.testing.assert_close(torch.as_tensor(worth.value), torch.as_tensor(expected.value))
    for part in ("weights", "features", "initial"):
        torch.testing.assert_close(getattr(worth, part), getattr(expected, part), rtol=1e-9, atol=1e-13)


def test_several_goals_are_a_block_from_one_replay(run):
    loss, each = HeldOutLoss(TESTS, LABELS), PointLosses(TESTS, LABELS)
    block = run.attribute([loss, each, lambda model: model(TESTS)[0, 0]], names=list("abcdefghijkl"))
    assert block.weights.shape == (5, 12)
    assert block.features.shape == (5, 12, 4)
    torch.testing.assert_close(block.weights[0], run.attribute(loss).weights)
    torch.testing.assert_close(block.features[1:4].mean(0), block.features[0])
    assert block.rows()[12]["name"] == "a"
    assert run.attribute(each, features=False).features is None


def test_goals_take_dicts_and_objects_with_logits():
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.head(self.words(ids).mean(1)))

    ids, labels = {"ids": torch.arange(24).reshape(8, 3) % 9}, torch.arange(8) % 2
    recipe = {"optimizer": partial(torch.optim.SGD, lr=0.1), "batch_size": 4, "outputs": "logits"}
    run = Training(lambda: Reader().double(), nn.CrossEntropyLoss(), ids, labels, **recipe).run()
    worth = run.attribute(HeldOutLoss({"ids": ids["ids"][:2]}, labels[:2]))
    expected = run.attribute(lambda model: CROSS_ENTROPY(model(ids["ids"][:2]).logits, labels[:2]))
    torch.testing.assert_close(worth.weights, expected.weights)


@pytest.mark.parametrize(
    ("goal", "error", "words"),
    [
        (HeldOutLoss(TESTS[:, :3], LABELS), ValueError, "`inputs`.*shape"),
        (HeldOutLoss(TESTS, LABELS[:2]), ValueError, "`targets`.*one per input"),
        (Prediction(TESTS), ValueError, "`output`.*one of the 3 outputs"),
        (lambda model: model(TESTS[:, :3]).sum(), TypeError, "`goal`.*RuntimeError"),
        ([], ValueError, "`goal`.*at least one"),
        ([1], TypeError, "`goal` must be"),
        (nn.Linear(3, 1), TypeError, "`goal` must be"),
    ],
    ids=["width", "count", "output", "own error", "none", "number", "module"],
)
def test_a_goal_that_does_not_fit_is_refused_by_name(run, goal, error, words):
    with pytest.raises(error, match=words):
        run.attribute(goal)


class TrainingLoss(Goal):
    """The mean loss of the training points themselves, as a user may write it."""

    sign = -1.0

    def describe(self) -> str:
        return "training loss"

    def quantity(self, risk, weights: Tensor) -> Tensor:
        batch = risk.points[range(len(risk.points))]
        return risk.batch_value(risk.layout.split(weights), *batch).reshape(())

    def check(self, risk) -> None:
        pass

    def identity(self) -> dict[str, str]:
        return {"kind": "TrainingLoss"}


FAR = torch.full((1, 4), 3.0, dtype=torch.float64)
CHANGED = {  # change; inputs, targets and factors after it
    "moved": (Move([1], FAR), torch.cat([X[:1], X[1:2] + FAR, X[2:]]), Y, torch.ones(12)),
    "relabelled": (Relabel([0], [2]), X, torch.cat([torch.tensor([2]), Y[1:]]), torch.ones(12)),
    "removed": (Remove([0, 5]), X, Y, torch.tensor([0.0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1])),
    "joined": (Add(TESTS, LABELS), torch.cat([X, TESTS]), torch.cat([Y, LABELS]), torch.ones(15)),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_goal_on_training_points_sees_them_as_they_were_trained_on(case):
    change, x, y, factors = CHANGED[case]

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    sgd = partial(torch.optim.SGD, lr=0.1)
    run = Training(make, nn.CrossEntropyLoss(), X, Y, optimizer=sgd, batch_size=4).on(change).run()
    losses = CROSS_ENTROPY(run.model(x), y, reduction="none").detach()
    assert run.value(TrainingLoss()) == pytest.approx(float(factors.double() @ losses / factors.sum()))


def test_goals_are_printed_in_one_line():
    many = torch.zeros(1000, 2)
    assert repr(HeldOutLoss(many, many)) == "HeldOutLoss(loss on 1000 held-out points)"
    assert repr(PointLosses(many, many)) == "PointLosses(loss of each held-out point)"


def test_a_held_out_loss_with_class_weights_asks_for_a_plain_one():
    x, y = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
    sgd = partial(torch.optim.SGD, lr=0.1)
    run = Training(partial(nn.Linear, 2, 2), weighted, x, y, optimizer=sgd, epochs=1, batch_size=8).run()
    with pytest.raises(ValueError, match="pass a `loss=` that is a mean over points"):
        run.attribute(HeldOutLoss(x, y))
    assert run.attribute(HeldOutLoss(x, y, loss=nn.CrossEntropyLoss())).features is not None
