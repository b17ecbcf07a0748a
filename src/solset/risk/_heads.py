"""The loss as a function of outputs that are known already: no pass through the network."""

from collections.abc import Callable

import torch
from torch import Tensor

from solset import comm
from solset.risk._batching import in_batches
from solset.risk._empirical import EmpiricalRisk
from solset.risk._layout import flat_rows


def output_shape(risk: EmpiricalRisk) -> tuple[int, ...]:
    """The shape of one point's outputs. Cost: a forward pass of one point.

    Args:
        risk: Gives the network.
    """
    inputs, _ = risk.points[[0]]
    with torch.no_grad():
        return tuple(risk.forward(risk.layout.split(risk.weights), inputs).shape[1:])


def through_loss(
    risk: EmpiricalRisk,
    outputs: Tensor,
    work: Callable[[Tensor, Tensor], Tensor],
    *,
    targets: Tensor | None = None,
) -> Tensor:
    """What is found point by point from outputs and targets, of all points, ``(n, ...)``.

    Args:
        risk: Gives the batches, and the targets where they are not given.
        outputs: Of all points, ``(n, c)`` or ``(n, *out)``.
        work: From a batch's outputs ``(b, *out)`` and its targets.
        targets: Of all points, where they are known: then no point is read.
    """
    shaped = outputs.reshape(len(outputs), *output_shape(risk))
    if targets is None:
        return risk.joined(lambda start, _, own: work(shaped[start : start + len(own)], own))

    def batch(own: range) -> Tensor:
        return work(shaped[own.start : own.stop], targets[own.start : own.stop])

    parts = list(in_batches(risk.share, risk.batch_size, risk.room, batch))
    return comm.join(torch.cat(parts) if parts else None, device=risk.weights.device)


def losses_at(risk: EmpiricalRisk, outputs: Tensor) -> Tensor:
    """Loss of each point by itself, ``(n,)``, without weight decay.

    Args:
        risk: Gives loss and targets.
        outputs: As :meth:`EmpiricalRisk.outputs` returns them, ``(n, c)``.
    """

    def work(own: Tensor, targets: Tensor) -> Tensor:
        parts = [risk.loss(own[i : i + 1], targets[i : i + 1]) for i in range(len(own))]
        return torch.stack(parts).reshape(-1).detach()

    return through_loss(risk, outputs, work)


def slopes_at(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor | None = None) -> Tensor:
    """``α ∇_f L``, the slope of the risk in each output, ``(n, c)``.

    Args:
        risk: Gives the loss, and the targets where they are not given.
        outputs: ``(n, c)``.
        targets: Of all points, where they are known.
    """

    def work(own: Tensor, targets: Tensor) -> Tensor:
        leaf = own.detach().requires_grad_()
        with torch.enable_grad():
            value = risk.batch_scale(len(leaf)) * risk.loss(leaf, targets)
        return flat_rows(torch.autograd.grad(value, leaf)[0])

    return through_loss(risk, outputs, work, targets=targets)


def fit_at(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor | None = None) -> float:
    """Mean over points of ``‖∇_f L‖``: how far the outputs are from fitted.

    Args:
        risk: Gives the loss, and the targets where they are not given.
        outputs: ``(n, c)``.
        targets: Of all points, where they are known.
    """
    scale = risk.total if risk.reduction == "mean" else 1.0  # takes α out again
    return scale * float(slopes_at(risk, outputs, targets).norm(dim=1).mean())
