"""Checks of the model on a few points: deterministic, in one precision, and each point by itself."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from solset.errors import bad_type, bad_value
from solset.risk._batching import is_out_of_memory
from solset.risk._empirical import EmpiricalRisk

_PROBED = 8
ONE_GRAPH = (
    "Pass points that depend on each other, such as the nodes of a graph, as one point: inputs of shape "
    "(1, nodes, features) and targets (1, nodes), with the ignore_index of the loss at nodes left out."
)
_HALF = {torch.float16, torch.bfloat16}


def probe_indices(count: int) -> list[int]:
    """Indices of a few points, spread evenly over all ``count`` points."""
    probed = min(_PROBED, count)
    return [round(i * (count - 1) / max(probed - 1, 1)) for i in range(probed)]


def refuse_module(argument: str, model: nn.Module) -> None:
    """Refuses what no derivative of a loss in the parameters passes, and parameters without a shape.

    A hook that holds a part of a parameter makes the solutions others than those of the loss alone.

    Args:
        argument: Name of the argument that the model is.
        model: Network whose modules are looked at.

    Raises:
        TypeError: If a module is compiled, scripted or a parallel wrapper; the message names what it wraps.
        ValueError: If a parameter that requires grad has a gradient hook, or weights have no shapes yet.
    """
    lazy = [name for name, value in [*model.named_parameters(), *model.named_buffers()] if is_lazy(value)]
    if lazy:
        raise bad_value(
            argument,
            expected="with weights that have shapes",
            got=f"lazy ones, {', '.join(lazy[:3])}",
            cure="Call it once on a batch, before it is passed or returned.",
        )
    _refuse_wrapped(argument, model)
    _refuse_gradient_hooks(argument, model)


def refuse_model(model: nn.Module) -> None:
    """Refuses wrappers without second derivatives or functional calls, training mode and batch statistics.

    Raises:
        TypeError: If the model is compiled, scripted or a parallel wrapper; the message names what it wraps.
        ValueError: If dropout or batch normalisation is in training mode, batch normalisation has no running
            statistics, or autocast is on, or a parameter has a gradient hook; the message names it.
    """
    refuse_module("model", model)
    device = next((value.device.type for value in model.parameters()), "cpu")
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        raise bad_value(
            "model",
            expected="outside of autocast",
            got=f"a call under torch.autocast('{device}'), which computes in half precision",
            cure="Build the problem outside of that context.",
        )
    live = [
        f"{name or 'model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, _DropoutNd | _BatchNorm) and module.training
    ]
    if live:
        raise bad_value(
            "model",
            expected="in evaluation mode",
            got=f"training mode in {', '.join(live)}",
            cure="Call model.eval() first.",
        )
    batchwise = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is None
    ]
    if batchwise:
        raise bad_value(
            "model",
            expected="to treat every point by itself",
            got=f"batch normalisation without running statistics in {', '.join(batchwise)}",
            cure="Train it with track_running_stats=True.",
        )


def statistics_held(model: nn.Module) -> str:
    """A sentence on the running statistics that a model holds; empty where it has none."""
    count = sum(isinstance(each, _BatchNorm) and each.running_mean is not None for each in model.modules())
    if not count:
        return ""
    layers = "one BatchNorm layer" if count == 1 else f"{count} BatchNorm layers"
    return (
        f"the running statistics of {layers} are held; a new training moves them too, and their part in its "
        f"outputs can be as large as that of the weights, and of the other sign: a solset.Training moves both"
    )


def _refuse_wrapped(argument: str, model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            kind, cure = "a scripted or traced module", "Pass the module that it was made from."
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            kind, cure = (
                f"a {type(module).__name__}",
                "Pass its `.module`; processes share the points anyway.",
            )
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            kind, cure = "a compiled module", "Pass the one that was compiled, its `._orig_mod`."
        else:
            continue
        place = f" at '{name}'" if name else ""
        raise bad_type(argument, expected="a plain nn.Module", got=f"{kind}{place}", cure=cure)


def _refuse_gradient_hooks(argument: str, model: nn.Module) -> None:
    """Refuses hooks that may change the gradient of a parameter, which no derivative of the loss passes."""
    hooked = [
        path
        for path, value in model.named_parameters()
        if value.requires_grad
        and (value._backward_hooks or getattr(value, "_post_accumulate_grad_hooks", None))  # noqa: SLF001
    ]
    if hooked:
        raise bad_value(
            argument,
            expected="a module whose parameters have no gradient hooks, which may change what training does",
            got=f"hooks on {', '.join(hooked[:5])}",
            cure="Remove hooks that only look on. In the place of one that holds a part of a parameter, make "
            "that part a parameter of its own, with requires_grad_(False).",
        )


def probe_model(risk: EmpiricalRisk) -> Tensor:
    """Outputs of a few points, which must be finite, repeatable and independent of the other points.

    Raises:
        ValueError: If weights or outputs are not finite, two reads of the data or two forward passes
            differ, a point's output depends on the other points of its batch, or a parameter has no
            influence on any output.
    """
    _require_finite_weights(risk)
    indices = probe_indices(len(risk.points))
    inputs, _ = risk.points[indices]
    again, _ = risk.points[indices]
    if not torch.equal(inputs, again):
        raise bad_value(
            "inputs",
            expected="the same points at every read",
            got="two reads that differ",
            cure="Switch off shuffling and random augmentation.",
        )
    parameters = risk.layout.split(risk.weights)
    with torch.no_grad(), torch.random.fork_rng():
        first, second = risk.forward(parameters, inputs), risk.forward(parameters, inputs)
        alone = torch.cat([risk.forward(parameters, inputs[i : i + 1]) for i in range(len(inputs))])
    slack = 1e4 * torch.finfo(first.dtype).eps * float(first.abs().max() + 1.0)
    if not float((first - second).abs().max()) <= slack:
        raise bad_value(
            "model",
            expected="deterministic and finite",
            got="two forward passes that differ, or outputs that are not finite",
            cure="Call model.eval(); functional dropout must follow `self.training`.",
        )
    if not float((first - alone).abs().max()) <= slack:
        raise bad_value(
            "model",
            expected="to treat every point by itself",
            got="outputs that depend on the rest of the batch",
            cure=f"Put normalisation layers in evaluation mode. {ONE_GRAPH}",
        )
    _refuse_unused_parameters(risk, inputs)
    return first


def _require_finite_weights(risk: EmpiricalRisk) -> None:
    parts = zip(risk.layout.shapes, risk.layout.split(risk.weights), strict=True)
    broken = [name for name, part in parts if not bool(torch.isfinite(part).all())]
    if broken:
        raise bad_value(
            "model",
            expected="finite weights",
            got=f"NaN or infinite entries in {', '.join(broken)}",
            cure="Training diverged: start from an earlier checkpoint.",
        )


def _refuse_unused_parameters(risk: EmpiricalRisk, inputs: Tensor) -> None:
    leaves = risk.leaves()
    with torch.enable_grad(), torch.random.fork_rng():
        total = risk.forward(leaves, inputs).sum()
    slopes = [None] * len(leaves)
    try:
        if total.requires_grad:
            slopes = torch.autograd.grad(total, leaves, allow_unused=True)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise bad_value(
            "model",
            expected="a module through which autograd takes gradients of its weights",
            got=f"a backward pass that fails: {str(error).splitlines()[0]}",
            cure="Training by backward() fails there as well; look for operations that write in place.",
        ) from error
    unused = [name for name, slope in zip(risk.layout.shapes, slopes, strict=True) if slope is None]
    if unused:
        raise bad_value(
            "parameters",
            expected="parameters that the outputs depend on",
            got=f"{', '.join(unused)} without influence",
            cure="Name the others with `parameters=[...]`; these could take any value.",
        )


class HalfPrecision(TorchDispatchMode):
    """A context that notices operations whose results are in half precision.

    Attributes:
        operations: Names of these operations, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],  # noqa: ARG002
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs the operation, and records its name where a result is in half precision."""
        result = func(*args, **(kwargs or {}))
        parts = result if isinstance(result, tuple | list) else (result,)
        if any(isinstance(part, Tensor) and part.dtype in _HALF for part in parts):
            self.operations.append(str(func))
        return result

    def refuse(self, argument: str) -> None:
        """Refuses a model or a loss that computes in half precision.

        Raises:
            ValueError: If an operation was noticed.
        """
        if self.operations:
            raise bad_value(
                argument,
                expected="computed in float32 or float64",
                got=f"half precision in {self.operations[0]}",
                cure="Leave out torch.autocast and casts to half precision inside.",
            )
