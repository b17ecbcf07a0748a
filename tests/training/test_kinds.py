"""Every change of a training: its derivative is that of real reruns, forward and backward."""

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn

from solset import Add, Decay, Move, Problem, Relabel, Remove, Reweight, Training
from solset.changes import Change
from solset.training import LearningRate, Run, record

F64 = torch.float64
SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


X = drawn(14, 4)
LABELS = torch.arange(14) % 3
NUMBERS = drawn(14, 3, seed=1)
NEW = drawn(3, 4, seed=2)


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 3)).double()


def noisy(inputs: Tensor) -> Tensor:
    return inputs + 0.05 * torch.randn_like(inputs)


OPTIMIZERS = {
    "SGD": partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "Nesterov": partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "Adam": partial(Adam, lr=1e-2, weight_decay=1e-2, eps=1e-3),
    "AdamW": partial(AdamW, lr=1e-2, weight_decay=1e-1, eps=1e-3),
    "NAdam": partial(torch.optim.NAdam, lr=1e-2, weight_decay=1e-2, eps=1e-3),
    "RAdam": partial(torch.optim.RAdam, lr=1e-2, weight_decay=1e-2, decoupled_weight_decay=True),
    "RMSprop": partial(torch.optim.RMSprop, lr=1e-3, weight_decay=1e-2, eps=1e-3),
    "Adagrad": partial(torch.optim.Adagrad, lr=1e-2, weight_decay=1e-2, eps=1e-3),
    "Adadelta": partial(torch.optim.Adadelta, lr=1.0, weight_decay=1e-2, eps=1e-3),
    "Adamax": partial(torch.optim.Adamax, lr=1e-3, weight_decay=1e-2, eps=1e-3),
}


def recipe(loss: nn.Module, y: Tensor, optimizer="SGD", make=make_model, **more: object) -> Training:
    chosen = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    given = {"epochs": 2, "batch_size": 5, "augment": noisy, "clip_norm": 1.0, "seed": 3, **more}
    return Training(make, loss, X, y, optimizer=chosen, **given)


CLASSES = partial(recipe, nn.CrossEntropyLoss(), LABELS)
REGRESSION = partial(recipe, nn.MSELoss(), NUMBERS)
KINDS: dict[str, tuple[Change, Change]] = {  # for class labels, and for numbers
    "relabel": (Relabel([1, 6], [2, 1]), Relabel([1, 6], NUMBERS[[2, 3]])),
    "add": (Add(NEW, torch.tensor([1, 2, 0])), Add(NEW, NUMBERS[:3])),
    "decay": (Decay(0.5), Decay({"*.bias": 0.1, "*": 0.1})),
    "rate": (LearningRate(0.3), LearningRate(-0.2)),
    "sum": (
        Move([1], NEW[:1]) + Relabel([2, 3], [0, 1]) + Remove([4]) + Add(NEW[:1], LABELS[:1]) + Decay(0.1),
        Relabel([1], NUMBERS[:1]) + Move([1], NEW[:1]) + Reweight([2], 0.5) + LearningRate(0.1),
    ),
}
CASES = {
    f"{name}, {task}": (make, change)
    for name, pair in KINDS.items()
    for task, make, change in zip(("classes", "numbers"), (CLASSES, REGRESSION), pair, strict=True)
}


@cache
def run_of(make: Callable[[], Training]) -> Run:
    return make().run()


def central(run: Run, change: Change, step: float) -> Tensor:
    ends = [run.retrain(change, scale=sign * step, progress=False).weights for sign in (1, -1)]
    return (ends[0] - ends[1]) / (2 * step)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("make", "change"), CASES.values(), ids=CASES)
def test_tangent_is_the_limit_of_central_differences_of_reruns(make, change):
    run = run_of(make)
    tangent = run.estimate(change, verify=False).change
    assert relative(central(run, change, 1e-4), tangent) < 1e-7


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_settings_of_every_optimizer_have_their_derivative(optimizer):
    run, change = CLASSES(optimizer=optimizer).run(), Decay(0.1) + LearningRate(0.1)
    tangent = run.estimate(change, verify=False).change
    assert relative(central(run, change, 1e-4), tangent) < 1e-6
    direction = drawn(len(run.weights))
    worth = run.attribute(lambda model: _flat(model) @ direction)
    assert 0.1 * (worth.decay + worth.learning_rate) == pytest.approx(float(tangent @ direction), rel=1e-10)


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([value.reshape(-1) for value in model.parameters()])


def test_adjoint_in_targets_equals_the_tangent():
    run = REGRESSION().run()
    direction, change = drawn(len(run.weights)), KINDS["relabel"][1]
    worth = run.attribute(lambda model: _flat(model) @ direction)
    steps = change.targets - NUMBERS[change.points]
    tangent = run.estimate(change, verify=False).change
    assert float((worth.targets[change.points] * steps).sum()) == pytest.approx(
        float(tangent @ direction), rel=1e-10
    )


