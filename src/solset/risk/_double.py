"""The same risk in float64, by which what rounding of float32 hides is told."""

import copy
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from solset.risk._empirical import EmpiricalRisk


def in_double(risk: EmpiricalRisk) -> EmpiricalRisk:
    """The risk in float64 at the same numbers, where network and loss take it; else the risk as it is.

    Cost: one gradient over a single point.
    """
    double = risk if risk.points.tree is not None else in_float64(risk)  # a tree keeps its own dtypes
    if double is risk:
        return risk
    try:
        (double if double.is_whole else double.select([0])).sweep()
    except (RuntimeError, TypeError, ValueError):
        return risk
    return double


def in_float64(risk: EmpiricalRisk) -> EmpiricalRisk:
    """The same risk with weights, held values, inputs and targets in float64.

    Args:
        risk: Empirical risk; in float64 already, it comes back as it is.
    """
    if risk.weights.dtype == torch.float64:
        return risk
    state = {**dict(risk.model.named_parameters()), **dict(risk.model.named_buffers()), **risk.fixed}
    held = {name: _double(value.detach()) for name, value in state.items() if name not in risk.layout.shapes}
    return replace(
        risk,
        weights=risk.weights.double(),
        weight_decay=_double(risk.weight_decay),
        fixed=held,
        points=risk.points.in_float64(),
        loss=_precise_loss(risk.loss),
    )


def _precise_loss(loss: Any) -> Any:
    """A loss, or the one inside of a wrapper, with its own constants in float64."""
    if isinstance(loss, nn.Module):
        return copy.deepcopy(loss).double()
    if is_dataclass(loss) and not isinstance(loss, type) and hasattr(loss, "loss"):
        return replace(loss, loss=_precise_loss(loss.loss))  # type: ignore[type-var]
    return loss


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
