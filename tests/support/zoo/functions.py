"""Activations and functions, each behind a linear layer, and ways in which people write a forward pass."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .layers import Apply, Layer

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    lambda: nn.GELU("tanh"),
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Hardtanh,
    nn.ReLU6,
    nn.Hardswish,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Tanhshrink,
    nn.PReLU,
    nn.RReLU,
    lambda: nn.Threshold(0.1, 0.0),
    lambda: nn.Softmax(1),
    lambda: nn.LogSoftmax(1),
    lambda: nn.Softmin(1),
)

Function = Callable[[Tensor], Tensor]


def square(x: Tensor) -> Tensor:
    """A symmetric positive definite 2x2 matrix of the first three features, ``(b, 2, 2)``."""
    root = torch.stack([x[:, 0], x[:, 1], x[:, 1], x[:, 2]], dim=1).reshape(-1, 2, 2)
    return root @ root.mT + torch.eye(2, dtype=x.dtype)


def places(x: Tensor) -> Tensor:
    """A fixed permutation of three columns for each point, ``(b, 3)``."""
    return torch.tensor([[2, 0, 1]]).expand(len(x), 3)


def sampled(x: Tensor) -> Tensor:
    """A 2x2 image that is read at places between its pixels."""
    image = x[:, [0, 1, 2, 0]].reshape(-1, 1, 2, 2)
    turn = torch.tensor([[0.7, 0.1, 0.0], [-0.1, 0.7, 0.0]], dtype=x.dtype).expand(len(x), 2, 3)
    grid = functional.affine_grid(turn, [len(x), 1, 2, 2], align_corners=False)
    return functional.grid_sample(image, grid, align_corners=False)


def distances(x: Tensor) -> Tensor:
    """Distances to three fixed centres."""
    return torch.cdist(x, torch.tensor([[0.3, -1.0, 0.5], [1.5, 0.2, 0.1], [-0.7, 0.9, -0.4]], dtype=x.dtype))


FUNCTIONS: dict[str, tuple[Function, int]] = {
    "einsum": (lambda x: torch.einsum("bi,bj->bij", x, x.tanh()), 9),
    "batched matrix product": (lambda x: square(x) @ x[:, :2, None], 2),
    "outer product": (lambda x: x[:, :, None] * x[:, None, :2].sigmoid(), 6),
    "Fourier transform": (lambda x: torch.fft.fft(x).abs(), 3),
    "real Fourier transform": (lambda x: torch.view_as_real(torch.fft.rfft(x)).tanh(), 4),
    "complex product": (lambda x: torch.complex(x[:, :2], x[:, 1:]).pow(2).real, 2),
    "cumulative sum": (lambda x: x.cumsum(1).tanh(), 3),
    "cumulative product": (lambda x: x.tanh().cumprod(1), 3),
    "cumulative logsumexp": (lambda x: x.logcumsumexp(1), 3),
    "logsumexp": (lambda x: torch.cat([x.logsumexp(1, keepdim=True), x.tanh()], 1), 4),
    "sort": (lambda x: x.sort(1).values, 3),
    "top two": (lambda x: x.topk(2, 1).values, 2),
    "gather": (lambda x: x.gather(1, places(x)).tanh(), 3),
    "index": (lambda x: x[:, [0, 2, 2]].sin(), 3),
    "scatter": (lambda x: torch.zeros_like(x).scatter_add(1, places(x), x.tanh()), 3),
    "put by index": (lambda x: torch.zeros_like(x).index_add(1, torch.tensor([1, 1, 2]), x.tanh()), 3),
    "roll and flip": (lambda x: x.roll(1, 1) * x.flip(1), 3),
    "pad": (lambda x: functional.pad(x.tanh(), (1, 1)), 5),
    "where": (lambda x: torch.where(x > 0, x.tanh(), 0.3 * x), 3),
    "clamp": (lambda x: x.clamp(-0.6, 0.8), 3),
    "absolute value": (lambda x: x.abs(), 3),
    "maximum": (lambda x: torch.maximum(x, x.roll(1, 1)), 3),
    "max over features": (lambda x: torch.cat([x.amax(1, keepdim=True), x.tanh()], 1), 4),
    "median": (lambda x: torch.cat([x.median(1, keepdim=True).values, x.tanh()], 1), 4),
    "standard deviation": (lambda x: torch.cat([x.std(1, keepdim=True), x], 1), 4),
    "product": (lambda x: torch.cat([x.prod(1, keepdim=True), x.tanh()], 1), 4),
    "norm": (lambda x: torch.cat([x.norm(dim=1, keepdim=True), x], 1), 4),
    "normalize": (lambda x: functional.normalize(x, dim=1), 3),
    "cosine similarity": (
        lambda x: torch.stack([functional.cosine_similarity(x, x.roll(1, 1)), x[:, 0], x[:, 1]], 1),
        3,
    ),
    "cdist": (distances, 3),
    "squared distances": (lambda x: (x[:, :, None] - x[:, None, :2]).square(), 6),
    "solve": (lambda x: torch.linalg.solve(square(x), x[:, :2]), 2),
    "inverse": (lambda x: torch.linalg.inv(square(x)), 4),
    "log determinant": (lambda x: torch.cat([square(x).logdet()[:, None], x.tanh()], 1), 4),
    "Cholesky": (lambda x: torch.linalg.cholesky(square(x)), 4),
    "eigenvalues": (lambda x: torch.linalg.eigvalsh(square(x)).log(), 2),
    "sine": (lambda x: torch.sin(2 * x), 3),
    "error function": (torch.erf, 3),
    "sinc": (torch.sinc, 3),
    "arc tangent of two": (lambda x: torch.atan2(x[:, :2], 1 + x[:, 2:].square()), 2),
    "Bessel": (lambda x: torch.special.i0(x.tanh()), 3),
    "log gamma": (lambda x: torch.lgamma(1 + x.square()), 3),
    "power": (lambda x: (0.5 + x.square()).pow(0.7), 3),
    "gated linear unit": (lambda x: functional.glu(torch.cat([x, x.roll(1, 1)], 1), dim=1), 3),
    "polynomial": (lambda x: torch.cat([x, 0.3 * x.square(), 0.1 * x.pow(3)], 1), 9),
    "grid sample": (sampled, 4),
    "branch on the values": (lambda x: x.tanh() if bool((x.mean() > 1e9).any()) else x.sigmoid(), 3),
    "in-place on a hidden tensor": (lambda x: (1.0 * x).mul_(0.5).tanh_(), 3),
}


class Once(torch.autograd.Function):
    """``SiLU`` whose backward may be used once."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.silu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return g * s * (1 + x * (1 - s))


