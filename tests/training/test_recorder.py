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


def recorded(each_epoch, step=None, make_model=make) -> tuple[nn.Module, Recorder]:
    """A loop of two epochs with something before each epoch, and another way to take a step."""
    torch.manual_seed(3)
    model = make_model().train()
    optimizer = SGD([value for value in model.parameters() if value.requires_grad])
    recorder = record(model, optimizer, LOSS, X, Y)
    loader = DataLoader(TensorDataset(X, Y), batch_size=8)
    for epoch in range(2):
        each_epoch(epoch, model, optimizer)
        for inputs, targets in recorder.follow(loader):

            def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
                optimizer.zero_grad()
                loss = LOSS(model(inputs), targets)
                loss.backward()
                return loss

            if step is None:
                closure()
                optimizer.step()
            else:
                step(optimizer, closure, model)
    return model, recorder


def freeze(epoch: int, model: nn.Module, _: object) -> None:
    model[0].requires_grad_(epoch == 0)


def unfreeze(epoch: int, model: nn.Module, _: object) -> None:
    model[0].requires_grad_(epoch == 1)


def join(epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if epoch == 1:
        optimizer.add_param_group({"params": list(model[0].requires_grad_(True).parameters())})


def regroup(epoch: int, _: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if epoch == 1:
        rest = optimizer.param_groups[0]["params"][1:]
        del optimizer.param_groups[0]["params"][1:]
        optimizer.add_param_group({"params": rest})


def replaced(epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if epoch == 1:
        model[0].weight = nn.Parameter(model[0].weight.detach().clone())


def headed() -> nn.Module:
    model = make()
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("each_epoch", "make_model", "words"),
    [
        (freeze, make, r"0\.weight, 0\.bias frozen"),
        (unfreeze, make, r"0\.weight, 0\.bias frozen"),
        (join, headed, r"0\.weight, 0\.bias frozen, unfrozen"),
        (regroup, make, "groups of the optimizer"),
        (replaced, make, r"0\.weight .*replaced"),
    ],
)
def test_other_parameters_or_groups_on_the_way_are_refused(each_epoch, make_model, words):
    with pytest.raises(
        ValueError, match=rf"`loop`.*same trained parameters, buffers and groups.*{words}.*run\(\)"
    ):
        recorded(each_epoch, make_model=make_model)


def test_parameters_that_are_frozen_before_the_end_of_the_record_are_named():
    model, recorder = recorded(lambda *_: None)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"`loop`.*0\.weight.*frozen"):
        recorder.run()


def test_a_step_with_a_closure_is_a_step():
    runs = [
        recorded(lambda *_: None, step)[1].run()
        for step in (None, lambda optimizer, closure, _: optimizer.step(closure))
    ]
    assert torch.equal(runs[0].weights, runs[1].weights)
    by_closure, plain = (run.attribute(goal, verify=False).features for run in runs)
    assert torch.equal(by_closure, plain)


def test_two_gradients_of_one_batch_are_refused():
    def sharp(optimizer, closure, model) -> None:
        closure()
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.05 * value.grad)
        closure()

    with pytest.raises(ValueError, match="`loop`.*two on one batch.*several gradients"):
        recorded(lambda *_: None, sharp)


def test_passes_that_move_statistics_without_a_step_are_refused():
    def validated(_: int, model: nn.Module, __: object) -> None:
        with torch.no_grad():
            model(X)

    with pytest.raises(ValueError, match=r"`loop`.*running statistics.*1\..*model\.eval\(\)"):
        recorded(validated)[1].run()


def test_a_buffer_that_the_loop_adds_is_refused():
    def counted(epoch: int, model: nn.Module, _: object) -> None:
        model.register_buffer("epoch", torch.tensor(epoch))

    with pytest.raises(ValueError, match="`loop`.*epoch frozen, unfrozen, added"):
        recorded(counted)[1].run()


def test_a_mask_of_infinite_numbers_is_no_divergence():
    def masked() -> nn.Module:
        model = make()
        model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        return model

    _, recorder = recorded(lambda *_: None, make_model=masked)
    assert torch.isfinite(recorder.run().weights).all()
    assert len(Training(masked, LOSS, X, Y, optimizer=SGD).run().losses) == 1


def test_weights_that_are_not_finite_at_the_end_are_refused():
    model, recorder = recorded(lambda *_: None)
    with torch.no_grad():
        model[0].bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"`loss`.*0\.bias that are not finite"):
        recorder.run()


def frozen_norm(_: int, model: nn.Module, __: object) -> None:
    model.train()
    model[1].eval()


def with_frozen_norm(x: Tensor, *, is_recorded: bool = False) -> tuple[nn.Module, Recorder | None]:
    torch.manual_seed(3)
    model = make()
    model[1].running_mean.fill_(0.3)
    optimizer = SGD(model.parameters())
    recorder = record(model, optimizer, LOSS, x, Y) if is_recorded else None
    frozen_norm(0, model, None)
    loader = DataLoader(TensorDataset(x, Y), batch_size=8)
    for inputs, targets in loader if recorder is None else recorder.follow(loader):
        optimizer.zero_grad()
        LOSS(model(inputs), targets).backward()
        optimizer.step()
    return model, recorder


def test_layers_in_evaluation_mode_stay_so_in_the_replay():
    run = with_frozen_norm(X, is_recorded=True)[1].run()
    expected = with_frozen_norm(X)[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in run.model.state_dict().items())
    dx = torch.randn(20, 3, dtype=X.dtype, generator=torch.Generator().manual_seed(1))
    ends = [goal(with_frozen_norm(X + sign * 1e-5 * dx)[0].eval()).detach() for sign in (1, -1)]
    predicted = float((run.attribute(goal, verify=False).features * dx).sum())
    assert predicted == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_layers_whose_mode_changes_on_the_way_are_refused():
    def switched(epoch: int, model: nn.Module, _: object) -> None:
        model[1].train(epoch == 0)

    with pytest.raises(ValueError, match="`loop`.*same mode.*changed on the way"):
        recorded(switched)
