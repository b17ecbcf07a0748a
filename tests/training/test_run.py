"""A run of a training is the user's own loop, and its derivative is that of real reruns."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from solset import Move, Remove, Training
from solset.training import Run

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 3))


def plain_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def data(dtype: torch.dtype = torch.float64, n: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, 4, dtype=dtype, generator=generator)
    return x, torch.randint(0, 3, (n,), generator=generator)


def noisy(inputs: Tensor) -> Tensor:
    return inputs + 0.05 * torch.randn_like(inputs)


OPTIMIZERS = {
    "SGD": partial(SGD, lr=0.1),
    "SGD with momentum": partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "SGD with dampening": partial(SGD, lr=0.1, momentum=0.9, dampening=0.3),
    "Nesterov": partial(SGD, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": partial(torch.optim.Adam, lr=1e-2, weight_decay=1e-2, eps=1e-4),
    "AdamW": partial(AdamW, lr=1e-2, eps=1e-4),
    "AMSGrad": partial(AdamW, lr=1e-2, amsgrad=True, eps=1e-4),
    "RMSprop": partial(torch.optim.RMSprop, lr=1e-3, eps=1e-4),
    "Adagrad": partial(torch.optim.Adagrad, lr=1e-2, eps=1e-4),
    "Adadelta": partial(torch.optim.Adadelta, lr=1.0),
    "NAdam": partial(torch.optim.NAdam, lr=1e-3, eps=1e-4),
    "RAdam": partial(torch.optim.RAdam, lr=1e-3),
    "ASGD": partial(torch.optim.ASGD, lr=1e-2),
}
RECIPES = {
    "plain": {},
    "clipped": {"clip_norm": 0.3},
    "clipped at infinity, as loops do that print norms": {"clip_norm": float("inf")},
    "scheduled by epoch": {"schedule": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 4)},
    "scheduled by step": {
        "schedule": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
        "schedule_each": "step",
    },
    "augmented": {"augment": noisy},
    "all points in a batch": {"batch_size": None},
    "ended early": {"steps": 5},
}


def trained_by_hand(make: object, x: Tensor, y: Tensor, optimizer: object, recipe: dict) -> nn.Module:
    """The loop that a user writes."""
    torch.manual_seed(3)
    model = make().to(x.dtype).train()
    opt = optimizer(model.parameters())
    sched = recipe["schedule"](opt) if "schedule" in recipe else None
    by_step = recipe.get("schedule_each") == "step"
    size = recipe.get("batch_size", 8)
    loader = [(x, y)] if size is None else DataLoader(TensorDataset(x, y), batch_size=size, shuffle=True)
    taken = 0
    for _ in range(3):
        for inputs, targets in loader:
            if taken == recipe.get("steps"):
                return model
            taken += 1
            if "augment" in recipe:
                inputs = recipe["augment"](inputs)
            opt.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            if "clip_norm" in recipe:
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["clip_norm"])
            opt.step()
            if sched is not None and by_step:
                sched.step()
        if sched is not None and not by_step:
            sched.step()
    return model


def training(make=small_net, dtype=torch.float64, optimizer=OPTIMIZERS["AdamW"], **recipe) -> Training:
    x, y = data(dtype)
    given = {"epochs": 3, "batch_size": 8, "seed": 3, **recipe}
    return Training(lambda: make().to(dtype), nn.CrossEntropyLoss(), x, y, optimizer=optimizer, **given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("name", ["SGD with momentum", "Nesterov", "Adam", "AdamW", "RMSprop"])
def test_run_is_the_users_own_loop_bit_for_bit(name, recipe, dtype):
    by_hand = trained_by_hand(small_net, *data(dtype), OPTIMIZERS[name], recipe)
    run = training(dtype=dtype, optimizer=OPTIMIZERS[name], **recipe).run()
    expected, got = by_hand.state_dict(), run.model.state_dict()
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def held_out(model: nn.Module) -> Tensor:
    x, y = data(next(model.parameters()).dtype, n=40)
    return nn.functional.cross_entropy(model(x[24:]), y[24:])


def central(run: Run, change, step: float) -> tuple[Tensor, float]:
    """Central differences of the weights and of the held-out loss, by real reruns."""
    ends = [run.retrain(change, scale=sign * step, progress=False) for sign in (1, -1)]
    with torch.no_grad():
        goals = [float(held_out(end.model)) for end in ends]
    return (ends[0].weights - ends[1].weights) / (2 * step), (goals[0] - goals[1]) / (2 * step)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


CHANGES = {
    "move": Move([1, 5], torch.tensor([[1.0, -0.5, 0.3, 0.2], [0.1, 0.4, -1.0, 0.7]], dtype=torch.float64)),
    "remove": Remove([2, 7, 11]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_tangent_is_the_limit_of_central_differences_of_reruns(optimizer, change):
    run = training(plain_net, optimizer=optimizer).run()
    tangent = run.estimate(change, verify=False).change
    errors = [relative(central(run, change, step)[0], tangent) for step in (4e-3, 2e-3, 1e-3, 1e-4)]
    assert errors[-1] < 1e-6
    assert errors[1] < 0.3 * errors[0]  # a quarter: the square of the step


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_derivative_passes_through_norms_dropout_schedule_clipping_and_augmentation(recipe, change):
    run = training(optimizer=OPTIMIZERS["SGD with momentum"], **recipe).run()
    weights, goal = central(run, change, 1e-4)
    assert relative(run.estimate(change, verify=False).change, weights) < 1e-6
    worth = run.attribute(held_out)
    assert predicted(worth, change) == pytest.approx(goal, rel=1e-5)


def predicted(worth, change) -> float:
    if isinstance(change, Move):
        return float((worth.features[list(change.points)] * change.dx).sum())
    return -float(worth.weights[list(change.points)].sum())


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_adjoint_equals_tangent(optimizer):
    run = training(optimizer=optimizer, clip_norm=0.5, augment=noisy).run()
    direction = torch.randn(
        run.weights.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )

    def along(model: nn.Module) -> Tensor:
        return torch.cat([value.reshape(-1) for value in model.parameters()]) @ direction

    worth = run.attribute(along, verify=False)
    for change in CHANGES.values():
        tangent = float(run.estimate(change, verify=False).change @ direction)
        assert predicted(worth, change) == pytest.approx(tangent, rel=1e-10, abs=1e-13)


def test_running_statistics_move_with_the_weights():
    run = training(optimizer=OPTIMIZERS["SGD with momentum"]).run()
    change = CHANGES["move"]
    step = 1e-4
    small = Move(change.points, step * change.dx)
    there = run.estimate(small, verify=False).apply_to(run.model)
    real = run.retrain(small, progress=False).model
    for name, value in real.named_buffers():
        if "running" in name:
            before = dict(run.model.named_buffers())[name]
            assert relative(dict(there.named_buffers())[name] - before, value - before) < 1e-3


def test_kept_recomputed_and_written_states_give_the_same_numbers(tmp_path):
    at = training()
    runs = [at.run(), at.run(memory_budget=30_000), at.run(memory_budget=1, folder=tmp_path / "states")]
    assert len({run.stride for run in runs}) > 1
    worths = [run.attribute(held_out) for run in runs]
    for other in worths[1:]:
        assert torch.equal(worths[0].features, other.features)
        assert torch.equal(worths[0].weights, other.weights)


def test_nothing_of_the_user_changes():
    model, loss = plain_net().double(), nn.CrossEntropyLoss()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    x, y = data()
    run = Training(model, loss, x, y, optimizer=OPTIMIZERS["AdamW"], epochs=2, batch_size=8).run()
    run.attribute(held_out, verify=False)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert loss.reduction == "mean"
    assert not run.model.training


def test_training_takes_no_notice_of_a_context_without_gradients():
    at = training(plain_net)
    with torch.no_grad():
        run = at.run()
        worth = run.attribute(held_out, verify=False)
    assert torch.equal(worth.features, at.run().attribute(held_out, verify=False).features)


@pytest.mark.parametrize("name", ["move", "remove"])
def test_tangents_take_no_notice_of_a_context_without_gradients(name):
    run = training(plain_net).run()
    change = CHANGES[name]
    expected = run.estimate(change, verify=False).change
    assert float(expected.norm()) > 0
    with torch.no_grad():
        assert torch.equal(run.estimate(change, verify=False).change, expected)


def test_inference_mode_is_refused_by_name():
    at = training(plain_net)
    run = at.run()
    for ask in (
        at.run,
        lambda: run.estimate(CHANGES["move"], verify=False),
        lambda: run.attribute(held_out),
        lambda: run.retrain(CHANGES["move"]),
    ):
        with torch.inference_mode(), pytest.raises(ValueError, match=r"outside of torch.inference_mode\(\)"):
            ask()
