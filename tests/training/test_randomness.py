"""What a data set or an augmentation draws is drawn again by the replay, and the user's generators stay."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from solset import Move, Training

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
X = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 2
LOSS = nn.CrossEntropyLoss()
STEP = torch.zeros_like(X)
STEP[[1, 5]] = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Noisy(Dataset):
    """Points that get other noise whenever they are read, as by an augmentation."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i] + 0.3 * torch.randn(3, dtype=torch.float64), Y[i]


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def looped(x: Tensor) -> Tensor:
    """The weights at the end of the loop that a user writes."""
    torch.manual_seed(3)
    model = make()
    optimizer = SGD(model.parameters())
    for _ in range(2):
        for inputs, targets in DataLoader(Noisy(x), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            LOSS(model(inputs), targets).backward()
            optimizer.step()
    return torch.cat([value.detach().reshape(-1) for value in model.parameters()])


def test_data_set_that_draws_is_drawn_again():
    with torch.random.fork_rng():
        truth, h = looped(X), 1e-5
        slope = (looped(X + h * STEP) - looped(X - h * STEP)) / (2 * h)
    before = torch.get_rng_state()
    run = Training(make, LOSS, Noisy(X), optimizer=SGD, epochs=2, batch_size=4, seed=3).run()
    assert torch.equal(run.weights, truth)
    estimate = run.estimate(Move([1, 5], 1e-4 * STEP[[1, 5]]), verify=False)
    assert torch.allclose(estimate.change / 1e-4, slope, rtol=1e-6, atol=1e-9)
    worth = run.attribute(lambda model: sum(value.sum() for value in model.parameters()))
    assert worth.features is not None
    assert worth.weights is not None
    assert torch.isclose((worth.features * STEP).sum(), slope.sum(), rtol=1e-6)
    assert torch.equal(before, torch.get_rng_state())


def test_augmentation_may_write_to_its_inputs():
    def scaled(inputs: Tensor) -> Tensor:
        return inputs.mul_(1 + 0.1 * torch.randn_like(inputs))

    recipe = {"optimizer": SGD, "epochs": 2, "batch_size": 4}
    runs = [
        Training(make, LOSS, X, Y, augment=augment, **recipe).run()
        for augment in (scaled, lambda inputs: scaled(inputs.clone()))
    ]
    first, second = (run.estimate(Move([1, 5], 1e-4 * STEP[[1, 5]]), verify=False) for run in runs)
    assert torch.equal(first.change, second.change)
