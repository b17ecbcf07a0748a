"""Advice on a recipe is what real reruns of each variant measure."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from solset import Remove, Training
from solset.training import Advice, Trial, record

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(12, 3, generator=GENERATOR), torch.arange(12) % 2
ADAM = partial(torch.optim.AdamW, lr=3e-2)


def net(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), activation(), nn.Linear(8, 2))


def training(make_model=net, **recipe) -> Training:
    given = {"optimizer": ADAM, "epochs": 4, "batch_size": 4, **recipe}
    return Training(make_model, nn.CrossEntropyLoss(), X, Y, **given)


@pytest.mark.filterwarnings("ignore::solset.errors.SolsetWarning")
def test_each_trial_is_the_measured_smoothness_of_that_recipe():
    advice = training().run().advise(Remove([2]))
    rows = {row["name"]: row for row in advice.rows()}
    as_they_are = {
        "the recipe as it is": training(),
        "a third of the learning rate": training(optimizer=partial(torch.optim.AdamW, lr=1e-2)),
        "ε = 0.0001": training(optimizer=partial(torch.optim.AdamW, lr=3e-2, eps=1e-4)),
        "SiLU for activations with kinks": training(partial(net, nn.SiLU)),
    }
    assert list(rows) == list(as_they_are)
    for name, at in as_they_are.items():
        expected = at.run().smoothness(Remove([2]), scales=(1.0, 0.1))
        assert rows[name]["error"] == pytest.approx(expected.errors[0], rel=0.02)
    assert advice.best.error == min(row["error"] for row in rows.values())
    assert advice.steps == 12


@pytest.mark.filterwarnings("ignore::solset.errors.SolsetWarning")
def test_only_what_the_recipe_has_is_tried_in_as_many_steps_as_asked():
    smooth = training(partial(net, nn.Tanh), optimizer=partial(torch.optim.SGD, lr=0.1))
    advice = smooth.run().advise(steps=5)
    assert [trial.name for trial in advice.trials] == ["the recipe as it is", "a third of the learning rate"]
    assert advice.steps == 5
    assert "error" in repr(advice)


def test_advice_that_no_trial_follows_says_so():
    rough = Trial("the recipe as it is", float("nan"), 0.0, 1.0)
    slow = Trial("a third of the learning rate", 0.9, 0.0, 1.0)
    advice = Advice((rough, slow), 12)
    assert advice.best is slow
    assert "holds for none of them" in repr(advice)
    assert "judge by run.retrain" in advice.message
    assert Advice((rough, replace(slow, holds_to=0.1)), 12).message == ""


def test_a_recorded_loop_has_no_recipe_to_vary():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = record(model, optimizer, nn.CrossEntropyLoss(), X, Y)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=6)
    for inputs, labels in recorder.follow(loader):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    with pytest.raises(ValueError, match="`run`.*record of a loop"):
        recorder.run().advise()
