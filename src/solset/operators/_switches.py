"""Distances of piecewise linear activations from their kinks, recorded in one forward pass."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from solset.errors import bad_value
from solset.operators._kink_table import bare, kinks_of
from solset.operators._passes import pull_back
from solset.risk import EmpiricalRisk, flat_rows


class Switches(TorchFunctionMode):
    """A context in which the distance of each argument from each kink is recorded.

    Attributes:
        values: Signed distances, one tensor for each call and kink.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],  # noqa: ARG002
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function, after recording the distances of its argument from the kinks."""
        if args and isinstance(args[0], Tensor):
            # The difference is a copy, which an in-place activation does not overwrite.
            self.values += [
                args[0] - kink for kink in kinks_of(bare(getattr(func, "__name__", "")), args, kwargs or {})
            ]
        return func(*args, **(kwargs or {}))


def switch_values(risk: EmpiricalRisk) -> Tensor | None:
    """Signed distance of the argument of every piecewise linear activation from its kinks, ``(n · units,)``.

    The path of a solution has a smooth slope as long as no entry changes its sign.

    Args:
        risk: Empirical risk with network, weights and data.

    Returns:
        The distances; ``None`` if no such activation is recorded (there is none, or a torch function mode
        cannot see it), or if the argument of one has no row per point.

    Cost: one forward pass.
    """
    parameters = risk.layout.split(risk.weights)

    def work(_: int, inputs: Tensor, __: Tensor) -> Tensor:
        with torch.no_grad():
            values = _values(risk, parameters, inputs)
        return risk.weights.new_full((len(inputs), 1), float("nan")) if values is None else values

    values = risk.joined(work)
    return None if bool(values.isnan().any()) else values.flatten()


def switch_gradients(
    risk: EmpiricalRisk, points: Sequence[int], units: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Gradients of some values of :func:`switch_values` in the weights, ``(k, p)``, and in the inputs.

    Args:
        risk: Empirical risk for which :func:`switch_values` is not ``None``.
        points: Index of the point of each value, ``(k,)``.
        units: Place of each value among the values of its point, ``(k,)``.

    Raises:
        ValueError: If the network has no piecewise linear activation.

    Cost: one backward pass over all these points for each value.
    """
    leaves, (inputs, _) = risk.leaves(), risk.points[list(points)]
    leaf, batch = risk.points.leaf(inputs)
    with torch.enable_grad():
        values = _values(risk, leaves, batch)
        if values is None:
            raise bad_value(
                "model", expected="activations with kinks", got="none", cure="A smooth model has no switches."
            )
        chosen = values[torch.arange(len(points)), torch.as_tensor(units)]
    *by_weights, by_inputs = pull_back([chosen], [*leaves, leaf], [torch.eye(len(points)).to(chosen)])
    each = torch.arange(len(points))
    return torch.cat([flat_rows(part) for part in by_weights], dim=1), by_inputs[each, each]


def _values(risk: EmpiricalRisk, parameters: Sequence[Tensor], inputs: Tensor) -> Tensor | None:
    """The switch values of a batch, ``(b, units)``."""
    with Switches() as seen:
        risk.forward(parameters, inputs)
    if not seen.values or any(z.ndim == 0 or len(z) != len(inputs) for z in seen.values):
        return None
    return torch.cat([z.reshape(len(inputs), -1) for z in seen.values], dim=1)
