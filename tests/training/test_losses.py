"""Losses that weigh classes, ignore labels or sum points: factors and labels are those of real reruns."""

from functools import partial

import pytest
import torch
from tests.training.test_kinds import LABELS, NEW, NUMBERS, WEIGHTED, X, central, recipe, relative
from torch import Tensor, nn

from solset import Add, Relabel, Remove, Reweight, Training
from solset.training import Run
from solset.training._losses import LossByPoints, by_points

WEIGHTS = WEIGHTED.weight
SOME = torch.where(torch.arange(14) % 5 == 4, -100, LABELS)  # ignored labels, also in a later batch


def by_hand(outputs: Tensor, targets: Tensor) -> Tensor:
    """A weighted mean with no option that tells its weights."""
    losses = nn.functional.nll_loss(outputs.log_softmax(1), targets, reduction="none")
    return (WEIGHTS[targets] * losses).sum() / WEIGHTS[targets].sum()


def total(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum()


LOSSES = {
    "class weights": (WEIGHTED, LABELS),
    "equal class weights": (nn.CrossEntropyLoss(weight=torch.full((3,), 2.0).double()), LABELS),
    "smoothed class weights": (nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1), LABELS),
    "weights of a partial": (partial(nn.functional.cross_entropy, weight=WEIGHTS), LABELS),
    "weights by hand": (by_hand, LABELS),
    "ignored labels": (nn.CrossEntropyLoss(), SOME),
    "ignored labels and weights": (nn.CrossEntropyLoss(weight=WEIGHTS), SOME),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), LABELS),
    "sum with class weights": (nn.CrossEntropyLoss(weight=WEIGHTS, reduction="sum"), LABELS),
    "sum of numbers": (nn.MSELoss(reduction="sum"), NUMBERS),
    "sum by hand": (total, NUMBERS),
}
SLOW = partial(torch.optim.SGD, lr=0.02, momentum=0.9)


def run_of(name: str) -> Run:
    return recipe(*LOSSES[name], optimizer=SLOW, clip_norm=None).run()


def changes(name: str) -> dict[str, object]:
    new = NUMBERS[:3] if "number" in name or "hand" in name and "sum" in name else torch.tensor([1, 2, 0])
    return {
        "factors": Reweight([0, 3, 8], [0.5, -0.2, 0.3]),
        "removal": Remove([2, 5]),
        "labels": Relabel([1, 6], NUMBERS[[2, 3]] if new.is_floating_point() else [0, 1]),
        "new points": Add(NEW, new),
    }


@pytest.mark.parametrize("name", LOSSES)
def test_tangent_is_that_of_reruns_and_the_adjoint_that_of_the_tangent(name):
    run = run_of(name)
    direction = torch.linspace(-1, 1, len(run.weights), dtype=torch.float64)

    def along(model: nn.Module) -> Tensor:
        return torch.cat([value.reshape(-1) for value in model.parameters()]) @ direction

    worth = run.attribute(along, verify=False)
    for kind, change in changes(name).items():
        tangent = run.estimate(change, verify=False).change
        assert relative(central(run, change, 1e-4), tangent) < 1e-6, kind
        if kind in {"factors", "removal"}:
            steps = [0.5, -0.2, 0.3] if kind == "factors" else [-1.0, -1.0]
            predicted = float(worth.weights[list(change.points)] @ torch.tensor(steps, dtype=torch.float64))
            assert predicted == pytest.approx(float(tangent @ direction), rel=1e-9)


@pytest.mark.parametrize("name", ["class weights", "weights by hand", "ignored labels", "sum"])
def test_a_real_removal_is_the_loss_of_the_others(name):
    loss, y = LOSSES[name]
    run = recipe(loss, y, batch_size=None, make=nn.Linear(4, 3).double(), augment=None, epochs=1).run()
    rest = [i for i in range(14) if i not in {2, 5}]
    model = nn.Linear(4, 3).double()
    start = torch.cat([value.reshape(-1) for value in run.initial.values()])
    torch.nn.utils.vector_to_parameters(start, model.parameters())
    gradient = torch.autograd.grad(loss(model(X[rest]), y[rest]), list(model.parameters()))
    norm = torch.cat([part.reshape(-1) for part in gradient]).norm()
    moved = run.retrain(Remove([2, 5])).weights - start + 0.1 * 1e-2 * start
    torch.testing.assert_close(
        moved, -0.1 * torch.cat([part.reshape(-1) for part in gradient]) * min(1.0, float(1 / (norm + 1e-6)))
    )


def test_a_point_can_become_ignored_and_labels_that_come_late_are_measured():
    run = run_of("ignored labels")
    change = Relabel([1, 4], [-100, 0])
    assert relative(central(run, change, 1e-4), run.estimate(change, verify=False).change) < 1e-6
    rare = torch.zeros(14, dtype=torch.int64)
    rare[13] = 2
    run = recipe(WEIGHTED, rare, optimizer=SLOW, shuffle=False).run()
    change = Remove([12]) + Relabel([3], [1])
    assert relative(central(run, change, 1e-4), run.estimate(change, verify=False).change) < 1e-6


def test_labels_of_pixels_weigh_their_points():
    x = torch.randn(8, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = (x.sum(dim=1) > 0.8).long() + (x[:, 0] > 0).long()

    def make() -> nn.Module:
        return nn.Conv2d(2, 3, 3, padding=1).double()

    run = Training(make, WEIGHTED, x, y, optimizer=SLOW, epochs=2, batch_size=3).run()
    change = Remove([2, 5])
    assert relative(central(run, change, 1e-4), run.estimate(change, verify=False).change) < 1e-6


def test_tokens_that_are_masked_weigh_their_sequences():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 5, 4, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 3, (8, 5), generator=generator)
    y[torch.rand(8, 5, generator=generator) < 0.3] = -100

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    run = Training(nn.Linear(4, 3).double(), loss, x, y, optimizer=SLOW, epochs=2, batch_size=3).run()
    change = Remove([2, 5])
    assert relative(central(run, change, 1e-4), run.estimate(change, verify=False).change) < 1e-6


def of_probabilities(outputs: Tensor, targets: Tensor) -> Tensor:
    """A weighted mean of a loss that is not finite at negative outputs."""
    losses = -outputs.gather(1, targets[:, None])[:, 0].log()
    return (WEIGHTS[targets] * losses).sum() / WEIGHTS[targets].sum()


def test_a_loss_of_probabilities_has_the_weights_of_its_classes():
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1)).double()
    run = recipe(of_probabilities, LABELS, optimizer=SLOW, clip_norm=None, make=model, augment=None).run()
    for change in (Remove([2, 5]), Relabel([1, 6], [0, 1])):
        tangent = run.estimate(change, verify=False).change
        assert relative(central(run, change, 1e-4), tangent) < 1e-6


def test_a_loss_that_states_its_weights_is_not_asked_for_each_label(monkeypatch):
    calls = []
    value = LossByPoints._value

    def counted(self: LossByPoints, outputs: Tensor, targets: Tensor) -> float:
        calls.append(len(targets))
        return value(self, outputs, targets)

    monkeypatch.setattr(LossByPoints, "_value", counted)
    outputs = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(300) % 200
    targets[5] = -100
    weight = torch.rand(200, generator=torch.Generator().manual_seed(1)) + 0.5
    for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=weight)):
        rule = by_points(loss, outputs, targets)
        assert rule is not None
        assert rule.is_loss(loss(outputs, targets), outputs, targets)
    assert len(calls) <= 2
