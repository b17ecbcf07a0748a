"""Training that goes on from a checkpoint is the user's loop that never stopped."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Training

OPTIMIZERS = {
    "SGD with momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "AdamW": partial(torch.optim.AdamW, lr=1e-2, eps=1e-4),
    "two groups": lambda ps: torch.optim.Adam([{"params": ps[:1], "lr": 1e-2}, {"params": ps[1:]}], lr=1e-3),
}


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(16, 3, dtype=torch.float64, generator=generator)
    return x, x.sum(dim=1, keepdim=True).sin()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    x, y = data()
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()


def continued(make_optimizer, before: int, further: int) -> tuple[Training, nn.Module]:
    """The training that goes on after some steps, and the model of the loop that never stopped."""
    torch.manual_seed(0)
    model = net()
    optimizer = make_optimizer(list(model.parameters()))
    steps(model, optimizer, before)
    arguments = {"optimizer": make_optimizer, "epochs": further, "optimizer_state": optimizer.state_dict()}
    training = Training(model, nn.MSELoss(), *data(), **arguments)
    steps(model, optimizer, further)
    return training, model


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_further_training_is_the_loop_that_never_stopped_bit_for_bit(make_optimizer):
    training, model = continued(make_optimizer, 5, 7)
    run = training.run()
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_its_derivative_is_that_of_real_reruns_from_the_same_checkpoint(make_optimizer):
    run = continued(make_optimizer, 5, 7)[0].run()
    change = Move([1, 4], torch.ones(2, 3, dtype=torch.float64))
    ends = [run.retrain(change, scale=sign * 1e-4).weights for sign in (1, -1)]
    tangent = run.estimate(change, verify=False).change
    real = (ends[0] - ends[1]) / 2e-4
    assert float((tangent - real).norm() / real.norm()) < 1e-6
    features = run.attribute(lambda model: model[0].weight.square().sum()).features
    slope = 2 * run.model[0].weight.flatten().detach() @ tangent[:12]
    assert float(features[[1, 4]].sum()) == pytest.approx(float(slope), rel=1e-10)


@pytest.mark.parametrize("other", [nn.Linear(3, 2).double(), nn.Linear(2, 1).double()])
def test_a_state_of_other_parameters_is_refused(other):
    optimizer = torch.optim.AdamW(other.parameters())
    for parameter in other.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with pytest.raises(ValueError, match="optimizer_state"):
        Training(
            nn.Linear(3, 1).double(),
            nn.MSELoss(),
            *data(),
            optimizer=torch.optim.AdamW,
            optimizer_state=optimizer.state_dict(),
        )


def test_rates_are_those_of_the_factory_and_not_of_the_checkpoint():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    steps(model, optimizer, 1)
    sgd = partial(torch.optim.SGD, lr=0.0, momentum=0.9)
    training = Training(model, nn.MSELoss(), *data(), optimizer=sgd, optimizer_state=optimizer.state_dict())
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.equal(training.run().weights, before)


def test_the_start_stays_when_the_user_trains_the_model_on():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps(model, optimizer, 2)
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    training = Training(model, nn.MSELoss(), *data(), optimizer=sgd, optimizer_state=optimizer.state_dict())
    before = training.run().weights
    steps(model, optimizer, 3)
    assert torch.equal(training.run().weights, before)
