"""A replay that was interrupted goes on from its checkpoint to the numbers of one that was not."""

import signal
from functools import partial

import pytest
import torch
from tests.training.test_interrupted_runs import RECIPES, Loss, Stop, goal, training
from torch import nn

from solset.goals import HeldOutLoss
from solset.training import Run, RunAttribution, _sweep
from solset.training._sweep import Totals

GOALS = [goal, lambda model: model[0].weight.sum()]


@pytest.fixture(autouse=True)
def _never_due(monkeypatch):
    monkeypatch.setattr(_sweep, "SECONDS", 1e9)


def run_of(name: str, **options) -> tuple[Loss, Run]:
    loss = Loss()
    return loss, training(loss, *RECIPES[name]).run(**options)


def equal(first: RunAttribution, second: RunAttribution) -> bool:
    parts = [(one.weights, one.features, one.initial, one.value) for one in (first, second)]
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*parts, strict=True))


@pytest.mark.parametrize("budget", [2**30, 9_000], ids=["all states", "every few states"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_replay_that_fails_at_any_step_goes_on_to_the_same_numbers(name, budget, tmp_path):
    loss, run = run_of(name, memory_budget=budget)
    expected = run.attribute(GOALS, verify=False)
    before = loss.calls
    assert equal(run.attribute(GOALS, verify=False, checkpoint=tmp_path / "whole.safetensors"), expected)
    whole = loss.calls - before
    for place, stop in enumerate({whole // 4, whole // 2, whole - 1}):
        path = tmp_path / f"{place}.safetensors"
        loss.stops_at = loss.calls + stop
        with pytest.raises(Stop):
            run.attribute(GOALS, verify=False, checkpoint=path)
        before = loss.calls
        again = run.attribute(GOALS, verify=False, checkpoint=path)
        assert equal(again, expected)
        assert again.learning_rate.tolist() == expected.learning_rate.tolist()
        assert again.message == expected.message
        assert loss.calls - before < whole


def test_a_finished_replay_is_read_and_goes_on_in_another_run_of_the_recipe(tmp_path):
    name, path = "AdamW, decay by step", tmp_path / "replay.safetensors"
    loss, run = run_of(name)
    first = run.attribute(goal, verify=False, checkpoint=path)
    before = loss.calls
    assert equal(run.attribute(goal, verify=False, checkpoint=path), first)
    assert loss.calls - before < 12  # no step of 12 is taken again
    _, other = run_of(name)
    assert equal(other.attribute(goal, verify=False, checkpoint=path), first)


def test_a_replay_that_fails_while_a_step_is_counted_does_not_count_it_twice(monkeypatch, tmp_path):
    def add(totals, *parts):
        added.append(totals)
        if len(added) == 8:  # the second goal of the fourth step
            raise Stop
        whole(totals, *parts)

    _, run = run_of("SGD, cosine by epoch")
    expected, path = run.attribute(GOALS, verify=False), tmp_path / "replay.safetensors"
    whole, added = Totals.add, []
    with monkeypatch.context() as patched:
        patched.setattr(Totals, "add", add)
        with pytest.raises(Stop):
            run.attribute(GOALS, verify=False, checkpoint=path)
    assert equal(run.attribute(GOALS, verify=False, checkpoint=path), expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "request to end"])
def test_an_interrupt_waits_for_the_end_of_a_step(number, tmp_path):
    def stop(*_):
        raise Stop

    _, run = run_of("SGD, cosine by epoch")
    expected, path = run.attribute(goal, verify=False), tmp_path / "replay.safetensors"
    take, taken = _sweep.Sweep.take, []

    def interrupted(sweep, *parts):
        take(sweep, *parts)
        taken.append(sweep.left)
        if len(taken) == 5:
            signal.raise_signal(number)

    before = signal.signal(number, stop)
    try:
        _sweep.Sweep.take = interrupted
        with pytest.raises(Stop):
            run.attribute(goal, verify=False, checkpoint=path)
    finally:
        _sweep.Sweep.take = take
        signal.signal(number, before)
    assert len(taken) == 5
    assert equal(run.attribute(goal, verify=False, checkpoint=path), expected)


def test_a_replay_of_another_goal_or_run_is_refused_by_name(tmp_path):
    path = tmp_path / "replay.safetensors"
    _, run = run_of("all points at once")
    run.attribute(goal, verify=False, checkpoint=path)
    x, y = torch.ones(2, 3), torch.tensor([0, 1])
    held_out = HeldOutLoss(x, y, loss=nn.CrossEntropyLoss())
    for other in (held_out, lambda model: 2 * goal(model)):
        with pytest.raises(ValueError, match="checkpoint.*goal"):
            run.attribute(other, verify=False, checkpoint=path)
    slower = training(Loss(), partial(torch.optim.SGD, lr=0.05), {"batch_size": None}).run()
    with pytest.raises(ValueError, match="weights at the end"):
        slower.attribute(goal, verify=False, checkpoint=path)