def test_points_that_joined_are_points_of_the_training():
    larger = CLASSES().on(Add(NEW, torch.tensor([1, 2, 0])))
    run = larger.run()
    assert sorted(point for batch in run.batches for point in batch) == sorted([*range(17), *range(17)])
    direction = drawn(len(run.weights))
    worth = run.attribute(lambda model: _flat(model) @ direction)
    assert worth.weights.shape == (17,)
    for change in (Remove([15]), Move([15], NEW[:1]), Relabel([15], [0])):
        tangent = run.estimate(change, verify=False).change
        assert relative(central(run, change, 1e-4), tangent) < 1e-7
        if isinstance(change, Remove):
            expected = -float(worth.weights[15])
            assert float(tangent @ direction) == pytest.approx(expected, rel=1e-10)
    assert torch.equal(run.retrain(Remove([14, 15, 16])).weights, CLASSES().run().weights)


def test_additions_follow_one_another():
    def plain() -> Training:
        return CLASSES(augment=None, make=lambda: nn.Linear(4, 3, dtype=F64))

    once = plain().on(Add(NEW, torch.tensor([1, 2, 0])))
    twice = plain().on(Add(NEW[:1], torch.tensor([1]))).on(Add(NEW[1:], torch.tensor([2, 0])))
    torch.testing.assert_close(once.run().weights, twice.run().weights)
    run = CLASSES().on(Add(NEW[:1], torch.tensor([1]))).run()
    change = Add(NEW[1:], torch.tensor([2, 0]))
    assert relative(central(run, change, 1e-4), run.estimate(change, verify=False).change) < 1e-7


def test_changed_recipe_is_the_loop_on_changed_data():
    relabelled = LABELS.clone()
    relabelled[[1, 6]] = torch.tensor([2, 1])
    by_hand = recipe(nn.CrossEntropyLoss(), relabelled).run().weights
    assert torch.equal(CLASSES().on(KINDS["relabel"][0]).run().weights, by_hand)
    assert torch.equal(CLASSES().run().retrain(KINDS["relabel"][0]).weights, by_hand)
    other = CLASSES(optimizer=partial(SGD, lr=0.13, momentum=0.9, weight_decay=0.51)).run().weights
    torch.testing.assert_close(CLASSES().on(Decay(0.5) + LearningRate(0.3)).run().weights, other)


def test_new_points_join_the_last_batch_where_nothing_shuffles():
    run = CLASSES(shuffle=False).on(Add(NEW, torch.tensor([1, 2, 0]))).run()
    assert run.batches[:3] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15, 16]]


def test_a_schedule_keeps_its_course_when_the_rate_changes():
    schedule = {"schedule": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5)}
    by_hand = CLASSES(optimizer=partial(SGD, lr=0.11), **schedule).run().weights
    changed = CLASSES(optimizer=partial(SGD, lr=0.1), **schedule).on(LearningRate(0.1)).run().weights
    torch.testing.assert_close(changed, by_hand)


def test_decay_of_one_group():
    def grouped(parameters: list[Tensor], biases: float = 0.0) -> torch.optim.Optimizer:
        groups = [parameters[::2], parameters[1::2]]
        decays = (1e-2, biases)
        return SGD([{"params": g, "weight_decay": d} for g, d in zip(groups, decays, strict=True)], lr=0.1)

    run = CLASSES(optimizer=grouped).run()
    for change in (Decay(0.2), Decay({"*.bias": 0.2})):
        tangent = run.estimate(change, verify=False).change
        small = {"scale": 1e-6, "progress": False}  # one-sided, as no decay is negative
        assert relative(run.retrain(change, **small).change / 1e-6, tangent) < 1e-5
    other = CLASSES(optimizer=partial(grouped, biases=0.2)).run().weights
    torch.testing.assert_close(run.retrain(Decay({"*.bias": 0.2})).weights, other)


def test_runs_on_changed_data_do_not_resume_each_others_checkpoints(tmp_path):
    late = CLASSES(batch_size=None, optimizer=partial(SGD, lr=1e-9))
    late.run(checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="another"):
        late.on(Remove([3])).run(checkpoint=tmp_path / "run")


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


def ignoring(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs, targets.round())


WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=F64))
REFUSED = {
    "label out of range": (CLASSES, Relabel([1], [7]), "`targets`.*the loss takes them"),
    "numbers for labels": (CLASSES, Relabel([1], [0.5]), r"`targets` must be torch.int64"),
    "two labels": (CLASSES, Relabel([1], [0]) + Relabel([1], [2]), "two new targets of points"),
    "label and removal": (CLASSES, Relabel([1], [0]) + Remove([1]), "a new target and another factor"),
    "too few targets": (CLASSES, Relabel([1, 2], [0]), "`targets`.*shape"),
    "shape": (REGRESSION, Relabel([1], [0.0]), "`targets`.*shape"),
    "not finite": (REGRESSION, Relabel([1], [[0.0, float("nan"), 0.0]]), "`targets`.*finite"),
    "no derivative": (
        partial(recipe, ignoring, NUMBERS),
        Relabel([1], NUMBERS[:1] + 9),
        "derivative in them",
    ),
    "label of a new point": (CLASSES, Add(NEW[:1], torch.tensor([5])), "`targets`.*the loss takes them"),
    "shape of a new point": (CLASSES, Add(NEW[:1, :3], torch.tensor([1])), "`inputs`.*for each point"),
    "dtype of a new point": (CLASSES, Add(NEW[:1].float(), torch.tensor([1])), "`inputs`.*for each point"),
    "divisor": (CLASSES, Add(NEW[:1], torch.tensor([1]), divisor="before"), "`divisor`.*'after'"),
    "divisor of a removal": (CLASSES, Remove([1], divisor="before"), "`divisor`.*'after'"),
    "negative decay": (CLASSES, Decay(-1.0), "`change`.*negative afterwards"),
    "negative rate": (CLASSES, LearningRate(-0.6) + LearningRate(-0.6), "`change`.*negative afterwards"),
    "no decay": (partial(CLASSES, optimizer=partial(SGD, lr=0.1)), Decay(0.1), "without weight decay"),
    "pattern": (CLASSES, Decay({"bias_": 0.1}), "patterns that match"),
    "half a group": (CLASSES, Decay({"*.bias": 0.1}), "weights of a group"),
    "rate of ASGD": (
        partial(CLASSES, optimizer=partial(torch.optim.ASGD, lr=0.1)),
        LearningRate(0.1),
        "learning rate of ASGD",
    ),
}


@pytest.mark.parametrize(("make", "change", "words"), REFUSED.values(), ids=REFUSED)
def test_what_a_training_cannot_answer_is_refused_by_name(make, change, words):
    run = run_of(make)
    with pytest.raises((TypeError, ValueError), match=words):
        run.estimate(change, verify=False)


def test_new_points_are_refused_where_layers_see_the_whole_batch():
    training = Training(Normed, nn.CrossEntropyLoss(), X, LABELS, optimizer=OPTIMIZERS["SGD"], batch_size=5)
    with pytest.raises(ValueError, match=r"`change`.*see the whole batch.*BatchNorm in layers\.1"):
        training.run().estimate(Add(NEW, LABELS[:3]))
    assert training.run().estimate(Relabel([1], [0]), verify=False).change.norm() > 0


def test_new_points_that_the_model_does_not_take_are_refused_by_name():
    ids, model = torch.arange(14) % 5, nn.Embedding(5, 3, dtype=F64)
    training = Training(model, nn.CrossEntropyLoss(), ids, LABELS, optimizer=OPTIMIZERS["SGD"])
    with pytest.raises(TypeError, match="`inputs` must be such that the model takes them.*out of range"):
        training.run().estimate(Add(torch.tensor([9]), LABELS[:1]))


def test_new_points_are_refused_for_a_recorded_loop():
    model = make_model()
    optimizer = SGD(model.parameters(), lr=0.1)
    recorder = record(model, optimizer, nn.CrossEntropyLoss(), X, LABELS)
    data = torch.utils.data.TensorDataset(X, LABELS)
    for inputs, targets in recorder.follow(torch.utils.data.DataLoader(data, batch_size=7)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    run = recorder.run()
    with pytest.raises(ValueError, match="recorded loop"):
        run.estimate(Add(NEW, LABELS[:3]))
    change = Relabel([1], [0]) + LearningRate(0.1)
    assert relative(central(run, change, 1e-4), run.estimate(change, verify=False).change) < 1e-7


def test_real_runs_with_new_labels_are_runs_on_these_labels():
    run = recipe(WEIGHTED, LABELS).run()
    relabelled = LABELS.clone()
    relabelled[1] = 0
    assert torch.equal(run.retrain(Relabel([1], [0])).weights, recipe(WEIGHTED, relabelled).run().weights)


def test_a_problem_has_no_learning_rate():
    model = nn.Linear(4, 3, dtype=F64)
    problem = Problem(model, nn.MSELoss(), X, NUMBERS, weight_decay=0.1, gradient_tol=float("inf"))
    with pytest.raises(TypeError, match=r"`change`.*no learning rate.*Ask a Training"):
        problem.estimate(LearningRate(0.1))
