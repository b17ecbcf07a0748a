"""The same risk in float64, by which what rounding of float32 hides is told."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from solset.risk._empirical import EmpiricalRisk


def in_double(risk: EmpiricalRisk) -> EmpiricalRisk:
    """The risk in float64 at the same numbers, where network and loss take it; else the risk as it is.

    Args:
        risk: Empirical risk in float32 or float64. One whose points are trees of tensors stays as it is.

    Cost: one gradient over a single point.
    """
    if risk.weights.dtype == torch.float64 or risk.points.tree is not None:  # a tree keeps its own dtypes
        return risk
    state = {**dict(risk.model.named_parameters()), **dict(risk.model.named_buffers()), **risk.fixed}
    held = {name: _double(value.detach()) for name, value in state.items() if name not in risk.layout.shapes}
    points = replace(
        risk.points,
        fetch=lambda chosen: tree_map(_double, risk.points.fetch(chosen)),
        moved={i: _double(moved) for i, moved in risk.points.moved.items()},
    )
    loss = copy.deepcopy(risk.loss).double() if isinstance(risk.loss, nn.Module) else risk.loss
    weights, decay = risk.weights.double(), _double(risk.weight_decay)
    double = replace(risk, loss=loss, points=points, weights=weights, weight_decay=decay, fixed=held)
    try:
        (double if double.is_whole else double.select([0])).sweep()
    except (RuntimeError, TypeError, ValueError):
        return risk
    return double


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
