"""Small networks of every kind of layer, and how the rows of each should be found."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from solset.risk import EmpiricalRisk, as_points, choose_parameters

EXACT = 1e-11

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def risk_of(model: nn.Module, inputs: Tensor, patterns=None) -> EmpiricalRisk:
    layout = choose_parameters(model, patterns)
    named = dict(model.named_parameters())
    weights = layout.join([named[name].detach() for name in layout.shapes])
    points = as_points(inputs, torch.zeros(len(inputs), 1), torch.device("cpu"))
    return EmpiricalRisk(model, nn.MSELoss(), "mean", points, layout, weights, 0.0, 64, len(inputs))


def plain_rows(model: nn.Module, inputs: Tensor, cotangents: Tensor, patterns=None) -> Tensor:
    """The module itself, called as its user calls it, with the gradients of its function."""
    if any(getattr(module, "scale_grad_by_freq", False) for module in model.modules()):
        model = copy.deepcopy(model)
        for module in model.modules():
            module.scale_grad_by_freq = False
    layout = choose_parameters(model, patterns)
    chosen = [dict(model.named_parameters())[name] for name in layout.shapes]
    rows = []
    for i, u in enumerate(cotangents):
        value = (model(inputs[i : i + 1]).reshape(-1) * u).sum()
        found = torch.autograd.grad(value, chosen, allow_unused=True, materialize_grads=True)
        rows.append(layout.join(found))
    return torch.stack(rows)


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert float(expected.norm()) > 0
    return float((found - expected).norm() / expected.norm())


def shake(model: nn.Module) -> nn.Module:
    """Random weights and running statistics, so that no scale is one and no shift is zero."""
    generator = torch.Generator().manual_seed(3)
    model = model.double().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.5 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
        for name, value in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator, dtype=torch.float64))
    return model


class Of(nn.Module):
    """Modules by name, and a forward method from a function of them and of the input."""

    def __init__(self, forward, **parts) -> None:
        super().__init__()
        self.call = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 2))
    model[2].weight = model[0].weight
    return model


def conv(kind, *args, tail=None, **options) -> nn.Module:
    return nn.Sequential(kind(*args, **options), *([tail] if tail is not None else []), nn.Tanh())


def norm(layer: nn.Module) -> nn.Module:
    """A normalisation with something before and behind it, along the last dimension."""
    return nn.Sequential(layer, nn.Tanh())


def vit() -> nn.Module:
    """Patches, a class token, positions, attention written by hand, a scale of the residual branch."""

    def attend(m, x):
        tokens = m.patch(x).flatten(2).mT
        tokens = torch.cat([m.token.expand(len(x), -1, -1), tokens], dim=1) + m.positions
        q, k, v = m.mix(m.norm(tokens)).chunk(3, dim=-1)
        tokens = tokens + m.scale * functional.scaled_dot_product_attention(q, k, v)
        return m.head(tokens[:, 0])

    return Of(
        attend,
        patch=nn.Conv2d(1, 4, 2, stride=2),
        token=parameter(1, 1, 4),
        positions=parameter(1, 5, 4),
        norm=nn.LayerNorm(4),
        mix=nn.Linear(4, 12),
        scale=parameter(4),
        head=nn.Linear(4, 2),
    )


def in_place() -> nn.Module:
    """A residual block whose activations overwrite the outputs of its layers."""

    def run(m, x):
        hidden = functional.relu(m.norm(m.first(x)), inplace=True)
        hidden = m.second(hidden)
        hidden += x
        return m.last(functional.relu_(hidden))

    return Of(
        run, first=nn.Conv1d(2, 2, 3, padding=1), norm=nn.BatchNorm1d(2), second=nn.Conv1d(2, 2, 1),
        last=nn.Conv1d(2, 1, 2),
    )  # fmt: skip


def normalised() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))


class Cube(torch.autograd.Function):
    """A product with a weight that neither a function mode nor vmap can see into."""

    @staticmethod
    def forward(ctx, x, w):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, w)
        return x**3 * w

    @staticmethod
    def backward(ctx, u):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, w = ctx.saved_tensors
        return 3 * x**2 * w * u, (x**3 * u).sum(0)


def doubling(module: nn.Sequential) -> nn.Module:
    """A user's hooks: one changes an output, one a gradient."""
    module[0].register_forward_hook(lambda *call: 2.0 * call[-1])
    module[1].register_full_backward_hook(lambda _, into, __: (3.0 * into[0],))
    return module