class Twice(torch.autograd.Function):
    """``SiLU`` written so that its backward can be differentiated again."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.silu(x)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return g * s * (1 + x * (1 - s))


class Detached(torch.autograd.Function):
    """``SiLU`` that keeps a detached input, which loses the second derivative."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.x = x.detach()
        return functional.silu(x)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        s = ctx.x.sigmoid()
        return g * s * (1 + ctx.x * (1 - s))


def straight_through(x: Tensor) -> Tensor:
    """Rounding to tenths with the slope of the identity."""
    return x + ((10 * x).round() / 10 - x).detach()


class Branch(nn.Module):
    """A first layer whose outputs reach the head by one of the ways in which backbones are held fixed."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.second, self.way = nn.Linear(3, 3), nn.Linear(3, 3), way
        if way != "half":
            self.first.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        match self.way:
            case "no grad":
                with torch.no_grad():
                    z = self.first(x).tanh()
            case "detach":
                z = self.first(x).tanh().detach()
            case "NumPy":
                z = torch.from_numpy(self.first(x).tanh().detach().numpy())
            case _:  # half of the way only
                z = self.first(x).tanh()
                z = 0.5 * z + 0.5 * z.detach()
        return self.second(z).tanh()


class Recomputed(nn.Module):
    """Activation checkpointing of the first layer."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.first, self.use_reentrant = nn.Linear(3, 3), use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(lambda z: self.first(z).tanh(), x, use_reentrant=self.use_reentrant)


class Slopes(nn.Module):
    """A net beside its own derivative in the inputs, by one of three ways to differentiate inside forward."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.inner, self.way = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)), way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "torch.func":
            slope = torch.func.vmap(torch.func.grad(lambda row: self.inner(row)[0]))(x)
        else:
            with torch.enable_grad():
                x = x if x.requires_grad else x.detach().requires_grad_()
                slope = torch.autograd.grad(self.inner(x).sum(), x, create_graph=True)[0]
        return torch.cat([self.inner(x), slope], dim=1)


def behind(function: Callable[[], nn.Module], features: int = 3, *, is_smooth: bool = True) -> Layer:
    """A linear layer of three features, and the function of it."""
    return Layer(lambda: nn.Sequential(nn.Linear(3, 3), function()), features, is_smooth=is_smooth)


def named(make: Callable[[], nn.Module]) -> str:
    return str(make()).lower().replace("()", "")


WAYS: dict[str, Layer] = {
    "hard sigmoid": behind(nn.Hardsigmoid, is_smooth=False),
    "custom function": behind(lambda: Apply(Twice.apply)),
    "once-differentiable function": behind(lambda: Apply(Once.apply), is_smooth=False),
    "function detached on its context": behind(lambda: Apply(Detached.apply), is_smooth=False),
    "straight-through rounding": behind(lambda: Apply(straight_through), is_smooth=False),
    "layer under no_grad": Layer(lambda: Branch("no grad"), 3, is_smooth=False),
    "detached layer": Layer(lambda: Branch("detach"), 3, is_smooth=False),
    "layer through NumPy": Layer(lambda: Branch("NumPy"), 3, is_smooth=False),
    "half detached layer": Layer(lambda: Branch("half"), 3, is_smooth=False),
    "checkpoint": Layer(lambda: Recomputed(False), 3),
    "checkpoint, reentrant": Layer(
        lambda: nn.Sequential(nn.Linear(3, 3), Recomputed(True)), 3, is_smooth=False
    ),
    "derivative in forward": Layer(lambda: Slopes("autograd"), 4),
    "derivative in forward by torch.func": Layer(lambda: Slopes("torch.func"), 4),
}

BEHIND: dict[str, Layer] = {
    **{named(make): behind(make) for make in ACTIVATIONS},
    **{
        name: behind(
            lambda function=function: Apply(function),
            features,
            is_smooth=name not in {"cdist", "cumulative logsumexp"},
        )
        for name, (function, features) in FUNCTIONS.items()
    },
    **WAYS,
}
