"""What cannot be a training, or has no derivative, is refused by name."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from solset import Move, Remove, Reweight, Training
from solset.training import record

SGD = partial(torch.optim.SGD, lr=0.1)
X, Y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2


def make() -> nn.Module:
    return nn.Linear(3, 2)


CROSS_ENTROPY = nn.CrossEntropyLoss()


def training(make_model=make, loss=CROSS_ENTROPY, **recipe) -> Training:
    return Training(make_model, loss, X, Y, **{"optimizer": SGD, "batch_size": 4, **recipe})


REFUSED = {
    "L-BFGS": ({"optimizer": torch.optim.LBFGS}, ValueError, "`optimizer`.*LBFGS.*differentiable"),
    "no optimizer": ({"optimizer": lambda _: None}, TypeError, "`optimizer`.*NoneType"),
    "some parameters": ({"optimizer": lambda p: SGD(p[:1])}, ValueError, "`optimizer`.*1 parameters of 2"),
    "schedule_each": ({"schedule_each": "batch"}, ValueError, "`schedule_each`.*'epoch', 'step'"),
    "no epoch": ({"epochs": 0}, ValueError, "`epochs`.*positive"),
    "clip": ({"clip_norm": -1.0}, ValueError, "`clip_norm`.*positive"),
    "lazy layer": (
        {"make_model": lambda: nn.LazyLinear(2)},
        ValueError,
        "`make_model`.*have shapes.*weight, bias.*on a batch",
    ),
    "lazy layer that is copied": (
        {"make_model": nn.Sequential(nn.Linear(3, 2), nn.LazyBatchNorm1d(affine=False))},
        ValueError,
        r"`make_model`.*have shapes.*1\.running_mean",
    ),
    "no model": ({"make_model": lambda: 3}, TypeError, "`make_model`.*int"),
    "frozen": (
        {"make_model": lambda: make().requires_grad_(False)},
        ValueError,
        "`make_model`.*require grad",
    ),
    "loss of points": ({"loss": nn.CrossEntropyLoss(reduction="none")}, TypeError, r"`loss`.*shape \(4,\)"),
    "augment by NumPy": (
        {"augment": lambda x: x + float(np.random.default_rng().normal())},
        ValueError,
        "`recipe`.*other weights after two steps",
    ),
}


@pytest.mark.parametrize(("given", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_recipe_is_refused_by_name(given, error, words):
    with pytest.raises(error, match=words):
        training(**given)


def test_model_that_differs_each_time_is_refused():
    weights = iter([torch.zeros(2, 3), torch.ones(2, 3)] * 3)

    def other() -> nn.Module:
        model = make()
        model.weight.data = next(weights).clone()
        return model

    with pytest.raises(ValueError, match="`make_model`.*another model from the same seed"):
        training(make_model=other)


def test_step_at_which_the_loss_is_not_finite_is_named():
    def squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs[:, 0] - targets).square().mean()

    at = training(optimizer=partial(torch.optim.SGD, lr=1e10), loss=squares, epochs=50)
    with pytest.raises(ValueError, match=r"`loss`.*at step \d+"):
        at.run()


def test_removal_needs_a_loss_that_comes_from_those_of_points():
    def batch_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets) + outputs.std()

    run = training(loss=batch_loss).run()
    with pytest.raises(ValueError, match="`change`.*no mean and no sum over the points"):
        run.estimate(Remove([1]))
    moved = run.estimate(Move([1], 1e-4 * torch.ones(1, 3)), verify=False)
    assert float(moved.change.norm()) > 0
    assert run.attribute(lambda model: model(X).square().sum()).weights is None


@pytest.mark.parametrize(
    ("goal", "error", "words"),
    [
        (lambda _: 3.0, TypeError, "`goal`.*float"),
        (lambda model: model(X), ValueError, r"`goal`.*a vector.*shape \(12, 2\)"),
        (lambda _: X.sum(), ValueError, "`goal`.*does not depend"),
    ],
    ids=["number", "block", "constant"],
)
def test_goal_is_one_number_of_the_weights(goal, error, words):
    with pytest.raises(error, match=words):
        training().run().attribute(goal)


def test_budget_that_holds_no_states_says_what_it_takes():
    with pytest.raises(ValueError, match=r"`memory_budget`.*bytes for the states of 3 steps.*folder"):
        training().run(memory_budget=10)


def test_removing_all_points_is_refused():
    with pytest.raises(ValueError, match="`points`.*fewer than all"):
        training().run().estimate(Remove(range(12)))


def spread(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A loss with a term of the whole batch."""
    return nn.functional.cross_entropy(outputs, targets) + outputs.std()


