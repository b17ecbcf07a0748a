"""A combination of layer, loss, dtype, training and form of weights, and the model that it stands for."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .functions import BEHIND
from .layers import LAYERS, Layer, SoftLength
from .losses import LOSSES, Loss, LossKind

ALL_LAYERS: dict[str, Layer] = {**LAYERS, **BEHIND}
FORMS = ("free", "frozen part", "tied", "scalar", "normalised")
TRAININGS = ("stationary", "fitted")
DTYPES = (torch.float64, torch.float32)
SCALE_FREE = ("weight norm", "weight norm, old", "weight norm by hand", "spectral norm")
DECAY = 0.05  # large enough that a short training reaches its minimum
POINTS = 8


@dataclass(frozen=True)
class Combination:
    """One draw; everything else of it follows from these values."""

    layer: str
    loss: str
    training: str
    form: str
    dtype: torch.dtype
    seed: int

    @property
    def weight_decay(self) -> float:
        """The decay of the training; a weight whose length does not matter has no minimum under decay."""
        has_decay = self.training == "stationary" and self.layer not in SCALE_FREE
        return DECAY if has_decay else 0.0

    @property
    def is_smooth(self) -> bool:
        """Whether PyTorch can differentiate it twice, so that a refusal would be needless."""
        return ALL_LAYERS[self.layer].is_smooth and LOSSES[self.loss].is_smooth

    def __str__(self) -> str:
        parts = (self.layer, self.loss, self.training, self.form, str(self.dtype).removeprefix("torch."))
        return " | ".join((*parts, f"seed {self.seed}"))


def draw(count: int, seed: int) -> list[Combination]:
    """The first ``count`` combinations of a seed, each layer and loss as often as any other.

    Args:
        count: Number of combinations.
        seed: Seed of the draw.
    """
    source, drawn = random.Random(seed), []
    layers: list[str] = []
    losses: list[str] = []
    for k in range(count):
        layers = layers or source.sample(list(ALL_LAYERS), len(ALL_LAYERS))
        losses = losses or source.sample(list(LOSSES), len(LOSSES))
        layer, loss = layers.pop(), losses.pop()
        training = source.choice(TRAININGS) if LOSSES[loss].fitted is not None else "stationary"
        form, dtype = source.choice(FORMS), source.choice(DTYPES)
        drawn.append(Combination(layer, loss, training, form, dtype, 1000 * seed + k))
    return drawn


class TiedHead(nn.Module):
    """Two linear maps that share one matrix, one of them behind a tanh."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.plain, self.curved = nn.Linear(features, outputs), nn.Linear(features, outputs)
        self.curved.weight = self.plain.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x) + 0.5 * self.curved(x.sin())


class ScaledHead(nn.Module):
    """A linear map times the exponential of a 0-dimensional weight."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.log_scale = nn.Linear(features, outputs), nn.Parameter(torch.tensor(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.log_scale.exp() * self.linear(x)


class Net(nn.Module):
    """A layer, and a head on the row of its features."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


def head(form: str, features: int, outputs: int) -> nn.Module:
    match form:
        case "tied":
            return TiedHead(features, outputs)
        case "scalar":
            return ScaledHead(features, outputs)
        case "normalised":
            linear = nn.Linear(features, outputs)
            parametrize.register_parametrization(linear, "weight", SoftLength())
            return linear
    return nn.Linear(features, outputs)


@dataclass(frozen=True, eq=False)
class Training:
    """A model with its loss and data, in one dtype, where ``loss`` may hold weights of its own."""

    model: nn.Module
    loss: Loss
    inputs: Tensor
    targets: Tensor
    weight_decay: float

    @property
    def moving(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def learned(self) -> list[nn.Parameter]:
        """The weights of the loss itself."""
        return list(self.loss.parameters()) if isinstance(self.loss, nn.Module) else []

    def risk(self) -> Tensor:
        decay = 0.5 * self.weight_decay * sum(p.square().sum() for p in self.moving)
        return self.loss(self.model(self.inputs), self.targets) + decay


@contextlib.contextmanager
def drawn_from(seed: int, dtype: torch.dtype) -> Iterator[None]:
    """A default dtype and a state of the random numbers, both put back afterwards."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def untrained(combination: Combination) -> Training:
    """The model of a combination before its training, in float64.

    Args:
        combination: Combination that names the parts.
    """
    layer, kind = ALL_LAYERS[combination.layer], LOSSES[combination.loss]
    with drawn_from(combination.seed, torch.float64):
        model = Net(layer.build(), head(combination.form, layer.features, kind.outputs)).eval()
        inputs, targets = torch.randn(POINTS, *layer.shape), kind.targets(POINTS)
    if combination.form == "frozen part":
        part = (model.body, model.head)[combination.seed % 2]
        rest = (model.head, model.body)[combination.seed % 2]
        has_rest = any(True for _ in rest.parameters())
        first = next(iter((part if has_rest else model.head).parameters()), None)
        if first is not None:
            first.requires_grad_(False)
    return Training(model, kind.build(model), inputs, targets, combination.weight_decay)


def in_dtype(combination: Combination, trained: Training, dtype: torch.dtype) -> Training:
    """The same training in a dtype, with a model of its own.

    Args:
        combination: Combination that the training belongs to.
        trained: Training whose weights are copied.
        dtype: Dtype of the copy.
    """
    copy = untrained(combination)
    model = copy.model.to(dtype)
    kind: LossKind = LOSSES[combination.loss]
    with torch.no_grad():
        for into, value in zip(model.parameters(), trained.model.parameters(), strict=True):
            into.copy_(value)
        loss = kind.build(model)
        if isinstance(loss, nn.Module):
            loss.to(dtype).load_state_dict({k: v.to(dtype) for k, v in trained.loss.state_dict().items()})
    targets = trained.targets.to(dtype) if trained.targets.is_floating_point() else trained.targets
    return Training(model.eval(), loss, trained.inputs.to(dtype), targets, trained.weight_decay)
