"""A parameter that a step does not use is skipped by the optimizer, and its derivative with it."""

import warnings
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from solset import Decay, Move, Training
from solset.training import LearningRate, Run, record

F64 = torch.float64
X = torch.randn(14, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(14) % 3
DX = torch.randn(2, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
LOSS = nn.CrossEntropyLoss()
MOVE = Move([1, 6], DX)


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()


class Branches(nn.Module):
    """A branch that only some steps use, counted in a buffer, and a parameter that no step uses."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.trunk, self.branch, self.never = layers(), layers(), nn.Parameter(torch.ones(2, dtype=F64))
        self.scale = nn.Parameter(torch.ones((), dtype=F64))
        self.register_buffer("count", torch.tensor(first))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count += 1
        return self.trunk(x) + (self.scale * self.branch(x) if int(self.count) % 3 == 0 else 0.0)


class Dropped(nn.Module):
    """A layer that is left out by chance, as in LayerDrop."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, width).double() for width in (4, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x).tanh()
        if not self.training or float(torch.rand(())) < 0.5:
            hidden = hidden + self.b(hidden).tanh()
        return self.c(hidden)


class Checkpointed(nn.Module):
    """A reentrant checkpoint of inputs without a gradient, whose parameters PyTorch gives none."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = layers(), nn.Linear(3, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        with warnings.catch_warnings(action="ignore"):
            return self.outside(checkpoint(self.inside, x, use_reentrant=True))


MODELS = {
    "checkpoint": Checkpointed,
    "from the first step": partial(Branches, 2),
    "from a later step": partial(Branches, 0),
    "drop": Dropped,
}
OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.1, weight_decay=0.5),
    "dampening": partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
    "Nesterov": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": partial(torch.optim.Adam, lr=1e-2, weight_decay=0.1, eps=1e-2),
    "AdamW": partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.5, eps=1e-2, amsgrad=True),
    "NAdam": partial(torch.optim.NAdam, lr=1e-2, weight_decay=0.1, eps=1e-2),
    "Adagrad": partial(torch.optim.Adagrad, lr=1e-2, weight_decay=0.1, eps=1e-2),
    "RMSprop": partial(torch.optim.RMSprop, lr=1e-3, weight_decay=0.1, eps=1e-2),
}


def loop(make, optimizer, follow=None) -> tuple[nn.Module, object]:
    torch.manual_seed(3)
    model = make().train()
    steps = optimizer(model.parameters())
    recorder = record(model, steps, LOSS, X, Y) if follow else None
    loader = DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True)
    for _ in range(2):
        for inputs, targets in recorder.follow(loader) if recorder else loader:
            steps.zero_grad()
            LOSS(model(inputs), targets).backward()
            steps.step()
    return model, recorder


def run_of(make, optimizer) -> Run:
    return Training(make, LOSS, X, Y, optimizer=optimizer, epochs=2, batch_size=5, seed=3).run()


def central(run: Run, change, step: float = 1e-4) -> Tensor:
    ends = [run.retrain(change, scale=sign * step, progress=False).weights for sign in (1, -1)]
    return (ends[0] - ends[1]) / (2 * step)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([value.reshape(-1) for value in model.parameters()])


CASES = [
    *[("from the first step", name) for name in ("SGD", "Nesterov", "Adagrad", "RMSprop")],
    *[("from a later step", name) for name in ("dampening", "Adam", "AdamW", "NAdam")],
    *[("drop", name) for name in ("SGD", "Adam")],
    ("checkpoint", "SGD"),
]


@pytest.mark.parametrize(("model", "name"), CASES)
def test_skipped_parameters_have_the_derivative_of_reruns(model, name):
    make, optimizer = MODELS[model], OPTIMIZERS[name]
    run = run_of(make, optimizer)
    assert torch.equal(run.weights, flat(loop(make, optimizer)[0]).detach())
    direction = torch.randn(len(run.weights), dtype=F64, generator=torch.Generator().manual_seed(2))
    worth = run.attribute(lambda model: flat(model) @ direction, verify=False)
    sums = {
        MOVE: float((worth.features[[1, 6]] * DX).sum()),
        Decay(0.1) + LearningRate(0.1): 0.1 * (worth.decay + worth.learning_rate),
    }
    for change, by_adjoint in sums.items():
        tangent = run.estimate(change, verify=False).change
        real = central(run, change)
        assert float((tangent - real).norm() / real.norm()) < 1e-6
        assert by_adjoint == pytest.approx(float(tangent @ direction), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", ["dampening", "Adam"])
def test_states_between_kept_ones_and_a_recorded_loop_skip_them_too(name):
    make, optimizer = MODELS["from a later step"], OPTIMIZERS[name]
    kept = run_of(make, optimizer)
    training = Training(make, LOSS, X, Y, optimizer=optimizer, epochs=2, batch_size=5, seed=3)
    others = [training.run(memory_budget=12_000), loop(make, optimizer, follow=True)[1].run()]
    assert others[0].stride > 1
    goal = lambda model: LOSS(model(X), Y)  # noqa: E731
    expected = kept.attribute(goal, verify=False).features
    assert all(torch.equal(run.attribute(goal, verify=False).features, expected) for run in others)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.NAdam, torch.optim.ASGD])
def test_a_parameter_of_no_axis_stands_beside_others(optimizer, dtype):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.layer = (
                nn.Parameter(torch.tensor(2.0, dtype=dtype)),
                nn.Linear(4, 3, dtype=dtype),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * self.layer(x)

    recipe = {"optimizer": partial(optimizer, lr=1e-2), "epochs": 2, "batch_size": 5}
    run = Training(Scaled, LOSS, X.to(dtype), Y, **recipe).run()
    tangent = run.estimate(Move([1, 6], DX.to(dtype)), verify=False).change.double()
    real = central(Training(lambda: Scaled().double(), LOSS, X, Y, **recipe).run(), MOVE)
    assert float((tangent - real).norm() / real.norm()) < (1e-6 if dtype == F64 else 1e-3)


def test_an_interrupted_run_knows_which_parameters_it_skipped(tmp_path):
    training = Training(
        MODELS["from a later step"], LOSS, X, Y, optimizer=OPTIMIZERS["Adam"], epochs=2, batch_size=5
    )
    goal = lambda model: LOSS(model(X), Y)  # noqa: E731
    scores = [
        training.run(checkpoint=tmp_path / "run.safetensors").attribute(goal, verify=False).features
        for _ in range(2)
    ]
    assert torch.equal(*scores)
    assert torch.equal(scores[0], training.run().attribute(goal, verify=False).features)
