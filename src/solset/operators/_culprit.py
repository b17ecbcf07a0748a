"""The module whose derivatives are at fault, searched for only after a fault was seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from solset.operators._verify import Comparison, Probe, Verdict, on_leaves


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a module inside the model."""

    name: str
    module: nn.Module
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    is_graded: bool


def culprit(model: nn.Module, call: Callable[[], object], *, is_second: bool) -> str:
    """A description of the innermost module with a wrong derivative, to complete "the fault lies in ...".

    Args:
        model: A copy of the model, which gets hooks for one call.
        call: Function that calls the model once on differentiable inputs.
        is_second: Whether the second derivative is at fault, else the first.
    """
    calls = _calls(model, call)
    without = [one for one in calls if not one.is_graded]
    if without and not is_second:
        outermost = min(without, key=lambda one: one.name.count("."))
        return f"{_shown(outermost)}, which runs under torch.no_grad()"
    for one in calls:
        verdict = _verdict_on(one, is_second=is_second)
        if verdict in {Verdict.WRONG, Verdict.JUMPS, Verdict.MISSING}:
            return _shown(one)
    for one in calls:
        tensors = [x for x in one.arguments if isinstance(x, Tensor) and x.is_floating_point()]
        if not is_second and tensors and not any(x.requires_grad for x in tensors):
            return f"what is done before {_shown(one)}: its input has no graph (detach, NumPy or .data)"
    return f"the forward method of {type(model).__name__}"


def _shown(call: _Call) -> str:
    return f"'{call.name}' ({type(call.module).__name__})"


def _calls(model: nn.Module, call: Callable[[], object]) -> list[_Call]:
    """The calls of all modules but the model itself, the innermost first."""
    calls: list[_Call] = []

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], _: Any) -> None:
            calls.append(_Call(name, module, arguments, named, torch.is_grad_enabled()))

        return hook

    handles = [
        module.register_forward_hook(record(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.enable_grad():
            call()
    except Exception:  # noqa: BLE001 - the user's code failed in a call made for a message only
        return []
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _verdict_on(call: _Call, *, is_second: bool) -> Verdict:
    """What differences say of the derivatives of one module by itself."""
    named = {name: value.detach() for name, value in call.module.named_parameters()}
    places = [
        i for i, one in enumerate(call.arguments) if isinstance(one, Tensor) and one.is_floating_point()
    ]
    values = [*named.values(), *(call.arguments[i].detach() for i in places)]
    if not values:
        return Verdict.UNKNOWN

    def graph(leaves: Sequence[Tensor]) -> Tensor:
        arguments = list(call.arguments)
        for i, leaf in zip(places, leaves[len(named) :], strict=True):
            arguments[i] = leaf.clone()
        outputs = functional_call(
            call.module, dict(zip(named, leaves, strict=False)), tuple(arguments), dict(call.named)
        )
        if not isinstance(outputs, Tensor):
            outputs = torch.cat([one.flatten() for one in _tensors(outputs)])
        return outputs

    probe = Probe(values, graph, on_leaves(graph), len(values))
    try:
        comparison = Comparison(probe, probe.direction(0))
        return comparison.second if is_second else comparison.first
    except Exception:  # noqa: BLE001 - a module that cannot be called by itself is not named
        return Verdict.UNKNOWN


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, list | tuple):
        return [one for item in value for one in _tensors(item)]
    return []
