"""One step of an optimizer as a differentiable function of weights, gradients and its own state."""

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from solset.errors import bad_type, bad_value
from solset.training._adjustment import has_decay, has_rate
from solset.training._blocks import Block
from solset.training._state import Settings, Slots, State
from solset.training._told import told

MakeOptimizer = Callable[[list[Any]], Optimizer]
_BY_ENTRY = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.ASGD,
    torch.optim.Rprop,
)
# counters of steps and rates that no data moves; and the mean weights of ASGD, which no later weight reads
_BESIDE = {"step", "mu_product", "eta", "mu", "ax"}


class OptimizerStep:
    """The step of a ``torch.optim`` optimizer without side effects, by its own differentiable rule.

    Parameters are taken in blocks: where the rule treats each entry by itself, all parameters of a group
    are one flat vector. Values differ from those of the optimizer in use by rounding only.

    Args:
        optimizer: Optimizer of the trained parameters; it is used up.
        parameters: Trained parameters in their order.

    Attributes:
        blocks: Parameters that are taken as one tensor.

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
        self._optimizer, self._count = optimizer, len(parameters)
        places = {id(parameter): place for place, parameter in enumerate(parameters)}
        groups = [[places[id(each)] for each in group["params"]] for group in optimizer.param_groups]
        self._by_entry = type(optimizer) in _BY_ENTRY
        self.blocks = [
            Block(tuple(members), tuple(parameters[place].shape for place in members), group)
            for group, of_group in enumerate(groups)
            for members in ([of_group] if self._by_entry and of_group else [[each] for each in of_group])
        ]

    @property
    def is_own(self) -> bool:
        """Whether the rule is not one of PyTorch's that are known to be differentiated right."""
        return not self._by_entry

    def joined(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors for each parameter as one for each block: flat for several parameters."""
        return [block.joined([tensors[place] for place in block.places]) for block in self.blocks]

    def split(self, joined: Sequence[Tensor]) -> list[Tensor]:
        """Tensors for each block as one for each parameter, in their order."""
        pieces = {
            place: piece
            for tensor, block in zip(joined, self.blocks, strict=True)
            for place, piece in zip(block.places, block.split(tensor), strict=True)
        }
        return [pieces[place] for place in range(self._count)]

    def moving_slots(self, state: State) -> list[Slots]:
        """The tensors of the optimizer's state that carry derivatives, for each block, by name."""
        like = next(iter(state.parameters.values()))
        moving = []
        for block in self.blocks:
            slots = [state.slots[place] for place in block.places]
            pairs = list(zip(slots, block.shapes, strict=True))
            tensors = {
                name: block.joined([s[name] if name in s else like.new_zeros(shape) for s, shape in pairs])
                for name in self._moving(slots, block.shapes)
            }
            moving.append({name: tensor.detach() for name, tensor in tensors.items()})
        return moving

    def _moving(self, slots: Sequence[Slots], shapes: Sequence[torch.Size]) -> list[str]:
        """The names of the slots that carry a derivative to later weights, of any of some parameters."""
        names = dict.fromkeys(
            name
            for slot, shape in zip(slots, shapes, strict=True)
            for name, value in slot.items()
            if isinstance(value, Tensor) and value.is_floating_point()
            if name not in (_BESIDE if self._by_entry else {"step"})
            if value.shape == shape or not self._by_entry
        )
        return list(names)

    def __call__(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        moving: Sequence[Slots],
        before: State,
        used: Sequence[bool],
        settings: Settings,
    ) -> tuple[list[Tensor], list[Slots]]:
        """Parameters and moving slots after the step; autograd can differentiate them in the first three.

        PyTorch skips a parameter without a gradient: neither decay nor momentum moves it. So parameters of a
        block may have taken different numbers of steps; those with the same history are one part of it.
        """
        cuts = [self._parts(block, before.slots, used) for block in self.blocks]
        moved, state = list[Tensor](), list[Slots]()
        for block, parts, *tensors, slots in zip(
            self.blocks, cuts, parameters, gradients, moving, strict=True
        ):
            values, slopes = (block.cut(tensor, parts) for tensor in tensors)
            of_parts = {name: block.cut(tensor, parts) for name, tensor in slots.items()}
            for place, (part, value, slope) in enumerate(zip(parts, values, slopes, strict=True)):
                first = part.places[0]
                moved.append(value.clone())
                moved[-1].grad = slope.clone() if used[first] else None
                its_slots = {name: tensors[place].clone() for name, tensors in of_parts.items()}
                state.append({n: its_slots.get(n, _counter(v)) for n, v in before.slots[first].items()})
        groups = [part.group for parts in cuts for part in parts]
        with nullcontext() if all(used) else _skipping_in_silence():
            after = self._stepped(moved, state, groups, settings)
        pairs = zip(moved, after, strict=True)
        ends = [
            self._merged(block, parts, list(islice(pairs, len(parts))))
            for block, parts in zip(self.blocks, cuts, strict=True)
        ]
        return [value for value, _ in ends], [slots for _, slots in ends]

    def _merged(
        self, block: Block, parts: Sequence[Block], ends: Sequence[tuple[Tensor, Slots]]
    ) -> tuple[Tensor, Slots]:
        """The value of a block and its moving slots from those of its parts; zeros where one has none yet."""
        names = self._moving([slots for _, slots in ends], [value.shape for value, _ in ends])
        moving = {
            name: block.merged([slots.get(name, torch.zeros_like(value)) for value, slots in ends], parts)
            for name in names
        }
        return block.merged([value for value, _ in ends], parts), moving

    def _parts(self, block: Block, slots: Sequence[Slots], used: Sequence[bool]) -> list[Block]:
        """The parameters of a block in parts with the same history: those skipped, and equal counters."""
        if len(block.places) == 1:
            return [block]
        moving = self._moving([slots[place] for place in block.places], block.shapes)
        return block.parts(
            [
                (
                    used[place],
                    *(
                        (name, None if name in moving else _number(value))
                        for name, value in slots[place].items()
                    ),
                )
                for place in block.places
            ]
        )

    def _stepped(
        self, moved: Sequence[Tensor], state: list[Slots], groups: Sequence[int], settings: Settings
    ) -> list[Slots]:
        """Takes a step in place, and returns the state of the optimizer after it.

        The momentum of SGD starts from zeros here: PyTorch detaches its first gradient from the graph.
        """
        settings = [_for_derivatives(numbers) for numbers in settings]
        is_sgd = isinstance(self._optimizer, torch.optim.SGD)
        keys = [
            (group, is_sgd and bool(settings[group]["momentum"]) and slot.get("momentum_buffer") is None)
            for group, slot in zip(groups, state, strict=True)
        ]
        self._optimizer.state.clear()
        for value, slot, (_, starts) in zip(moved, state, keys, strict=True):
            if starts and value.grad is not None:
                self._optimizer.state[value] = {"momentum_buffer": torch.zeros_like(value)}
            elif slot:
                self._optimizer.state[value] = slot
        self._optimizer.param_groups = [
            {
                **settings[group],
                **({"dampening": 0} if starts else {}),
                "params": [v for v, key in zip(moved, keys, strict=True) if key == (group, starts)],
            }
            for group, starts in sorted(set(keys))
        ]
        with _counters_in_float64():
            self._optimizer.step()
        after = [dict(self._optimizer.state.get(value, {})) for value in moved]
        self._optimizer.state.clear()
        for value in moved:
            value.grad = None
        return after

    @property
    def takes_rate(self) -> bool:
        """Whether the derivative in the learning rate is known."""
        return has_rate(self._optimizer)

    @property
    def takes_decay(self) -> bool:
        """Whether the derivative in the weight decay is known."""
        return has_decay(self._optimizer)

    def decay_changes(
        self,
        parameters: Sequence[Tensor],
        used: Sequence[bool],
        settings: Settings,
        decays: Sequence[float],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What a change of the weight decay adds to the gradients of a step, and to the weights after it.

        Weight decay is a part of the gradient, but for AdamW and its kin, which shorten the weights by it.
        """
        to_gradients, to_weights = [], []
        for parameter, block in zip(parameters, self.blocks, strict=True):
            numbers, step = settings[block.group], decays[block.group] if decays else 0.0
            value, zero = parameter.detach(), torch.zeros_like(parameter)
            if not all(used):
                pieces = zip(block.split(value), block.places, strict=True)
                value = block.joined([piece * used[place] for piece, place in pieces])
            of_weights = self._is_decoupled(numbers)
            sign = -1.0 if numbers.get("maximize") else 1.0
            to_gradients.append(zero if of_weights or not step else sign * step * value)
            to_weights.append(-float(numbers["lr"]) * step * value if of_weights and step else zero)
        return to_gradients, to_weights

    def decay_slope(
        self,
        parameters: Sequence[Tensor],
        used: Sequence[bool],
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        settings: Settings,
    ) -> float:
        """The derivative of a goal in the weight decay of all groups that decay, at one step."""
        decays = [float(float(numbers.get("weight_decay", 0.0)) > 0) for numbers in settings]
        changes = self.decay_changes(parameters, used, settings, decays)
        pairs = [*zip(gradients, changes[0], strict=True), *zip(weights, changes[1], strict=True)]
        return sum(float((slope * change).sum()) for slope, change in pairs)

    def rate_moves(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        before: State,
        used: Sequence[bool],
        settings: Settings,
    ) -> list[Tensor]:
        """The derivative of the blocks after a step in a relative change of the learning rate.

        The step is linear in the rate, so that it is the rate times the step at rate 1.
        """
        at_one = [{**numbers, "lr": 1.0} for numbers in settings]
        moved, _ = self(parameters, gradients, self.moving_slots(before), before, used, at_one)
        return [
            float(settings[block.group]["lr"]) * (end - start).detach()
            for end, start, block in zip(moved, parameters, self.blocks, strict=True)
        ]

    def _is_decoupled(self, numbers: dict[str, Any]) -> bool:
        return isinstance(self._optimizer, torch.optim.AdamW) or bool(numbers.get("decoupled_weight_decay"))


def _counter(value: Any) -> Any:
    """A copy of a slot that carries no derivative; a counter of steps in float64."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().double() if value.ndim == 0 and value.is_floating_point() else value.clone()


def _number(value: Any) -> Hashable:
    """What tells a counter of steps from another one."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else tuple(value.flatten().tolist())
    return value


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


@contextmanager
def _skipping_in_silence() -> Iterator[None]:
    """A context without PyTorch's warning at each parameter in a graph that has no gradient."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        yield


def _for_derivatives(numbers: dict[str, Any]) -> dict[str, Any]:
    switches = {"differentiable": True, "foreach": False, "fused": None, "capturable": False}
    return {**numbers, **{name: value for name, value in switches.items() if name in numbers}}


def refuse_step_hooks(optimizer: Optimizer) -> None:
    """Refuses hooks on steps, which may change gradients or weights where no derivative sees it."""
    of_all = [*_global_optimizer_pre_hooks.values(), *_global_optimizer_post_hooks.values()]
    of_one = [*optimizer._optimizer_step_pre_hooks.values()]  # noqa: SLF001
    of_one += optimizer._optimizer_step_post_hooks.values()  # noqa: SLF001
    if hooks := of_one + of_all:
        names = ", ".join(getattr(hook, "__qualname__", type(hook).__name__) for hook in hooks[:5])
        raise bad_value(
            "optimizer",
            expected="one without hooks on its steps, which may change gradients or weights",
            got=names if of_one else f"{names}, on the steps of all optimizers",
            cure="Remove hooks that only look on; write the others as clip_norm, augment, weight_decay or an "
            "optimizer of your own whose step has the option `differentiable`.",
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
    refuse_step_hooks(optimizer)
    return optimizer
