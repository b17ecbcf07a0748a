"""A replay that does not repeat training, or leaves a moving state out, is doubtful and says by how much."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Reweight, SolsetWarning, Training, audit
from solset.errors import Status

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
X = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 2
STEP = 1e-4 * torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()


class Counted(Base):
    """A temperature that falls with a count of calls."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return self.layer(x) / (1 + 0.1 * self.calls)


class CountedInBuffer(Base):
    """The same temperature with its count in a buffer, of real numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return self.layer(x) / (1 + 0.1 * self.calls)


class OwnGenerator(Base):
    """Noise from a generator of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(5)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        return self.layer(x + 0.1 * noise)


class Centred(Base):
    """Outputs less their running mean, which moves without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.layer(x)
        centred = outputs - self.centre
        if self.training:
            with torch.no_grad():
                self.centre.lerp_(outputs.mean(0), 0.3)
        return centred


class CentredAnew(Centred):
    """The same, with a new tensor in each step."""

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.layer(x)
        centred = outputs - self.centre
        if self.training:
            self.centre = 0.7 * self.centre + 0.3 * outputs.detach().mean(0)
        return centred


class Averaged(Base):
    """A second layer that follows the first, as in momentum contrast."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(3, 2).double().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.second.weight.data = 0.9 * self.second.weight.data + 0.1 * self.layer.weight.data
        return self.layer(x) + self.second(x)


def run_of(make, **recipe):
    loss = nn.CrossEntropyLoss()
    return Training(make, loss, X, Y, **{"optimizer": SGD, "epochs": 2, "batch_size": 4, **recipe}).run()


def goal(model: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(model(X), Y)


DOUBTFUL = {
    "count of calls": (Counted, r"another loss than training did, .* for .* at step \d \(.* % apart\)"),
    "own generator": (OwnGenerator, r"another loss than training did, .* for .* at step \d \(.* % apart\)"),
    "centre": (Centred, r"buffers that no derivative follows, centre \(by .* %\)"),
    "new centre": (CentredAnew, r"buffers that no derivative follows, centre \(by .* %\)"),
    "instance norm": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 3)),
            nn.InstanceNorm1d(1, track_running_stats=True),
            nn.Flatten(),
            nn.Linear(3, 2),
        ).double(),
        r"buffers that no derivative follows, 1.running_mean",
    ),
}


@pytest.mark.parametrize(("make", "words"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_what_a_replay_does_not_repeat_is_doubtful(make, words):
    run = run_of(make)
    with pytest.warns(SolsetWarning, match=words):
        estimate = run.estimate(Move([1, 5], STEP), verify=False)
    assert estimate.status is Status.DOUBTFUL
    with pytest.warns(SolsetWarning, match=words):
        worth = run.attribute(goal)
    assert worth.status is Status.DOUBTFUL
    assert worth.weights is not None


def test_count_in_a_buffer_is_repeated():
    run = run_of(CountedInBuffer)
    estimate = run.estimate(Move([1, 5], STEP), verify=False)
    real = (run.retrain(Move([1, 5], STEP)).change - run.retrain(Move([1, 5], -STEP)).change) / 2
    assert estimate.status is Status.CONVERGED
    assert torch.allclose(estimate.change, real, rtol=1e-5, atol=1e-11)


def test_frozen_parameters_that_move_are_refused():
    run = run_of(Averaged)
    with pytest.raises(ValueError, match=r"`model`.*second.weight, which moved without requiring grad"):
        run.estimate(Reweight([1], [0.1]))
    assert run.retrain(Reweight([1], [0.1])).change.norm() > 0


def test_losses_near_zero_are_repeated_up_to_rounding():
    x = X.float()
    loss, recipe = (
        nn.MSELoss(),
        {"optimizer": partial(torch.optim.SGD, lr=0.3), "epochs": 60, "batch_size": 4},
    )
    run = Training(lambda: nn.Linear(3, 1), loss, x, x[:, :1].clone(), **recipe).run()
    assert run.losses[-1] < 1e-10
    assert run.estimate(Reweight([1], [0.1]), verify=False).fault == ""


def test_weights_that_the_forward_pass_moves_are_doubtful():
    ids = torch.arange(12).reshape(12, 1) % 5

    def make() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Embedding(5, 3, max_norm=0.5), nn.Flatten(), nn.Linear(3, 2)).double()

    run = Training(make, nn.CrossEntropyLoss(), ids, Y, optimizer=SGD, epochs=2, batch_size=4).run()
    words = r"other weights than training did after step \d, by .* % of the step.*max_norm"
    with pytest.warns(SolsetWarning, match=words):
        estimate = run.estimate(Reweight([1], [0.01]), verify=False)
    assert estimate.status is Status.DOUBTFUL
    with pytest.warns(SolsetWarning, match=words):
        worth = run.attribute(lambda model: nn.functional.cross_entropy(model(ids), Y))
    assert worth.status is Status.DOUBTFUL


@pytest.mark.filterwarnings("ignore::solset.SolsetWarning")
def test_doubts_reach_audits_and_ensembles():
    training = Training(Counted, nn.CrossEntropyLoss(), X, Y, optimizer=SGD, epochs=2, batch_size=4)
    looked = audit(training.run(), validation=(X, Y))
    assert looked.status is Status.DOUBTFUL
    assert "another loss than training did" in looked.message
    worth = training.ensemble([0, 1]).attribute(goal)
    assert worth.status is Status.DOUBTFUL
    assert worth.message.startswith("2 of 2 seeds: the replay computes another loss")
