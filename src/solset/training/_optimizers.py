"""One step of an optimizer as a differentiable function of weights, gradients and its own state."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from solset.errors import bad_type, bad_value
from solset.training._adjustment import has_decay, has_rate
from solset.training._state import Settings, Slots, put_settings, settings_of
from solset.training._told import told

MakeOptimizer = Callable[[list[Any]], Optimizer]
_BY_ENTRY = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.ASGD,
    torch.optim.Rprop,
)


class OptimizerStep:
    """The step of a ``torch.optim`` optimizer without side effects, by its own differentiable rule.

    Parameters are taken in blocks: where the rule treats each entry by itself, all parameters of a group
    are one flat vector. Values differ from those of the optimizer in use by rounding only.

    Args:
        optimizer: Optimizer of the trained parameters; it is used up.
        parameters: Trained parameters in their order.

    Attributes:
        blocks: Places of the parameters of each block.

    Raises:
        ValueError: If the optimizer's step has no derivative.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        if "differentiable" not in optimizer.defaults:
            raise bad_value(
                "optimizer",
                expected="one of torch.optim whose step can be differentiated, such as SGD, Adam or AdamW",
                got=type(optimizer).__name__,
                cure="Its step has no `differentiable` option, so the run has no derivative.",
            )
        in_groups = {id(each) for group in optimizer.param_groups for each in group["params"]}
        if in_groups != {id(parameter) for parameter in parameters}:
            raise bad_value(
                "optimizer",
                expected="a function that hands all parameters it is given to the optimizer, and no others",
                got=f"{len(in_groups)} parameters of {len(parameters)}",
                cure="Freeze the others with requires_grad_(False).",
            )
        optimizer.defaults["differentiable"] = True
        self._optimizer = optimizer
        self._shapes = [parameter.shape for parameter in parameters]
        places = {id(parameter): place for place, parameter in enumerate(parameters)}
        members = [[places[id(each)] for each in group["params"]] for group in optimizer.param_groups]
        by_entry = type(optimizer) in _BY_ENTRY or isinstance(optimizer, torch.optim.AdamW)
        self.blocks = members if by_entry else [[place] for group in members for place in group]
        self._group_of = [
            next(i for i, group in enumerate(members) if block[0] in group) for block in self.blocks
        ]

    def joined(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors for each parameter as one for each block: flat for several parameters."""
        return [
            torch.cat([tensors[place].reshape(-1) for place in block])
            if len(block) > 1
            else tensors[block[0]]
            for block in self.blocks
        ]

    def split(self, joined: Sequence[Tensor]) -> list[Tensor]:
        """Tensors for each block as one for each parameter, in their order."""
        parts: list[Tensor] = [joined[0]] * len(self._shapes)
        for tensor, block in zip(joined, self.blocks, strict=True):
            sizes = [self._shapes[place].numel() for place in block]
            pieces = torch.split(tensor, sizes) if len(block) > 1 else [tensor]
            for piece, place in zip(pieces, block, strict=True):
                parts[place] = piece.reshape(self._shapes[place])
        return parts

    def joined_slots(self, slots: Sequence[Slots]) -> list[Slots]:
        """The state of the optimizer for each block."""
        return [
            {name: self._joined_slot(block, slots, name) for name in slots[block[0]]} for block in self.blocks
        ]

    def _joined_slot(self, block: Sequence[int], slots: Sequence[Slots], name: str) -> Any:
        first = slots[block[0]][name]
        if len(block) == 1 or not isinstance(first, Tensor) or first.shape != self._shapes[block[0]]:
            return _copy_of(first)
        return torch.cat([slots[place][name].reshape(-1) for place in block])

    def __call__(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        slots: Sequence[Slots],
        settings: Settings,
    ) -> tuple[list[Tensor], list[Slots]]:
        """Parameters and slots after the step; autograd can differentiate them in the first three arguments.

        Args:
            parameters: Values of the blocks.
            gradients: Gradient for each block.
            slots: State of the optimizer for each block; empty before the first step.
            settings: Rates and other numbers of the groups.
        """
        moved = [parameter.clone() for parameter in parameters]
        state = [{name: _copy_of(value) for name, value in slot.items()} for slot in slots]
        settings = [_for_derivatives(numbers) for numbers in settings]
        if isinstance(self._optimizer, torch.optim.SGD):
            settings, state = _with_momentum(settings, state, moved)
        for parameter, gradient in zip(moved, gradients, strict=True):
            parameter.grad = gradient.clone()
        put_settings(settings, self._optimizer)
        for place, group in enumerate(self._optimizer.param_groups):
            group["params"] = [m for m, owner in zip(moved, self._group_of, strict=True) if owner == place]
        self._optimizer.state.clear()
        for parameter, slot in zip(moved, state, strict=True):
            if slot:
                self._optimizer.state[parameter] = slot
        with _counters_in_float64():
            self._optimizer.step()
        after = [dict(self._optimizer.state.get(parameter, {})) for parameter in moved]
        self._optimizer.state.clear()
        for parameter in moved:
            parameter.grad = None
        return moved, after

    @property
    def takes_rate(self) -> bool:
        """Whether the derivative in the learning rate is known."""
        return has_rate(self._optimizer)

    @property
    def takes_decay(self) -> bool:
        """Whether the derivative in the weight decay is known."""
        return has_decay(self._optimizer)

    def decay_changes(
        self, parameters: Sequence[Tensor], settings: Settings, decays: Sequence[float]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What a change of the weight decay adds to the gradients of a step, and to the weights after it.

        Weight decay is a part of the gradient, but for AdamW and its kin, which shorten the weights by it.

        Args:
            parameters: Values of the blocks before the step.
            settings: Rates and other numbers of the groups.
            decays: Change of the decay of each group; empty where none changes.
        """
        to_gradients, to_weights = [], []
        for parameter, group in zip(parameters, self._group_of, strict=True):
            numbers, step = settings[group], decays[group] if decays else 0.0
            value, zero = parameter.detach(), torch.zeros_like(parameter)
            of_weights = self._is_decoupled(numbers)
            sign = -1.0 if numbers.get("maximize") else 1.0
            to_gradients.append(zero if of_weights or not step else sign * step * value)
            to_weights.append(-float(numbers["lr"]) * step * value if of_weights and step else zero)
        return to_gradients, to_weights

    def decay_slope(
        self,
        parameters: Sequence[Tensor],
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        settings: Settings,
    ) -> float:
        """The derivative of a goal in the weight decay of all groups that decay, at one step."""
        decays = [float(float(numbers.get("weight_decay", 0.0)) > 0) for numbers in settings]
        changes = self.decay_changes(parameters, settings, decays)
        pairs = [*zip(gradients, changes[0], strict=True), *zip(weights, changes[1], strict=True)]
        return sum(float((slope * change).sum()) for slope, change in pairs)

    def rate_moves(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        slots: Sequence[Slots],
        settings: Settings,
    ) -> list[Tensor]:
        """The derivative of the blocks after a step in a relative change of the learning rate.

        The step is linear in the rate, so that it is the rate times the step at rate 1.
        """
        moved, _ = self(parameters, gradients, slots, [{**numbers, "lr": 1.0} for numbers in settings])
        return [
            float(settings[group]["lr"]) * (after - before).detach()
            for after, before, group in zip(moved, parameters, self._group_of, strict=True)
        ]

    def _is_decoupled(self, numbers: dict[str, Any]) -> bool:
        return isinstance(self._optimizer, torch.optim.AdamW) or bool(numbers.get("decoupled_weight_decay"))


def _copy_of(value: Any) -> Any:
    """A copy of a slot; a counter of steps in float64."""
    if not isinstance(value, Tensor):
        return value
    return value.double() if value.ndim == 0 and value.is_floating_point() else value.clone()


@contextmanager
def _counters_in_float64() -> Iterator[None]:
    """A context in which new counters of steps are in float64.

    The differentiable rules take powers ``β^step`` of the counter as a tensor, while the ordinary ones take
    those of a Python number. In float32 the two differ by 1e-5.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def _for_derivatives(numbers: dict[str, Any]) -> dict[str, Any]:
    switches = {"differentiable": True, "foreach": False, "fused": None, "capturable": False}
    return {**numbers, **{name: value for name, value in switches.items() if name in numbers}}


def _with_momentum(
    settings: Settings, slots: Sequence[Slots], parameters: Sequence[Tensor]
) -> tuple[Settings, list[Slots]]:
    """Momentum that starts from zeros: PyTorch detaches the first gradient of SGD from the graph."""
    is_first = not any(slot.get("momentum_buffer") is not None for slot in slots)
    if not is_first or not any(numbers["momentum"] for numbers in settings):
        return settings, list(slots)
    zeros: list[Slots] = [{"momentum_buffer": torch.zeros_like(parameter)} for parameter in parameters]
    return [{**numbers, "dampening": 0} for numbers in settings], zeros


def differentiable_slots(slots: Sequence[Slots], parameters: Sequence[Tensor]) -> list[tuple[int, str]]:
    """Place and name of the slots that carry derivatives: floating tensors shaped like their block."""
    return [
        (place, name)
        for place, (slot, parameter) in enumerate(zip(slots, parameters, strict=True))
        for name, value in slot.items()
        if isinstance(value, Tensor) and value.is_floating_point() and name != "step"
        if value.shape == parameter.shape
    ]


@dataclass(frozen=True, eq=False)
class Continued:
    """A factory of optimizers that start from the state of a checkpoint."""

    make: MakeOptimizer  # Function of the parameters that returns an optimizer that starts anew
    state: dict[str, Any]  # State dict of the optimizer whose work goes on

    def __call__(self, parameters: list[Any]) -> Optimizer:
        """An optimizer with its own learning rates and the state of the checkpoint.

        Raises:
            ValueError: If the state does not fit the parameters.
        """
        optimizer = made(self.make, parameters)
        settings = settings_of(optimizer)
        try:
            optimizer.load_state_dict(copy.deepcopy(self.state))
            shapes = [
                (name, tuple(value.shape), tuple(parameter.shape))
                for parameter, slot in optimizer.state.items()
                for name, value in slot.items()
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape
            ]
        except (KeyError, ValueError, TypeError) as error:
            raise self._misfit(f"{type(error).__name__}: {error}") from error
        if shapes:
            raise self._misfit("{} of shape {} for a parameter of shape {}".format(*shapes[0]))
        put_settings(settings, optimizer)
        return optimizer

    def _misfit(self, how: str) -> ValueError:
        return bad_value(
            "optimizer_state",
            expected="the state dict of the same optimizer, for the trained parameters in the same order",
            got=how,
            cure="Pass optimizer.state_dict() of the checkpoint whose model make_model is.",
        )


def made(make: MakeOptimizer, parameters: list[Any]) -> Optimizer:
    """The optimizer that a factory makes, refused unless it is one."""
    expected, cure = (
        "a function of the parameters that returns a torch optimizer",
        "Write partial(torch.optim.AdamW, lr=1e-3).",
    )
    with told("optimizer", expected, cure):
        optimizer = make(parameters)
    if not isinstance(optimizer, Optimizer):
        raise bad_type("optimizer", expected=expected, got=type(optimizer).__name__, cure=cure)
    return optimizer
