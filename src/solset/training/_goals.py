"""Goals of a run: their values at the end of training, and their derivatives in the state there."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from solset.goals import Goals, ModelFunction, Slopes, WeightFunction, as_goals, slopes_of
from solset.risk import (
    EmpiricalRisk,
    Layout,
    Points,
    as_weighed,
    open_door,
    opened,
    probe_indices,
    with_factors,
)
from solset.training._setting import Setting
from solset.training._slopes import Slope
from solset.training._state import State
from solset.training._statistics import with_plain_statistics
from solset.training._step import StepDerivative


def slopes_at_end(
    goals: Goals, setting: Setting, model: nn.Module, end: State, statistics: Sequence[str]
) -> Slopes:
    """The values of goals at the end of a training, with their derivatives in weights and statistics.

    Raises:
        TypeError: If a goal is neither a goal nor a function of the model, or does not return a tensor.
        ValueError: If a goal does not fit, is not differentiable or not finite.

    Cost: one backward pass for each value of the goals.
    """
    layout = Layout({name: value.shape for name, value in end.parameters.items()})
    weights, source = layout.join(list(end.parameters.values())), setting.data.as_source()
    points = Points(source.count, source.read)
    risk = EmpiricalRisk(
        with_plain_statistics(model), setting.loss, "mean", points, layout, weights, 0.0, 256, len(points)
    )
    if not all(isinstance(goal, ModelFunction | WeightFunction) for goal in as_goals(goals)):
        few, moves = probe_indices(source.count), setting.data.moving or None
        points, door = open_door(risk.model, source, few, weights[:0], moves=moves, pick=setting.call.pick)
        risk = opened(replace(risk, points=points, door=door), few, target_moves=False)
        if setting.data.factors is not None:
            factors = setting.data.factors.to(weights.device)
            risk = with_factors(as_weighed(risk), factors, float(factors.sum()))
    with torch.random.fork_rng(devices=[weights.device] if weights.is_cuda else []):
        return slopes_of(goals, risk.holding(risk.model), statistics)


def cotangents(measured: Slopes, derivative: StepDerivative, end: State) -> list[Slope]:
    """The derivative of each value of some goals in the state at the end of a training."""
    shapes = [value.shape for value in end.parameters.values()]
    sizes = [shape.numel() for shape in shapes]
    slopes = []
    for place, gradient in enumerate(measured.gradients.T):
        parts = [part.reshape(shape) for part, shape in zip(gradient.split(sizes), shapes, strict=True)]
        buffers = {name: values[place] for name, values in measured.held.items()}
        slopes.append(Slope(derivative.joined(parts), {}, buffers))
    return slopes
