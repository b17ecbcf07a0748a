"""Checks on a few points: a deterministic model without batch effects, and a loss that is a mean or a sum."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from solset.errors import bad_type, bad_value
from solset.risk._empirical import EmpiricalRisk, Loss, Reduction, pointwise

_PROBED = 8


def probe_indices(count: int) -> list[int]:
    """Indices of a few points, spread evenly over all ``count`` points."""
    probed = min(_PROBED, count)
    return [round(i * (count - 1) / max(probed - 1, 1)) for i in range(probed)]


def refuse_model(model: nn.Module) -> None:
    """Refuses wrappers without second derivatives or functional calls, training mode and batch statistics.

    Args:
        model: Network whose modules are looked at.

    Raises:
        TypeError: If the model is compiled, scripted or a parallel wrapper; the message names what it wraps.
        ValueError: If dropout or batch normalisation is in training mode, batch normalisation has no running
            statistics, or autocast is on; the message names the module.
    """
    _refuse_wrapped(model)
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


def _refuse_wrapped(model: nn.Module) -> None:
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
        raise bad_type("model", expected="a plain nn.Module", got=f"{kind}{place}", cure=cure)


def reduction_of(loss: Loss, outputs: Tensor, targets: Tensor) -> Reduction:
    """Whether a loss is a mean or a sum over points, by evaluating it on a batch and point by point.

    Args:
        loss: Function of outputs and targets that returns a scalar.
        outputs: Network outputs of a few points, ``(b, *out)``.
        targets: Targets of the same points.

    Raises:
        TypeError: If the loss does not return a scalar tensor.
        ValueError: If the loss is neither, or contradicts its ``reduction`` attribute.
    """
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and loss.weight is not None:
        _refuse_weighted_mean(loss)
    shaken = _shaken(outputs)
    with torch.enable_grad():
        whole = loss(shaken, targets)
    if not isinstance(whole, Tensor) or whole.numel() != 1:
        got = f"shape {tuple(whole.shape)}" if isinstance(whole, Tensor) else type(whole).__name__
        raise bad_type("loss", expected="a scalar tensor", got=got, cure='Use reduction="mean" or "sum".')
    if whole.requires_grad:  # the outputs are detached
        raise bad_value(
            "loss",
            expected="a function of outputs and targets alone",
            got="one that depends on tensors that require grad, such as a penalty on weights",
            cure="Pass an L2 penalty as weight_decay; detach weights of the loss itself, which are held.",
        )
    if not bool(torch.isfinite(whole)):
        raise bad_value(
            "loss",
            expected="finite near the outputs",
            got=f"{float(whole)} on a few points",
            cure="Look at the outputs there: they overflow, or leave the loss's domain.",
        )
    try:
        alone = pointwise(loss, shaken, targets)
    except (RuntimeError, ValueError, IndexError) as error:
        raise bad_type(
            "loss",
            expected="a loss that takes a single point too",
            got=f"{type(error).__name__} on one point: {error}",
            cure="Look for a squeeze() that drops the axis of the points; squeeze(-1) keeps it.",
        ) from error
    stated = getattr(loss, "reduction", None)
    close = 1e3 * torch.finfo(outputs.dtype).eps * float(alone.abs().sum() + whole.abs())
    fitting = [
        name
        for name, value in (("mean", alone.mean()), ("sum", alone.sum()))
        if abs(float(whole) - float(value)) <= close
    ]
    if not fitting or (stated in {"mean", "sum"} and stated not in fitting):
        raise bad_value(
            "loss",
            expected="a mean or a sum over points",
            got=f"reduction {stated!r}: {float(whole):.6g} on a batch, {float(alone.sum()):.6g} summed alone",
            cure="Class weights, ignored targets and batch terms break it; fold them into a sum over points.",
        )
    return cast("Reduction", stated if stated in fitting else fitting[0])


def verify_loss(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor) -> None:
    """Refuses a loss that is not the mean or sum over all points that a few points showed.

    A class weight, an ignored target or a term of the whole batch may touch only points that a probe of a
    few does not meet. The loss of all points at once is compared with the losses of the points one by one,
    at outputs a little off the trained ones, where no loss is zero.

    Args:
        risk: The risk at the trained weights.
        outputs: Outputs of all points, ``(n, *out)``.
        targets: Targets of all points, ``(n, ...)``.

    Raises:
        ValueError: If the loss depends on tensors that require grad, or is no such mean or sum.

    Cost: the loss of ``n`` single points and of all at once; no pass through the network.
    """
    shaken = _shaken(outputs)
    with torch.no_grad():
        # Outputs of another point miss the target by far more than rounding, however well the model fits.
        foreign = shaken.roll(len(shaken) // 2, dims=0)
        alone, whole = _one_by_one(risk.loss, foreign, targets), float(risk.loss(foreign, targets))
        if not bool(torch.isfinite(alone).all()):
            alone, whole = _one_by_one(risk.loss, shaken, targets), float(risk.loss(shaken, targets))
    broken = (~torch.isfinite(alone)).nonzero().flatten().tolist()
    expected = float(alone.mean() if risk.reduction == "mean" else alone.sum())
    scale = float(alone.abs().mean() if risk.reduction == "mean" else alone.abs().sum())
    close = 1e3 * torch.finfo(outputs.dtype).eps * scale
    if not broken and abs(whole - expected) <= close:
        return
    got = (
        f"no finite value for points {broken[:5]} by themselves"
        if broken
        else f"{whole:.6g} for all points at once, but a {risk.reduction} of {expected:.6g} one by one"
    )
    raise bad_value(
        "loss",
        expected="a mean or a sum over points, on every point",
        got=got,
        cure="Class weights, ignored targets and batch terms break it; fold them into a sum over points.",
    )


def _one_by_one(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each point by itself, ``(n,)``: batched where that gives the same numbers."""

    def single(output: Tensor, target: Tensor) -> Tensor:
        return loss(output.unsqueeze(0), target.unsqueeze(0)).reshape(())

    def looped(points: Sequence[int]) -> Tensor:
        return torch.stack([single(outputs[i], targets[i]) for i in points])

    probed = probe_indices(len(outputs))
    try:
        batched = torch.vmap(single)(outputs, targets)
        few = looped(probed)
    except Exception:  # noqa: BLE001 - what a user's loss raises under vmap is anything
        return looped(range(len(outputs)))
    if torch.allclose(batched[probed], few, rtol=1e3 * torch.finfo(few.dtype).eps, atol=0.0):
        return batched
    return looped(range(len(outputs)))


def _shaken(outputs: Tensor) -> Tensor:
    """Outputs changed by up to a tenth; positive numbers and probabilities stay so."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    return torch.where(outputs == 0, 0.1 * noise, outputs * (1.0 - 0.1 * noise))


def _refuse_weighted_mean(loss: nn.CrossEntropyLoss | nn.NLLLoss) -> None:
    if loss.reduction == "mean":
        raise bad_value(
            "loss",
            expected="a mean or a sum over points",
            got="class weights with a mean, which divides by the weights of each batch",
            cure='Use reduction="sum".',
        )


def probe_model(risk: EmpiricalRisk) -> Tensor:
    """Outputs of a few points, which must be finite, repeatable and independent of the other points.

    Args:
        risk: Empirical risk at the trained weights.

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
            cure="Put normalisation layers in evaluation mode.",
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
    if total.requires_grad:
        slopes = torch.autograd.grad(total, leaves, allow_unused=True)
    unused = [name for name, slope in zip(risk.layout.shapes, slopes, strict=True) if slope is None]
    if unused:
        raise bad_value(
            "parameters",
            expected="parameters that the outputs depend on",
            got=f"{', '.join(unused)} without influence",
            cure="Name the others with `parameters=[...]`; these could take any value.",
        )
