"""What one step of a training reads and changes, as a value."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Slots = dict[str, Any]
Settings = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class State:
    """Everything that a step of a training depends on, beside the data and the recipe."""

    parameters: Mapping[str, Tensor]  # Values of the trained parameters, by name
    # Values of the buffers, such as the running statistics of BatchNorm, by name
    buffers: Mapping[str, Tensor]
    slots: Sequence[Slots]  # State of the optimizer for each trained parameter, in the same order


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require grad, by name, in the order of ``named_parameters``."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def without_gradient(model: nn.Module) -> list[str]:
    """The names of the trained parameters that have no gradient, so that an optimizer skips them."""
    return [name for name, value in trained(model).items() if value.grad is None]


def at_weights_of(model: nn.Module, like: State) -> State:
    """A state with the parameters and buffers of a model, for what does not ask its optimizer."""
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    return State(
        {name: parameters[name].detach() for name in like.parameters},
        {name: buffers[name] for name in like.buffers},
        like.slots,
    )


def capture(model: nn.Module, optimizer: Optimizer) -> State:
    """A copy of the state of a model and its optimizer."""
    named = trained(model)
    slots = [
        {name: _copied(value) for name, value in optimizer.state.get(parameter, {}).items()}
        for parameter in named.values()
    ]
    return State(
        {name: value.detach().clone() for name, value in named.items()},
        {name: value.detach().clone() for name, value in model.named_buffers()},
        slots,
    )


def restore(state: State, model: nn.Module, optimizer: Optimizer) -> None:
    """Puts a state back into a model and its optimizer, in place."""
    named, buffers = trained(model), dict(model.named_buffers())
    optimizer.state.clear()
    with torch.no_grad():
        for name, value in state.parameters.items():
            named[name].copy_(value)
        for name, value in state.buffers.items():
            buffers[name].copy_(value)
        for parameter, slot in zip(named.values(), state.slots, strict=True):
            if slot:
                optimizer.state[parameter] = {name: _copied(value) for name, value in slot.items()}


def settings_of(optimizer: Optimizer) -> Settings:
    """Rates and other numbers of each group of the optimizer, as they stand before a step."""
    return [
        {name: _copied(value) for name, value in group.items() if name not in {"params", "param_names"}}
        for group in optimizer.param_groups
    ]


def put_settings(settings: Settings, optimizer: Optimizer) -> None:
    """Puts recorded numbers into the groups of an optimizer."""
    for group, numbers in zip(optimizer.param_groups, settings, strict=True):
        group.update(numbers)


def _copied(value: Any) -> Any:
    """A copy of a part of the state; the momentum of sparse gradients becomes a dense tensor."""
    return value.detach().to_dense().clone() if isinstance(value, Tensor) else value


def randomness(device: torch.device) -> tuple[Tensor, ...]:
    """The states of the random generators that layers draw from: the CPU's, and those of its device."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return tuple(states)


def set_randomness(states: Sequence[Tensor], device: torch.device) -> None:
    """Sets the random generators to recorded states."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """A context after which the user's random generators are as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
