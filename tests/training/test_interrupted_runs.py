"""An interrupted run goes on from its checkpoint to the numbers of a run that was never interrupted."""

import signal
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from solset import Training
from solset.training import _run_file

RECIPES = {
    "SGD, cosine by epoch": (
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        {"schedule": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 4)},
    ),
    "AdamW, decay by step": (
        partial(torch.optim.AdamW, lr=1e-2, eps=1e-4),
        {"schedule": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9), "schedule_each": "step"},
    ),
    "all points at once": (partial(torch.optim.SGD, lr=0.1), {"batch_size": None}),
    "ended early": (partial(torch.optim.RMSprop, lr=1e-3, eps=1e-4), {"steps": 9}),
}


class Stop(BaseException):
    """The user's interrupt."""


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 2)
    )


class Loss:
    """Cross-entropy that is interrupted at one of its calls."""

    def __init__(self, stops_at: int | None = None) -> None:
        self.calls, self.stops_at = 0, stops_at

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.stops_at:
            raise Stop
        return nn.functional.cross_entropy(outputs, targets)


def training(loss: Loss, optimizer, recipe, *, points: int = 11) -> Training:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(points, 3, generator=generator)
    y = torch.randint(0, 2, (points,), generator=generator)
    given = {"epochs": 4, "batch_size": 4, "seed": 2, **recipe}
    return Training(net, loss, x, y, optimizer=optimizer, **given)


@pytest.fixture(autouse=True)
def _write_after_every_step(monkeypatch):
    monkeypatch.setattr(_run_file, "SECONDS", 0.0)
    monkeypatch.setattr(_run_file, "SHARE", 0.0)


def goal(model: nn.Module) -> Tensor:
    return model(torch.full((3, 3), 0.3)).square().mean()


@pytest.mark.parametrize("on_disk", [False, True], ids=["states in memory", "states on the disk"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_was_interrupted_at_any_step_goes_on_to_the_same_numbers(name, on_disk, tmp_path):
    expected = training(Loss(), *RECIPES[name]).run()
    steps = len(expected.losses)
    for stop in sorted({1, 3, 4, min(5, steps), steps}):  # an epoch has 3 steps, or 1
        place = {"checkpoint": tmp_path / f"{stop}.safetensors"}
        if on_disk:
            place["folder"] = tmp_path / f"states {stop}"
        loss = Loss()
        interrupted = training(loss, *RECIPES[name])
        loss.stops_at = loss.calls + stop
        with pytest.raises(Stop):
            interrupted.run(**place)
        again = Loss()
        resumed = training(again, *RECIPES[name])
        before = again.calls
        run = resumed.run(**place)
        taken = again.calls - before
        assert torch.equal(run.weights, expected.weights)
        assert run.losses == expected.losses
        assert run.batches == expected.batches
        assert taken == steps - stop + 1  # only the step that was interrupted is taken again
        if stop == min(5, steps):
            worths = [one.attribute(goal, verify=False).weights for one in (run, expected)]
            torch.testing.assert_close(*worths)


def test_a_finished_run_is_read_and_not_run_again(tmp_path):
    place = tmp_path / "run.safetensors"
    first = training(Loss(), *RECIPES["all points at once"]).run(checkpoint=place)
    loss = Loss()
    again = training(loss, *RECIPES["all points at once"])
    before = loss.calls
    run = again.run(checkpoint=place)
    assert torch.equal(run.weights, first.weights)
    assert run.losses == first.losses
    assert loss.calls - before <= 1 + 11  # only whether the loss is a mean over its points


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"points": 12}, "data"),
        ({"recipe": {"epochs": 5}}, "recipe"),
        (
            {"recipe": {"schedule": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5)}},
            "rates at the end",
        ),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused_by_name(other, named, tmp_path):
    place, optimizer = tmp_path / "run.safetensors", partial(torch.optim.SGD, lr=0.1)
    training(Loss(), optimizer, {}).run(checkpoint=place)
    with pytest.raises(ValueError, match=named):
        training(Loss(), optimizer, other.get("recipe", {}), points=other.get("points", 11)).run(
            checkpoint=place
        )


def test_a_checkpoint_of_another_rate_is_refused_by_the_weights_after_two_steps(tmp_path):
    place = tmp_path / "run.safetensors"
    training(Loss(), partial(torch.optim.SGD, lr=0.1), {}).run(checkpoint=place)
    with pytest.raises(ValueError, match=r"rates at the end|weights after two steps"):
        training(Loss(), partial(torch.optim.SGD, lr=0.2), {}).run(checkpoint=place)


def test_a_damaged_checkpoint_is_said_and_training_starts_anew(tmp_path):
    place, optimizer = tmp_path / "run.safetensors", partial(torch.optim.SGD, lr=0.1)
    expected = training(Loss(), optimizer, {}).run(checkpoint=place)
    data = bytearray(place.read_bytes())
    data[-3] ^= 1
    place.write_bytes(bytes(data))
    with pytest.warns(UserWarning, match="damaged"):
        run = training(Loss(), optimizer, {}).run(checkpoint=place)
    assert torch.equal(run.weights, expected.weights)


@pytest.fixture
def _never_due(monkeypatch):
    monkeypatch.setattr(_run_file, "SECONDS", 1e9)


@pytest.mark.usefixtures("_never_due")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "request to end"])
def test_an_interrupt_is_answered_after_the_step_is_written(number, tmp_path):
    def stop(*_):
        raise Stop

    recipe, place = RECIPES["SGD, cosine by epoch"], tmp_path / "run.safetensors"
    expected, loss = training(Loss(), *recipe).run(), Loss()
    interrupted = training(loss, *recipe)

    def interrupting(outputs: Tensor, targets: Tensor) -> Tensor:
        if loss.calls == first + 4:
            signal.raise_signal(number)
        return Loss.__call__(loss, outputs, targets)

    first = loss.calls
    object.__setattr__(interrupted._setting, "loss", interrupting)
    before = signal.signal(number, stop)
    try:
        with pytest.raises(Stop):
            interrupted.run(checkpoint=place)
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    again = Loss()
    resumed = training(again, *recipe)
    taken = again.calls
    run = resumed.run(checkpoint=place)
    assert torch.equal(run.weights, expected.weights)
    assert run.losses == expected.losses
    assert again.calls - taken == len(expected.losses) - 5


@pytest.mark.usefixtures("_never_due")
@pytest.mark.parametrize("budget", [2**30, 9_000], ids=["all states", "every few states"])
@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_run_whose_step_fails_goes_on_from_the_last_state_that_is_kept(stop, budget, tmp_path):
    recipe, place = RECIPES["AdamW, decay by step"], tmp_path / "run.safetensors"
    expected, loss = training(Loss(), *recipe).run(), Loss()
    interrupted = training(loss, *recipe)
    loss.stops_at = loss.calls + stop
    with pytest.raises(Stop):
        interrupted.run(checkpoint=place, memory_budget=budget)
    again = Loss()
    resumed = training(again, *recipe)
    taken = again.calls
    run = resumed.run(checkpoint=place, memory_budget=budget)
    assert torch.equal(run.weights, expected.weights)
    assert run.losses == expected.losses
    assert run.stride == (1 if budget > 9_000 else 2)
    steps, kept = len(run.losses), (stop - 1) // run.stride * run.stride
    assert again.calls - taken == steps - kept
