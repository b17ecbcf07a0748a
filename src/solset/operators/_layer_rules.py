"""Per-sample parameter gradients of the usual layers, from their input and the gradient at their output.

A rule belongs to a *function*, such as ``torch.nn.functional.conv2d``, and not to a module, so that it covers
every module and every forward method that calls the function. A rule takes the gradient at the output,
``(b, ...)``, and the function's arguments by name (torch's ``input`` is called ``inputs``), and returns one
gradient per sample, ``(b, *shape)`` up to a reshape.

Convolutions, measured on the stages of a CIFAR ResNet, 64 images, one thread: writing out the windows of a
few images at a time, and a batched product with them, takes 1 to 2.4 times torch's summed weight gradient
in float32, and a third to 1.6 of it in float64. torch's own gradient with a group per image, which
vmap computes, is as fast for some stages and up to three times slower for others; all windows at once, a
shift at a time and one image at a time are slower for most.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import getattr_static
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Arguments = Mapping[str, Any]
GradientRule = Callable[[Tensor, Arguments], Tensor]


@dataclass(frozen=True)
class Rule:
    """The per-sample gradients of a function's parameters."""

    names: tuple[str, ...]  # Names of the function's arguments, in order
    parameters: Mapping[str, GradientRule]  # Gradient rule for each argument that may be a parameter
    # Test whether the rule covers a call, from its arguments, output and number of samples
    holds: Callable[[Arguments, Tensor, int], bool]
    # Function for the bytes per sample that a gradient rule writes besides its result
    scratch: Callable[[Tensor, Arguments], int] = lambda gradient, arguments: 0  # noqa: ARG005


def _is_batched(arguments: Arguments, output: Tensor, count: int) -> bool:
    """Whether the first dimension of input and output counts the samples."""
    inputs = arguments["inputs"]
    return inputs.ndim >= 2 and len(inputs) == count and len(output) == count


def _is_batched_image(arguments: Arguments, output: Tensor, count: int) -> bool:
    return arguments["inputs"].ndim == arguments["weight"].ndim and _is_batched(arguments, output, count)


def _is_batched_matrix(arguments: Arguments, output: Tensor, count: int) -> bool:
    return arguments["weight"].ndim == 2 and _is_batched(arguments, output, count)


def _is_lookup(arguments: Arguments, output: Tensor, count: int) -> bool:
    """Whether rows are only looked up, neither renormalised nor weighted by their frequency."""
    is_plain = arguments.get("max_norm") is None and not arguments.get("scale_grad_by_freq", False)
    return is_plain and len(arguments["inputs"]) == count and len(output) == count


def _is_broadcast(arguments: Arguments, output: Tensor, count: int) -> bool:
    """Whether all samples see the same parameter."""
    shape = _aligned(arguments["weight"].shape, output.ndim)
    return output.ndim > 0 and len(output) == count and shape[0] == 1


def _aligned(shape: torch.Size, ndim: int) -> tuple[int, ...]:
    return (1,) * (ndim - len(shape)) + tuple(shape)


def _sum_broadcast(gradient: Tensor, arguments: Arguments) -> Tensor:
    shape = _aligned(arguments["weight"].shape, gradient.ndim)
    dims = [i for i in range(1, gradient.ndim) if shape[i] == 1 and gradient.shape[i] != 1]
    return gradient.sum(dims) if dims else gradient


def _factor(gradient: Tensor, arguments: Arguments) -> Tensor:
    return _sum_broadcast(gradient * arguments["inputs"], arguments)


def _rows_of(tensor: Tensor) -> Tensor:
    """``(b, positions, features)`` with the features last."""
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _linear_weight(gradient: Tensor, arguments: Arguments) -> Tensor:
    return _rows_of(gradient).mT @ _rows_of(arguments["inputs"])


def _linear_bias(gradient: Tensor, _: Arguments) -> Tensor:
    return _rows_of(gradient).sum(1)


def _factor_of_matrix_product(gradient: Tensor, arguments: Arguments) -> Tensor:
    if arguments.get("is_transposed", False):
        return _linear_weight(gradient, arguments)
    return _rows_of(arguments["inputs"]).mT @ _rows_of(gradient)