@dataclass(frozen=True)
class Row:
    """A model, the shape of one input, and how its rows should be found."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    method: str = "layer rules"


FLAT, LINE, IMAGE, SOLID = (3,), (2, 6), (2, 6, 5), (2, 4, 4, 3)
TABLE = (
    Row(
        "mlp",
        lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4), nn.Softplus(), nn.Linear(4, 2)),
        FLAT,
    ),
    Row("mlp no bias", lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2)), FLAT),
    Row("linear on sequences", lambda: nn.Sequential(nn.Linear(5, 4), nn.SiLU(), nn.Linear(4, 2)), (2, 3, 5)),
    Row(
        "factors by hand",
        lambda: Of(
            lambda m, x: (x @ m.a.T + m.b).tanh() @ m.c, a=parameter(4, 3), b=parameter(4), c=parameter(4, 2)
        ),
        FLAT,
    ),
    Row("conv1d", lambda: conv(nn.Conv1d, 2, 4, 3, stride=2, padding=1, dilation=2, groups=2), LINE),
    Row("conv1d circular", lambda: conv(nn.Conv1d, 2, 3, 3, padding=1, padding_mode="circular"), LINE),
    Row("conv1d same, even kernel", lambda: conv(nn.Conv1d, 2, 3, 4, padding="same"), LINE),
    Row(
        "conv2d", lambda: conv(nn.Conv2d, 2, 3, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)), IMAGE
    ),
    Row(
        "conv2d groups", lambda: conv(nn.Conv2d, 2, 4, 2, groups=2, tail=nn.Conv2d(4, 4, 2, groups=4)), IMAGE
    ),
    Row("conv2d same", lambda: conv(nn.Conv2d, 2, 3, (3, 2), padding="same", dilation=(2, 1)), IMAGE),
    Row("conv2d valid", lambda: conv(nn.Conv2d, 2, 3, 2, padding="valid", bias=False), IMAGE),
    Row("conv2d reflect", lambda: conv(nn.Conv2d, 2, 3, 3, padding=1, padding_mode="reflect"), IMAGE),
    Row(
        "conv2d replicate, pointwise next",
        lambda: conv(nn.Conv2d, 2, 3, 3, padding=1, padding_mode="replicate", tail=nn.Conv2d(3, 2, 1)),
        IMAGE,
    ),
    Row("conv2d leaves a rest", lambda: conv(nn.Conv2d, 2, 3, 3, stride=2), IMAGE),
    Row(
        "conv3d",
        lambda: conv(nn.Conv3d, 2, 4, (2, 3, 1), stride=(2, 1, 1), padding=(1, 1, 0), groups=2),
        SOLID,
    ),
    Row("transposed conv", lambda: conv(nn.ConvTranspose2d, 2, 3, 2, stride=2), IMAGE, "torch.func"),
    Row("batch norm, flat", lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()), FLAT),
    Row("batch norm 1d", lambda: norm(nn.BatchNorm1d(2)), LINE),
    Row("batch norm 2d", lambda: norm(nn.BatchNorm2d(2)), IMAGE),
    Row("batch norm 3d", lambda: norm(nn.BatchNorm3d(2, eps=0.1)), SOLID),
    Row("layer norm", lambda: norm(nn.LayerNorm([6, 5], eps=0.1)), IMAGE),
    Row("group norm", lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4, eps=0.1)), IMAGE),
    Row("instance norm", lambda: norm(nn.InstanceNorm1d(2, affine=True)), LINE),
    Row(
        "instance norm, running",
        lambda: norm(nn.InstanceNorm2d(2, affine=True, track_running_stats=True)),
        IMAGE,
    ),
    Row("rms norm", lambda: norm(nn.RMSNorm(5)), IMAGE),
    Row(
        "prelu", lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.PReLU(3), nn.Conv1d(3, 2, 2), nn.PReLU()), LINE
    ),
    Row(
        "embedding",
        lambda: Of(
            lambda m, x: m.out(m.table((x.abs() * 2).long().clamp_max(3))),
            table=nn.Embedding(4, 3, padding_idx=0),
            out=nn.Linear(3, 2),
        ),
        (4,),
    ),
    Row(
        "embedding by frequency",
        lambda: Of(
            lambda m, x: m.table((x.abs() * 2).long().clamp_max(3)),
            table=nn.Embedding(4, 3, scale_grad_by_freq=True),  # which scales gradients, not the function
        ),
        (4,),
    ),
    Row("tied", tied, FLAT),
    Row("called twice", lambda: Of(lambda m, x: m.f(m.f(x).tanh()), f=nn.Linear(3, 3)), FLAT),
    Row(
        "weight by hand",
        lambda: Of(
            lambda m, x: functional.linear(m.f(x).tanh(), bias=None, weight=m.f.weight), f=nn.Linear(3, 3)
        ),
        FLAT,
    ),
    Row("vit", vit, (1, 4, 4)),
    Row("in place", in_place, LINE),
    Row("user's hooks", lambda: doubling(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))), FLAT),
    Row(
        "a module of the user's own kind",
        lambda: type("Mine", (nn.Linear,), {"forward": lambda s, x: (x.pow(2) @ s.weight.T) / 2 + s.bias})(
            3, 2
        ),
        FLAT,
    ),
    Row("weight norm", normalised, FLAT, "torch.func"),
    Row(
        "squared weight",
        lambda: Of(lambda m, x: functional.linear(x, m.w**2), w=parameter(2, 3)),
        FLAT,
        "torch.func",
    ),
    Row(
        "weights from weights",
        lambda: Of(
            lambda m, x: x @ functional.linear(m.table, m.w), table=parameter(3, 3), w=parameter(2, 3)
        ),
        FLAT,
        "torch.func",
    ),
    Row(
        "sequence first",
        lambda: Of(lambda m, x: m.f(x.transpose(0, 1)).tanh().transpose(0, 1), f=nn.Linear(5, 2)),
        (3, 5),
        "torch.func",
    ),
    Row(
        "attention",
        lambda: Of(
            lambda m, x: m.f(x, x, x, need_weights=False)[0], f=nn.MultiheadAttention(4, 2, batch_first=True)
        ),
        (3, 4),
        "torch.func",
    ),
    Row("encoder layer", lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (3, 4), "torch.func"),
    Row("lstm", lambda: Of(lambda m, x: m.f(x)[0], f=nn.LSTM(4, 3, batch_first=True)), (3, 4), "one by one"),
    Row(
        "a function of the user's own",
        lambda: Of(lambda m, x: Cube.apply(m.f(x), m.w), f=nn.Linear(3, 3), w=parameter(3)),
        FLAT,
        "one by one",
    ),
)
