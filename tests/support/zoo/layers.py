"""Layers of PyTorch with weights, each from inputs of a small shape to a row of features."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize


@dataclass(frozen=True)
class Layer:
    """How a layer is built: ``build()`` maps ``(b, *shape)`` to ``(b, ...)`` with ``features`` entries each.

    ``is_smooth`` says that PyTorch can differentiate it twice, so that refusing it would be needless.
    """

    build: Callable[[], nn.Module]
    features: int
    shape: tuple[int, ...] = (3,)
    is_smooth: bool = True


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class First(nn.Module):
    """A module that returns a tuple, of which the first entry counts."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[0]


class Attention(nn.Module):
    """Self-attention by ``nn.MultiheadAttention``."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class DotProduct(nn.Module):
    """Attention whose queries and keys are linear and whose values are the inputs."""

    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.query, self.key, self.is_causal = nn.Linear(2, 2), nn.Linear(2, 2), is_causal

    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(
            self.query(x), self.key(x), x, is_causal=self.is_causal
        )


class LoRA(nn.Module):
    """A frozen matrix plus a product of rank ``r``."""

    def __init__(self, r: int) -> None:
        super().__init__()
        self.register_buffer("frozen", torch.randn(3, 3) / 2)
        self.a, self.b = nn.Parameter(torch.randn(r, 3) / 2), nn.Parameter(torch.randn(3, r) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ (self.frozen + self.b @ self.a).T)


class Bilinear(nn.Module):
    """The bilinear form of the inputs with themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.form = nn.Bilinear(3, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.form(x, x))


class SoftEmbedding(nn.Module):
    """A table of vectors that the softmax of the inputs mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.after = nn.Embedding(3, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.after(x.softmax(1) @ self.table.weight))


class FloatIds(nn.Module):
    """A first column of floats that holds ids of an embedding, as tables often have it."""

    def __init__(self, is_bag: bool) -> None:
        super().__init__()
        self.is_bag = is_bag
        self.table = nn.EmbeddingBag(4, 2) if is_bag else nn.Embedding(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x[:, 0].abs() * 2).long().clamp(max=3)
        return torch.cat([self.table(ids[:, None] if self.is_bag else ids), x[:, 1:]], dim=1)


class Steps(nn.Module):
    """A recurrence written as a loop over a cell."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 2, dtype=x.dtype)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


class Residual(nn.Module):
    """``x + g(x)``."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Gated(nn.Module):
    """A mixture of two linear experts under a softmax gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.first, self.second = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        share = self.gate(x).softmax(1)
        return share[:, :1] * self.first(x).tanh() + share[:, 1:] * self.second(x).tanh()


class FixedPoint(nn.Module):
    """The fixed point of ``z = tanh(W z + x) / 2``, by twelve iterations."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for _ in range(12):
            z = torch.tanh(self.inner(z) + x) / 2
        return z


class OrthogonalPenaltyFree(nn.Module):
    """A weight through the matrix exponential of a skew matrix."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(x - x.T)


class SoftLength(nn.Module):
    """``v / sqrt(1 + |v|²)`` row by row: a normalisation without a symmetry of scale."""

    def forward(self, v: Tensor) -> Tensor:
        return v / (1 + v.square().sum(1, keepdim=True)).sqrt()


class ByHand(nn.Module):
    """Weight normalisation written by hand."""

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return g * v / v.norm(dim=1, keepdim=True)

    def right_inverse(self, w: Tensor) -> tuple[Tensor, Tensor]:
        return w.norm(dim=1, keepdim=True), w


