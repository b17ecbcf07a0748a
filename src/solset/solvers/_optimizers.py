"""What a trained optimizer says of the flow that it followed: its duration, its decay and its metric."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from solset.errors import bad_type, bad_value

_KINDS = (SGD, Adam, AdamW, RMSprop)


def read_optimizer(
    optimizer: Optimizer, model: nn.Module, steps: int | None, schedule: Sequence[float] | None
) -> tuple[float, float | Tensor, Tensor | None, int]:
    """Duration, decoupled decay, diagonal of the metric, and the number of weights without any gradient.

    The duration is that of the first group; weights of groups with other rates have it in their metric.

    Args:
        optimizer: Optimizer after its last step.
        model: Module whose parameters give the order of the weights.
        steps: Number of steps; ``None`` takes the optimizer's own count.
        schedule: Learning rate of the first group at each step; ``None`` for the present one.

    Raises:
        TypeError: If the optimizer is of a kind that is not known.
        ValueError: If it does not hold the model's parameters, or steps or rates are not known.
    """
    groups, parameters = _groups(optimizer, model)
    first = groups[id(parameters[0])]
    length = _length(optimizer, parameters[0], first, steps, schedule)
    pace = _pace(first)
    if not pace > 0 and len(optimizer.param_groups) > 1:
        cure = "Give Recipe(length, decay, scale) the numbers yourself."
        raise bad_value(
            "optimizer", expected="groups whose rates can be compared", got="a rate of 0", cure=cure
        )
    scales, decays, silent = [], [], 0
    for parameter in parameters:
        group, state = groups[id(parameter)], optimizer.state.get(parameter, {})
        relative = _pace(group) / pace if len(optimizer.param_groups) > 1 else 1.0
        metric = _metric(optimizer, group, state, parameter)
        silent += int((metric == 0).sum())
        scales.append(relative * metric.reshape(-1))
        decay = relative * group["weight_decay"] if _is_decoupled(optimizer, group) else 0.0
        decays.append(torch.full_like(scales[-1], decay))
    scale, decay = torch.cat(scales), torch.cat(decays)
    if silent == len(scale):
        raise bad_value(
            "optimizer",
            expected="one that took steps with gradients, after which its state says how weights move",
            got=f"a fresh {type(optimizer).__name__}",
            cure="Pass the optimizer of the training itself, after its last step.",
        )
    is_even = bool((decay == decay[0]).all())
    return length, float(decay[0]) if is_even else decay, None if bool((scale == 1).all()) else scale, silent


def _groups(optimizer: Optimizer, model: nn.Module) -> tuple[dict[int, dict[str, Any]], list[nn.Parameter]]:
    """The group of each parameter by its identity, and the parameters in the order of the model."""
    if type(optimizer) not in _KINDS:
        raise bad_type(
            "optimizer",
            expected="SGD, Adam, AdamW or RMSprop of torch.optim",
            got=type(optimizer).__name__,
            cure="Give Recipe(length, decay, scale) the numbers yourself.",
        )
    groups = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    parameters = [each for each in model.parameters() if id(each) in groups]
    if len(parameters) < len(groups) or not parameters:
        raise bad_value(
            "model",
            expected="the module whose parameters the optimizer holds",
            got=f"one with {len(parameters)} of its {len(groups)}",
            cure="Pass the module that was trained.",
        )
    return groups, parameters


def _length(
    optimizer: Optimizer,
    parameter: Tensor,
    group: dict[str, Any],
    steps: int | None,
    schedule: Sequence[float] | None,
) -> float:
    """The sum of the learning rates, over what momentum takes off."""
    if schedule is None:
        count = optimizer.state.get(parameter, {}).get("step") if steps is None else steps
        if count is None:
            raise bad_value(
                "steps",
                expected=f"a number, since {type(optimizer).__name__} does not count its steps",
                got=None,
                cure="Pass epochs times batches, or the learning rates of all steps as schedule.",
            )
        start = group.get("initial_lr", group["lr"])
        if float(start) != float(group["lr"]):
            raise bad_value(
                "schedule",
                expected="the learning rate of each step, since a scheduler changed it",
                got=f"none, and a rate that went from {float(start):.3g} to {float(group['lr']):.3g}",
                cure="Record scheduler.get_last_lr()[0] before each step.",
            )
        total = float(count) * float(group["lr"])
    else:
        if steps is not None and steps != len(schedule):
            cure = "Leave steps out."
            raise bad_value("steps", expected=f"{len(schedule)}, as in schedule", got=steps, cure=cure)
        total = float(sum(schedule))
    return total * _push(group)


def _push(group: dict[str, Any]) -> float:
    """The factor by which momentum lengthens a step: ``(1 - dampening) / (1 - momentum)``."""
    momentum = group.get("momentum", 0.0)
    return (1 - group.get("dampening", 0.0)) / (1 - momentum) if momentum else 1.0


def _pace(group: dict[str, Any]) -> float:
    """How fast a group moves: its first learning rate, lengthened by momentum."""
    return float(group.get("initial_lr", group["lr"])) * _push(group)


def _is_decoupled(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    return isinstance(optimizer, AdamW) or bool(group.get("decoupled_weight_decay"))


def _metric(optimizer: Optimizer, group: dict[str, Any], state: dict[str, Any], like: Tensor) -> Tensor:
    """The factor of each entry of the gradient in a step, in float64; 0 where no gradient ever was."""
    if isinstance(optimizer, SGD):
        return torch.ones_like(like, dtype=torch.float64)
    name = "exp_avg_sq" if isinstance(optimizer, Adam) else "square_avg"
    square = state.get("max_exp_avg_sq", state.get(name))
    if square is None:  # no step was taken with a gradient
        return torch.zeros_like(like, dtype=torch.float64)
    square = square.detach().to(torch.float64)
    if isinstance(optimizer, Adam):
        square = square / (1 - group["betas"][1] ** float(state["step"]))
    elif group["centered"]:
        square = (square - state["grad_avg"].detach().to(torch.float64).square()).clamp_min(0)
    return torch.where(square > 0, 1 / (square.sqrt() + group["eps"]), 0.0)
