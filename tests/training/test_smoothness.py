"""Where training has no derivative, that is measured and said."""

from functools import partial

import pytest
import torch
from torch import nn

from solset import Move, Remove, SolsetWarning, Training

AdamW = partial(torch.optim.AdamW, lr=3e-3)


def digits_like(n: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """Small images of three classes; the first two pixels are black in all of them."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    x = torch.rand(n, 12, generator=generator) * 0.5 + torch.nn.functional.one_hot(y, 3).repeat(1, 4) * 0.5
    x[:, :2] = 0.0
    return x, y


def trained(activation: type[nn.Module], **recipe) -> Training:
    x, y = digits_like()

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(12, 32), activation(), nn.Linear(32, 3))

    given = {"optimizer": AdamW, "epochs": 8, "batch_size": 16, **recipe}
    return Training(make, nn.CrossEntropyLoss(), x, y, **given)


def brighter(x: torch.Tensor) -> Move:
    """All points change by 1 % of their values; black pixels stay black."""
    return Move(None, 0.01 * x * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))


def test_smooth_recipe_is_called_differentiable():
    at = trained(nn.Tanh, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    estimate = at.run().estimate(brighter(digits_like()[0]))
    assert estimate.smoothness.verdict == "training is differentiable at this scale"
    assert max(estimate.smoothness.errors) < 0.05
    assert estimate.smoothness.status == "converged"
    assert estimate.message == ""
    assert "‖w - w_T‖" in repr(estimate)


def test_step_of_signs_is_called_not_differentiable():
    at = trained(nn.Tanh, optimizer=partial(torch.optim.Rprop, lr=1e-2))
    with pytest.warns(SolsetWarning, match="not differentiable at this scale"):
        estimate = at.run().estimate(brighter(digits_like()[0]))
    assert estimate.smoothness.holds_to == 0.0
    assert estimate.smoothness.status == estimate.status == "doubtful"
    assert estimate.smoothness.message == "training is not differentiable at this scale"


def test_verdict_is_that_of_real_reruns():
    at = trained(nn.Tanh, optimizer=partial(torch.optim.SGD, lr=0.1))
    run, change = at.run(), Remove(list(range(40)))
    measured = run.smoothness(change, scales=(1.0, 0.1))
    with pytest.warns(SolsetWarning) if measured.holds_to < 1 else torch.no_grad():
        predicted = run.estimate(change).change
    real = run.retrain(change, progress=False).change
    assert measured.errors[0] == pytest.approx(float((predicted - real).norm() / real.norm()))
    assert measured.errors[1] < 0.2 * measured.errors[0]


def test_pixels_that_are_always_black_are_named():
    run = trained(nn.Tanh).run()
    with pytest.warns(SolsetWarning, match=r"64 of 0\.weight.*features 0, 1"):
        worth = run.attribute(lambda model: model(digits_like()[0]).square().mean())
    assert worth.kinks.entries == {"0.weight": 64}  # two pixels, 32 units
    assert worth.kinks.features == (0, 1)
    assert bool(torch.isfinite(worth.features).all())


def test_waking_a_black_pixel_moves_the_weights_however_small_the_change():
    run = trained(nn.Tanh).run()
    x, _ = digits_like()
    dx = torch.zeros_like(x)
    dx[:, 0] = 1e-6
    moved = run.retrain(Move(None, dx), progress=False).change
    assert float(moved.norm()) > 0.01


class Detaching(torch.autograd.Function):
    """A tanh whose backward pass multiplies by a number, so that autograd's second derivative misses it."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        ctx.outputs = torch.tanh(x)
        return ctx.outputs.clone()

    @staticmethod
    def backward(ctx, slope: torch.Tensor) -> torch.Tensor:
        return slope * (1 - ctx.outputs.detach() ** 2)


class DetachedTanh(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Detaching.apply(x)


def test_a_backward_pass_that_detaches_is_told_with_every_derivative():
    run = trained(DetachedTanh, optimizer=partial(torch.optim.SGD, lr=0.1), epochs=2).run()
    with pytest.warns(SolsetWarning, match=r"second derivatives by autograd are \d+% off"):
        attribution = run.attribute(lambda model: model(digits_like()[0]).square().mean())
    assert "the derivative of a step is wrong" in attribution.message
    with pytest.warns(SolsetWarning, match=r"second derivatives by autograd are \d+% off"):
        run.estimate(Remove([3]), verify=False)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_right_second_derivatives_raise_no_alarm_and_smoothness_is_said_not_to_be_asked(activation, dtype):
    x, y = digits_like()
    sgd = partial(torch.optim.SGD, lr=0.1)

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(12, 32), activation(), nn.Dropout(0.2), nn.Linear(32, 3)).to(dtype)

    training = Training(make, nn.CrossEntropyLoss(), x.to(dtype), y, optimizer=sgd, batch_size=16)
    attribution = training.run().attribute(lambda model: model(x.to(dtype)).square().mean(), verify=False)
    assert attribution.fault == ""
    assert "whether training is smooth was not asked" in attribution.message


def test_a_loss_that_rounds_to_single_precision_raises_no_alarm():
    x, y = digits_like()

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        times = torch.tensor(3.0)
        kind = (targets == 1).float()  # the loss is in this dtype, that of the outputs does not count
        return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], kind, pos_weight=times)

    sgd = partial(torch.optim.SGD, lr=0.1)
    run = Training(lambda: nn.Linear(12, 1), loss, x, y, optimizer=sgd, epochs=1, batch_size=16).run()
    assert run.attribute(lambda model: model(x).mean(), verify=False).fault == ""