def convolution_weight(gradient: Tensor, arguments: Arguments) -> Tensor:
    """Products of the gradient with the windows of the input under the kernel."""
    kernel, places = arguments["weight"].shape[2:], gradient.shape[2:]
    groups = arguments.get("groups", 1)
    stride = _each(arguments.get("stride", 1), len(kernel))
    dilation = _each(arguments.get("dilation", 1), len(kernel))
    padded = functional.pad(arguments["inputs"], _padding(arguments.get("padding", 0), kernel, dilation))
    b, channels = padded.shape[:2]
    sample, across, *along = padded.stride()
    steps = [step * d for step, d in zip(along, dilation, strict=True)]
    jumps = [step * s for step, s in zip(along, stride, strict=True)]
    windows = padded.as_strided((b, channels, *kernel, *places), (sample, across, *steps, *jumps))
    slopes = gradient.reshape(b, groups, gradient.shape[1] // groups, -1)
    return slopes @ windows.reshape(b, groups, channels // groups * prod(kernel), -1).mT


def window_bytes(gradient: Tensor, arguments: Arguments) -> int:
    """Bytes of the windows of one sample."""
    kernel, channels = arguments["weight"].shape[2:], arguments["inputs"].shape[1]
    return channels * prod(kernel) * prod(gradient.shape[2:]) * gradient.element_size()


def _each(value: int | tuple[int, ...] | list[int], count: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * count if len(values) == 1 else values


def _padding(padding: Any, kernel: torch.Size, dilation: tuple[int, ...]) -> list[int]:
    """The padding in the order of ``pad``: both sides of each dimension, the last dimension first."""
    if padding == "valid":
        padding = 0
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(side, side) for side in _each(padding, len(kernel))]
    return [side for pair in reversed(sides) for side in pair]


def _channels(tensor: Tensor) -> Tensor:
    """``(b, channels, positions)``."""
    return tensor.reshape(len(tensor), tensor.shape[1], -1)


def _channel_sums(gradient: Tensor, _: Arguments) -> Tensor:
    return _channels(gradient).sum(2)


def _channel_products(first: Tensor, second: Tensor) -> Tensor:
    return torch.einsum("bcl,bcl->bc", _channels(first), _channels(second))


def _batch_norm_weight(gradient: Tensor, arguments: Arguments) -> Tensor:
    return _channel_products(gradient, functional.batch_norm(arguments["inputs"], **_statistics(arguments)))


def _instance_norm_weight(gradient: Tensor, arguments: Arguments) -> Tensor:
    normalised = functional.instance_norm(arguments["inputs"], **_statistics(arguments))
    return _channel_products(gradient, normalised)


def _statistics(arguments: Arguments) -> dict[str, Any]:
    """The arguments of the normalisation, without its scale and shift."""
    others = {"inputs", "weight", "bias", "is_transposed"}
    return {name: value for name, value in arguments.items() if name not in others}


def _group_norm_weight(gradient: Tensor, arguments: Arguments) -> Tensor:
    eps = arguments.get("eps", 1e-5)
    normalised = functional.group_norm(arguments["inputs"], arguments["num_groups"], eps=eps)
    return _channel_products(gradient, normalised)


def _layer_norm_weight(gradient: Tensor, arguments: Arguments) -> Tensor:
    shape, eps = arguments["normalized_shape"], arguments.get("eps", 1e-5)
    normalised = functional.layer_norm(arguments["inputs"], shape, eps=eps)
    return _positions_summed(gradient * normalised, arguments)


def _rms_norm_weight(gradient: Tensor, arguments: Arguments) -> Tensor:
    shape, eps = arguments["normalized_shape"], arguments.get("eps")
    normalised = functional.rms_norm(arguments["inputs"], shape, eps=eps)
    return _positions_summed(gradient * normalised, arguments)


def _positions_summed(gradient: Tensor, arguments: Arguments) -> Tensor:
    return gradient.reshape(len(gradient), -1, *arguments["normalized_shape"]).sum(1)


def _embedding_weight(gradient: Tensor, arguments: Arguments) -> Tensor:
    b, (entries, width) = len(gradient), arguments["weight"].shape
    indices = arguments["inputs"].reshape(b, -1)
    slopes = gradient.reshape(b, -1, width)
    if (ignored := arguments.get("padding_idx")) is not None:
        slopes = slopes * (indices != ignored % entries).unsqueeze(-1)
    places = indices + entries * torch.arange(b, device=indices.device).unsqueeze(1)
    sums = gradient.new_zeros(b * entries, width)
    return sums.index_add_(0, places.reshape(-1), slopes.reshape(-1, width)).reshape(b, entries, width)


def _prelu_weight(gradient: Tensor, arguments: Arguments) -> Tensor:
    products = gradient * arguments["inputs"].clamp_max(0)
    if arguments["weight"].numel() == 1:
        return products.reshape(len(products), -1).sum(1)
    return _channel_sums(products, arguments)


_LINEAR = Rule(("inputs", "weight", "bias"), {"weight": _linear_weight, "bias": _linear_bias}, _is_batched)
_CONVOLUTION = Rule(
    ("inputs", "weight", "bias", "stride", "padding", "dilation", "groups"),
    {"weight": convolution_weight, "bias": _channel_sums},
    _is_batched_image,
    window_bytes,
)
_BATCH_NORM = Rule(
    ("inputs", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    {"weight": _batch_norm_weight, "bias": _channel_sums},
    _is_batched,
)
_INSTANCE_NORM = Rule(
    ("inputs", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"),
    {"weight": _instance_norm_weight, "bias": _channel_sums},
    _is_batched,
)
_GROUP_NORM = Rule(
    ("inputs", "num_groups", "weight", "bias", "eps"),
    {"weight": _group_norm_weight, "bias": _channel_sums},
    _is_batched,
)
_LAYER_NORM = Rule(
    ("inputs", "normalized_shape", "weight", "bias", "eps"),
    {"weight": _layer_norm_weight, "bias": _positions_summed},
    _is_batched,
)
_RMS_NORM = Rule(("inputs", "normalized_shape", "weight", "eps"), {"weight": _rms_norm_weight}, _is_batched)
_EMBEDDING = Rule(
    ("inputs", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"),
    {"weight": _embedding_weight},
    _is_lookup,
)
_PRELU = Rule(("inputs", "weight"), {"weight": _prelu_weight}, _is_batched)
MATRIX_PRODUCT = Rule(("inputs", "weight"), {"weight": _factor_of_matrix_product}, _is_batched_matrix)
_SUM = Rule(("inputs", "weight"), {"weight": _sum_broadcast}, _is_broadcast)
_PRODUCT = Rule(("inputs", "weight"), {"weight": _factor}, _is_broadcast)

RULES: Mapping[Callable[..., Any], Rule] = {
    functional.linear: _LINEAR,
    functional.conv1d: _CONVOLUTION,
    functional.conv2d: _CONVOLUTION,
    functional.conv3d: _CONVOLUTION,
    functional.batch_norm: _BATCH_NORM,
    functional.instance_norm: _INSTANCE_NORM,
    functional.group_norm: _GROUP_NORM,
    functional.layer_norm: _LAYER_NORM,
    functional.rms_norm: _RMS_NORM,
    functional.embedding: _EMBEDDING,
    functional.prelu: _PRELU,
    torch.matmul: MATRIX_PRODUCT,
    Tensor.matmul: MATRIX_PRODUCT,
    torch.add: _SUM,
    Tensor.add: _SUM,
    Tensor.expand: _SUM,
    torch.mul: _PRODUCT,
    Tensor.mul: _PRODUCT,
}
COMMUTATIVE = frozenset({torch.add, Tensor.add, torch.mul, Tensor.mul})
TRANSPOSITIONS = frozenset(
    {torch.t, Tensor.t, *(getattr_static(Tensor, name).__get__ for name in ("T", "mT"))}
)
