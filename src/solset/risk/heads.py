"""The loss as a function of outputs that are known already: no pass through the network."""

import torch
from torch import Tensor

from solset.risk.empirical import EmpiricalRisk


def output_shape(risk: EmpiricalRisk) -> tuple[int, ...]:
    """The shape of one point's outputs. Cost: a forward pass of one point.

    Args:
        risk: Gives the network.
    """
    inputs, _ = risk.points[[0]]
    with torch.no_grad():
        return tuple(risk.forward(risk.layout.split(risk.weights), inputs).shape[1:])


def losses_at(risk: EmpiricalRisk, outputs: Tensor) -> Tensor:
    """Loss of each point by itself, ``(n,)``, without weight decay.

    Args:
        risk: Gives loss and targets.
        outputs: As :meth:`EmpiricalRisk.outputs` returns them, ``(n, c)``.
    """
    shaped = outputs.reshape(len(outputs), *output_shape(risk))

    def work(start: int, _: Tensor, targets: Tensor) -> Tensor:
        own = shaped[start : start + len(targets)]
        parts = [risk.loss(own[i : i + 1], targets[i : i + 1]) for i in range(len(own))]
        return torch.stack(parts).reshape(-1).detach()

    return risk.joined(work)


def slopes_at(risk: EmpiricalRisk, outputs: Tensor) -> Tensor:
    """``α ∇_f L``, the slope of the risk in each output, ``(n, c)``.

    Args:
        risk: Gives loss and targets.
        outputs: ``(n, c)``.
    """
    shaped = outputs.reshape(len(outputs), *output_shape(risk))

    def work(start: int, _: Tensor, targets: Tensor) -> Tensor:
        leaf = shaped[start : start + len(targets)].detach().requires_grad_()
        with torch.enable_grad():
            value = risk.batch_scale(len(leaf)) * risk.loss(leaf, targets)
        return torch.autograd.grad(value, leaf)[0].flatten(1)

    return risk.joined(work)


def fit_at(risk: EmpiricalRisk, outputs: Tensor) -> float:
    """Mean over points of ``‖∇_f L‖``: how far the outputs are from fitted.

    Args:
        risk: Gives loss and targets.
        outputs: ``(n, c)``.
    """
    scale = risk.total if risk.reduction == "mean" else 1.0  # takes α out again
    return scale * float(slopes_at(risk, outputs).norm(dim=1).mean())