def parametrized(layer: nn.Linear, rule: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", rule)
    return layer


def seq(*modules: nn.Module) -> Callable[[], nn.Module]:
    """A chain of fresh copies: modules are built inside the factories below, one chain per call."""
    return lambda: nn.Sequential(*modules)


def dense(*rest: Callable[[], nn.Module], width: int = 3) -> Callable[[], nn.Module]:
    """``Linear(3, width)`` and what follows."""
    return lambda: nn.Sequential(nn.Linear(3, width), *(make() for make in rest))


def conv(*rest: Callable[[], nn.Module], channels: int = 2) -> Callable[[], nn.Module]:
    """``Conv2d(1, channels, 2)`` on 4x4 images, and what follows, 3x3 in size."""
    return lambda: nn.Sequential(nn.Conv2d(1, channels, 2), *(make() for make in rest))


def statistics(norm: nn.Module) -> nn.Module:
    """A batch norm whose running statistics are not 0 and 1."""
    norm.running_mean.normal_(0, 0.3)
    norm.running_var.uniform_(0.5, 2.0)
    return norm


IMAGE, SERIES, TOKENS = (1, 4, 4), (2, 6), (3, 2)

LAYERS: dict[str, Layer] = {
    "linear": Layer(dense(), 3),
    "linear without bias": Layer(lambda: nn.Linear(3, 3, bias=False), 3),
    "two linear layers": Layer(dense(lambda: nn.Linear(3, 2)), 2),
    "three linear layers": Layer(dense(lambda: nn.Linear(3, 2), lambda: nn.Linear(2, 2)), 2),
    "bilinear": Layer(Bilinear, 2),
    "LoRA of rank 1": Layer(lambda: LoRA(1), 3),
    "LoRA of rank 2": Layer(lambda: LoRA(2), 3),
    "soft embedding": Layer(SoftEmbedding, 3),
    "embedding of float ids": Layer(lambda: FloatIds(False), 4, is_smooth=False),
    "embedding bag of float ids": Layer(lambda: FloatIds(True), 4, is_smooth=False),
    "conv1d": Layer(lambda: nn.Sequential(nn.Conv1d(2, 2, 3), nn.Tanh()), 8, SERIES),
    "conv1d dilated": Layer(lambda: nn.Sequential(nn.Conv1d(2, 2, 2, dilation=2), nn.Tanh()), 8, SERIES),
    "conv1d padded and strided": Layer(lambda: nn.Conv1d(2, 2, 3, stride=2, padding=1), 6, SERIES),
    "conv1d reflected": Layer(lambda: nn.Conv1d(2, 1, 3, padding=1, padding_mode="reflect"), 6, SERIES),
    "conv2d": Layer(conv(nn.Tanh, lambda: nn.AvgPool2d(2)), 2, IMAGE),
    "conv2d by groups": Layer(conv(nn.Tanh, lambda: nn.Conv2d(2, 2, 2, groups=2)), 8, IMAGE),
    "transposed conv2d": Layer(
        conv(nn.Tanh, lambda: nn.ConvTranspose2d(2, 1, 2, stride=2), lambda: nn.AvgPool2d(3)), 4, IMAGE
    ),
    "conv3d": Layer(lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh()), 2, (1, 2, 2, 2)),
    "unfold": Layer(lambda: nn.Sequential(nn.Unfold(3), nn.Flatten(), nn.Linear(36, 1), nn.Tanh()), 1, IMAGE),
    "batch norm 1d": Layer(dense(lambda: statistics(nn.BatchNorm1d(3)), nn.Tanh), 3),
    "batch norm 2d": Layer(
        conv(lambda: statistics(nn.BatchNorm2d(2)), nn.Tanh, lambda: nn.AvgPool2d(3)), 2, IMAGE
    ),
    "batch norm without statistics": Layer(
        dense(lambda: nn.BatchNorm1d(3, track_running_stats=False)), 3, is_smooth=False
    ),
    "layer norm": Layer(dense(lambda: nn.LayerNorm(3)), 3),
    "RMS norm": Layer(dense(lambda: nn.RMSNorm(3)), 3),
    "group norm": Layer(dense(lambda: nn.GroupNorm(2, 4), nn.Tanh, width=4), 4),
    "group norm 2d": Layer(conv(lambda: nn.GroupNorm(1, 2), nn.SiLU, lambda: nn.AvgPool2d(3)), 2, IMAGE),
    "group norm not affine": Layer(dense(lambda: nn.GroupNorm(1, 4, affine=False), nn.Tanh, width=4), 4),
    "instance norm": Layer(
        conv(lambda: nn.InstanceNorm2d(2, affine=True), nn.Tanh, lambda: nn.AvgPool2d(2)), 2, IMAGE
    ),
    "local response norm": Layer(
        conv(lambda: nn.LocalResponseNorm(2, alpha=0.5), lambda: nn.AvgPool2d(3)), 2, IMAGE
    ),
    "multi-head attention": Layer(lambda: Attention(2), 6, TOKENS),
    "attention of one head": Layer(lambda: Attention(1), 6, TOKENS),
    "dot-product attention": Layer(lambda: DotProduct(False), 6, TOKENS),
    "causal attention": Layer(lambda: DotProduct(True), 6, TOKENS),
    "transformer layer": Layer(lambda: nn.TransformerEncoderLayer(2, 1, 2, batch_first=True), 6, TOKENS),
    "transformer layer, norm first": Layer(
        lambda: nn.TransformerEncoderLayer(2, 2, 2, activation="gelu", batch_first=True, norm_first=True),
        6,
        TOKENS,
    ),
    "RNN": Layer(lambda: First(nn.RNN(2, 2, batch_first=True)), 6, TOKENS),
    "RNN of ReLUs": Layer(lambda: First(nn.RNN(2, 2, nonlinearity="relu", batch_first=True)), 6, TOKENS),
    "GRU": Layer(lambda: First(nn.GRU(2, 2, batch_first=True)), 6, TOKENS),
    "LSTM": Layer(lambda: First(nn.LSTM(2, 1, batch_first=True)), 3, TOKENS),
    "bidirectional LSTM": Layer(
        lambda: First(nn.LSTM(2, 1, batch_first=True, bidirectional=True)), 6, TOKENS
    ),
    "GRU cell in a loop": Layer(lambda: Steps(nn.GRUCell(2, 2)), 2, TOKENS),
    "RNN cell in a loop": Layer(lambda: Steps(nn.RNNCell(2, 2)), 2, TOKENS),
    "residual": Layer(lambda: Residual(nn.Sequential(nn.Linear(3, 3), nn.Tanh())), 3),
    "mixture of experts": Layer(Gated, 2),
    "fixed point": Layer(FixedPoint, 3),
    "max pool": Layer(conv(lambda: nn.MaxPool2d(2, stride=1)), 8, IMAGE),
    "adaptive max pool": Layer(conv(nn.Tanh, lambda: nn.AdaptiveMaxPool2d(2)), 8, IMAGE),
    "adaptive average pool": Layer(conv(nn.Tanh, lambda: nn.AdaptiveAvgPool2d(2)), 8, IMAGE),
    "Lp pool": Layer(conv(lambda: nn.LPPool2d(2, 3)), 2, IMAGE),
    "fractional pool 1d": Layer(
        lambda: nn.Sequential(nn.Conv1d(2, 2, 3), nn.AdaptiveMaxPool1d(2)), 4, SERIES
    ),
    "upsample nearest": Layer(
        conv(nn.Tanh, lambda: nn.Upsample(scale_factor=2), lambda: nn.AvgPool2d(3)), 8, IMAGE
    ),
    "upsample bilinear": Layer(
        conv(
            nn.Tanh,
            lambda: nn.Upsample(size=4, mode="bilinear", align_corners=False),
            lambda: nn.AvgPool2d(2),
        ),
        8,
        IMAGE,
    ),
    "upsample bicubic": Layer(
        conv(nn.Tanh, lambda: nn.Upsample(size=5, mode="bicubic"), lambda: nn.AvgPool2d(3, 2)), 8, IMAGE
    ),
    "pixel shuffle": Layer(
        conv(nn.Tanh, lambda: nn.PixelShuffle(2), lambda: nn.AvgPool2d(3), channels=4), 4, IMAGE
    ),
    "dropout": Layer(dense(nn.Tanh, lambda: nn.Dropout(0.5)), 3),
    "weight norm": Layer(
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.Tanh()), 3, is_smooth=False
    ),
    "weight norm, old": Layer(
        lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)), nn.Tanh()), 3, is_smooth=False
    ),
    "weight norm by hand": Layer(
        lambda: nn.Sequential(parametrized(nn.Linear(3, 3), ByHand()), nn.Tanh()), 3
    ),
    "spectral norm": Layer(
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3)), nn.Tanh()), 3
    ),
    "orthogonal by exponential": Layer(
        lambda: nn.Sequential(parametrized(nn.Linear(3, 3), OrthogonalPenaltyFree()), nn.Tanh()), 3
    ),
    "soft length": Layer(lambda: nn.Sequential(parametrized(nn.Linear(3, 3), SoftLength()), nn.Tanh()), 3),
}