def root(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A function of a mean over points."""
    return nn.functional.cross_entropy(outputs, targets).sqrt()


@pytest.mark.parametrize("loss", [spread, root])
@pytest.mark.parametrize("change", [Remove([1]), Reweight([1], 1e-6)], ids=["removal", "weight"])
def test_factors_of_points_are_refused_for_a_loss_that_is_neither_mean_nor_sum(loss, change):
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    sgd = partial(torch.optim.SGD, lr=1e-2)
    training = Training(
        lambda: nn.Linear(3, 2), loss, x, torch.tensor([0, 1] * 4), optimizer=sgd, epochs=2, batch_size=3
    )
    run = training.run()
    for call in (run.retrain, training.retrain, run.estimate):
        with pytest.raises(ValueError, match="no mean and no sum over the points of a batch"):
            call(change)
    attribution = run.attribute(lambda model: model(x).square().mean())
    assert attribution.weights is None
    assert "no mean and no sum over points" in attribution.message


def test_a_point_that_moves_and_leaves_is_refused():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    training = Training(
        lambda: nn.Linear(3, 1), nn.MSELoss(), x, x[:, :1], optimizer=torch.optim.AdamW, epochs=1
    )
    with pytest.raises(ValueError, match="a move and a removal of points"):
        training.run().estimate(Remove([1]) + Move([1], torch.ones(1, 3)))


class Once(torch.autograd.Function):
    """The hyperbolic tangent with a gradient that has no derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return slope * (1 - x.tanh() ** 2)


class Failing(Once):
    """The same, with a backward pass that fails where it is recorded."""

    @staticmethod
    def backward(ctx, slope):
        if torch.is_grad_enabled():
            raise RuntimeError("no second derivative")
        (x,) = ctx.saved_tensors
        return slope * (1 - x.tanh() ** 2)


@pytest.mark.parametrize(("function", "words"), [(Once, "once_differentiable"), (Failing, "no second")])
def test_a_model_without_second_derivatives_is_refused_by_its_run(function, words, tmp_path):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return function.apply(self.linear(inputs))

    run = training(Net).run()

    def from_file() -> None:  # asked twice: the file of a replay that was refused does not pass the check
        run.attribute(lambda m: m(X).sum(), checkpoint=tmp_path / "replay.safetensors")

    whole = (lambda: run.attribute(lambda m: m(X).sum()), lambda: run.estimate(Remove([1])))
    for ask in (*whole, from_file, from_file):
        with pytest.raises(TypeError, match=f"`model`.*differentiated twice.*{words}"):
            ask()


def with_hook(parameters) -> torch.optim.Optimizer:
    optimizer = SGD(parameters)
    optimizer.register_step_pre_hook(lambda *_: None)
    return optimizer


def test_hooks_of_steps_are_refused():
    with pytest.raises(ValueError, match=r"`optimizer`.*without hooks.*with_hook.<locals>.<lambda>"):
        training(optimizer=with_hook)
    model = make()
    with pytest.raises(ValueError, match="`optimizer`.*without hooks"):
        record(model, with_hook(model.parameters()), CROSS_ENTROPY, X, Y)
    recorder = record(model, optimizer := SGD(model.parameters()), CROSS_ENTROPY, X, Y)
    optimizer.register_step_post_hook(lambda *_: None)
    with pytest.raises(ValueError, match="`optimizer`.*without hooks"):
        recorder.run()
    hook = register_optimizer_step_post_hook(lambda *_: None)
    try:
        with pytest.raises(ValueError, match="`optimizer`.*on the steps of all optimizers"):
            training()
    finally:
        hook.remove()


def test_parallel_wrapper_is_refused_at_the_door():
    with pytest.raises(TypeError, match=r"`make_model`.*DataParallel.*\.module"):
        training(lambda: nn.DataParallel(make()))
    model = make()
    with pytest.raises(TypeError, match=r"`model`.*DataParallel"):
        record(nn.DataParallel(model), SGD(model.parameters()), CROSS_ENTROPY, X, Y)


def test_spectral_norm_of_old_is_copied_with_its_goal():
    def normed() -> nn.Module:
        return nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 4)), nn.Linear(4, 2))

    run = training(normed).run()
    value = run.value(lambda model: model(X).square().mean())
    assert value == pytest.approx(run.model(X).square().mean().item())
    recorder = record(run.model, SGD(run.model.parameters()), CROSS_ENTROPY, X, Y)  # it was called before
    with pytest.raises(ValueError, match="`loop`"):
        recorder.run()


def test_retraining_is_refused_where_the_loss_has_counted_on():
    calls = 0

    def annealed(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return nn.functional.cross_entropy(outputs / (1 + (calls > 12)), targets)

    run = training(loss=annealed, epochs=4).run()
    with pytest.raises(ValueError, match=r"`recipe`.*other weights after two steps.*no count"):
        run.retrain(Reweight([3], [0.1]))
