"""A loop of one's own is recorded by following its loader."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from solset import Remove, Training
from solset.training import Recorder, record

X = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 2
LOSS = nn.CrossEntropyLoss()
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def make() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.1), nn.Linear(5, 2)
    ).double()


def goal(model: nn.Module) -> Tensor:
    return LOSS(model(X), Y)


def looped(clip: float | None = None, named_clip: float | None = None) -> tuple[nn.Module, Recorder]:
    """A loop as users write them, with an evaluation after each epoch."""
    torch.manual_seed(3)
    model = make().train()
    optimizer = SGD(model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    loader = DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True)
    recorder = record(model, optimizer, LOSS, X, Y, clip_norm=named_clip)
    for _ in range(3):
        for inputs, targets in recorder.follow(loader):
            optimizer.zero_grad()
            LOSS(model(inputs), targets).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        schedule.step()
        model.eval()
        goal(model)
        model.train()
    return model, recorder


def test_record_of_a_loop_is_the_run_of_the_same_recipe():
    model, recorder = looped()
    cosine = lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)  # noqa: E731
    recipe = {"optimizer": SGD, "epochs": 3, "batch_size": 8, "schedule": cosine, "seed": 3}
    run, twin = recorder.run(), Training(make, LOSS, X, Y, **recipe).run()
    assert run.batches == twin.batches
    assert torch.equal(run.weights, twin.weights)
    a, b = run.attribute(goal), twin.attribute(goal)
    assert torch.equal(a.weights, b.weights)
    assert torch.equal(a.features, b.features)
    removal = [each.retrain(Remove([4]), progress=False).weights for each in (run, twin)]
    assert torch.equal(*removal)


def test_nothing_is_left_behind_in_model_or_optimizer():
    model, recorder = looped()
    recorder.run()
    assert not model._forward_pre_hooks
    assert model.training


def test_clipping_that_was_not_named_is_found():
    _, recorder = looped(clip=0.05)
    with pytest.raises(ValueError, match=r"`loop`.*away from its record.*clip_norm"):
        recorder.run()
    _, recorder = looped(clip=0.05, named_clip=0.05)
    assert len(recorder.run().losses) == 9


def test_accumulated_gradients_are_refused():
    model = make()
    optimizer = SGD(model.parameters())
    recorder = record(model, optimizer, LOSS, X, Y)
    batches = recorder.follow(DataLoader(TensorDataset(X, Y), batch_size=8))
    inputs, targets = next(batches)
    LOSS(model(inputs), targets).backward()
    inputs, _ = next(batches)
    with pytest.raises(ValueError, match="`loop`.*one forward pass for each step"):
        model(inputs)


def test_steps_outside_the_followed_loader_are_refused():
    model = make()
    optimizer = SGD(model.parameters())
    record(model, optimizer, LOSS, X, Y)
    LOSS(model(X), Y).backward()
    with pytest.raises(ValueError, match=r"`loop`.*recorder\.follow"):
        optimizer.step()


def test_record_without_steps_is_refused():
    model = make()
    with pytest.raises(ValueError, match="`loop`.*steps of the optimizer"):
        record(model, SGD(model.parameters()), LOSS, X, Y).run()
