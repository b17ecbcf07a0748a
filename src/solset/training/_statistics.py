"""The running statistics of BatchNorm as differentiable functions of what the layer saw."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from solset.results import copy_of


class Statistics:
    """The running means and variances that a model's BatchNorm layers move while training.

    PyTorch updates them without a graph. Here the layers' inputs are noted, and the same update is computed
    once more, with a graph.

    Attributes:
        names: Names of the buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers: dict[str, _BatchNorm] = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
        }
        self.names = [f"{name}.{part}" for name in self._layers for part in ("running_mean", "running_var")]

    @contextmanager
    def following(self, before: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """A context in which forward passes of the model move the statistics; yields them by name."""
        now = dict(before)

        def follow(name: str, layer: _BatchNorm) -> Any:
            def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                now.update(_after(name, layer, arguments[0], now))

            return layer.register_forward_pre_hook(hook)

        hooks = [follow(name, layer) for name, layer in self._layers.items()]
        try:
            yield now
        finally:
            for hook in hooks:
                hook.remove()


def _after(name: str, layer: _BatchNorm, inputs: Tensor, now: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The statistics of one layer after it saw a batch, ``(1 - m)·old + m·batch`` with its momentum ``m``."""
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    variance, mean = torch.var_mean(inputs, dim=axes)
    momentum = layer.momentum
    if momentum is None:  # the mean over all batches; the layer has not counted this one yet
        momentum = 1.0 / (int(layer.num_batches_tracked) + 1)  # type: ignore[arg-type]
    new = {"running_mean": mean, "running_var": variance}
    return {
        f"{name}.{part}": (1 - momentum) * now[f"{name}.{part}"] + momentum * value
        for part, value in new.items()
    }


def with_plain_statistics(model: nn.Module) -> nn.Module:
    """A copy of a model in evaluation mode whose BatchNorm layers are plain formulas of their statistics.

    PyTorch's own operation has no derivative in the running statistics.
    """
    twin = copy_of(model)
    for module in twin.modules():
        if isinstance(module, _BatchNorm) and not module.training and module.track_running_stats:
            module.forward = partial(_normalised, module)  # type: ignore[method-assign]
    return twin


def _normalised(layer: _BatchNorm, inputs: Tensor) -> Tensor:
    shape = [1, -1, *(1 for _ in range(inputs.ndim - 2))]
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None and variance is not None  # noqa: S101, PT018 - it tracks its statistics
    outputs = (inputs - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + layer.eps)
    if layer.weight is not None:
        outputs = outputs * layer.weight.reshape(shape) + layer.bias.reshape(shape)
    return outputs
