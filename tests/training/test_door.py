"""What a model, loss, optimizer or scheduler does not take is told with the argument it belongs to."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from solset import SolsetWarning, Training, filters

GENERATOR = torch.Generator().manual_seed(0)
X, LABELS = torch.randn(9, 3, generator=GENERATOR), torch.arange(9) % 2
SGD = partial(torch.optim.SGD, lr=0.1)
CROSS_ENTROPY, SQUARES = nn.CrossEntropyLoss(), nn.MSELoss()


def net(width: int = 3, outputs: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4), nn.Tanh(), nn.Linear(4, outputs))


def failing(*_: object) -> Tensor:
    raise OSError("no such file")


def training(make_model=net, loss=CROSS_ENTROPY, x=X, y=LABELS, **recipe) -> Training:
    return Training(make_model, loss, x, y, **{"optimizer": SGD, "batch_size": 4, **recipe})


REFUSED = {
    "width": ({"make_model": lambda: net(5)}, TypeError, r"`model`.*\(4, 3\) float32.*RuntimeError.*points"),
    "dtype of inputs": ({"x": X.double()}, TypeError, r"`model`.*Give real inputs in torch.float32"),
    "whole numbers": ({"x": X.long()}, TypeError, "`model`.*int64"),
    "labels beyond the outputs": ({"y": LABELS + 1}, TypeError, "`loss`.*out of bounds.*torch.long from 0"),
    "labels as real numbers": ({"y": LABELS.double()}, TypeError, "`loss`.*torch.long from 0"),
    "a row beside a column": (
        {"make_model": lambda: net(3, 1), "loss": SQUARES, "y": LABELS.float()},
        ValueError,
        r"`targets`.*every pair of points.*unsqueeze",
    ),
    "loss of its own": ({"loss": failing}, TypeError, "`loss`.*OSError: no such file"),
    "augmentation": ({"augment": failing}, TypeError, "`augment`.*OSError"),
    "model of its own": ({"make_model": failing}, TypeError, "`make_model`.*OSError"),
    "a name": ({"make_model": "resnet18"}, TypeError, "`make_model`.*resnet18"),
    "rate": ({"optimizer": partial(torch.optim.SGD, lr=-1.0)}, TypeError, "`optimizer`.*learning rate"),
    "an optimizer in use": (
        {"optimizer": torch.optim.SGD(net().parameters(), lr=0.1)},
        TypeError,
        "`optimizer`.*Callable",
    ),
    "schedule": ({"schedule": failing}, TypeError, "`schedule`.*OSError"),
    "no scheduler": ({"schedule": lambda _: 3}, TypeError, "`schedule`.*int"),
    "no step": ({"batch_size": 10, "drop_last": True}, ValueError, "`batch_size`.*at most the 9 points"),
    "state": ({"optimizer_state": 3}, TypeError, "`optimizer_state`"),
}


@pytest.mark.parametrize(("given", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_a_part_that_does_not_fit_is_refused_before_training(given, error, words):
    with pytest.raises(error, match=words):
        training(**given)


def plateau(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


LATER = {
    "label of a late point": ({"y": torch.where(torch.arange(9) == 8, 7, LABELS)}, "`loss`.*points 8"),
    "a batch of one": (
        {"make_model": lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))},
        "`model`.*points 8.*drop_last",
    ),
    "schedule with a measure": ({"schedule": plateau}, "`schedule`.*no argument"),
}


@pytest.mark.parametrize(("given", "words"), LATER.values(), ids=LATER)
def test_a_later_step_that_fails_is_told_with_its_points(given, words):
    late = training(**given, shuffle=False, epochs=2)
    with pytest.raises(TypeError, match=words):
        late.run()


def test_types_of_arguments_are_refused_by_name():
    at = training()
    for call, words in (
        (lambda: at.run(checkpoint=3), "`checkpoint`"),
        (lambda: at.run(folder=3), "`folder`"),
        (lambda: at.run().estimate(3), "`change`"),
        (lambda: at.retrain([1]), "`change`"),
        (lambda: at.with_seed("a"), "`seed`"),
        (lambda: at.ensemble(3), "`seeds`"),
    ):
        with pytest.raises(TypeError, match=words):
            call()


def test_a_loss_that_explodes_is_told_with_its_step():
    squares = {"make_model": lambda: nn.Linear(3, 1), "loss": SQUARES, "y": LABELS[:, None].float()}
    wild = training(**squares, optimizer=partial(torch.optim.SGD, lr=1.5), epochs=10, batch_size=None)
    with pytest.warns(UserWarning, match=r"training diverged.*at step \d+"):
        wild.run()


def test_weights_that_are_not_finite_after_the_last_step_are_refused():
    def root(outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs - targets) * 0).abs().sqrt().mean()

    squares = {"make_model": lambda: nn.Linear(3, 1), "y": LABELS[:, None].float()}
    with pytest.raises(ValueError, match=r"`loss`.*weight that are not finite after step 0"):
        training(**squares, loss=root, steps=1).run()


def test_a_training_says_what_it_is():
    assert repr(training(epochs=2)) == "Training(Sequential, n=9, SGD, 6 steps of batches of 4, seed 0)"


def test_an_optimizer_that_never_stepped_has_no_recipe():
    model = net()
    with pytest.raises(ValueError, match="`optimizer`.*a fresh AdamW"):
        filters.Recipe.of(torch.optim.AdamW(model.parameters()), model, steps=5)


class Held(nn.BatchNorm1d):
    """A layer that stays in evaluation mode."""

    def train(self, mode: bool = True) -> nn.Module:  # noqa: ARG002, FBT001, FBT002
        return super().train(False)


def held(kind: type[nn.Module]) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), kind(4), nn.Linear(4, 2))
    model[1].eval()
    return model


def test_a_layer_that_training_takes_out_of_evaluation_mode_is_named():
    with pytest.warns(SolsetWarning, match="puts 1 in evaluation mode.*train method"):
        run = training(lambda: held(nn.BatchNorm1d), drop_last=True).run()
    assert float(run.model[1].running_mean.abs().max()) > 0
    assert float(training(lambda: held(Held), drop_last=True).run().model[1].running_mean.abs().max()) == 0
    training(lambda: held(nn.BatchNorm1d).eval(), drop_last=True)
