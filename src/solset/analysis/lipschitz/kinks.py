"""How far the nearest ReLU kink is: all first-order statements end there."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from solset.risk import EmpiricalRisk

KINKED = frozenset(
    {
        functional.relu,
        functional.relu_,
        functional.leaky_relu,
        functional.rrelu,
        functional.prelu,
        functional.relu6,
        torch.relu,
        torch.relu_,
        Tensor.relu,
        Tensor.relu_,
        torch.abs,
        Tensor.abs,
    }
)
"""Functions with a kink at zero."""


class _Watch(TorchFunctionMode):
    """Keeps the arguments of every function with a kink."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],  # noqa: ARG002
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function as if nobody watched."""
        if func in KINKED and args and isinstance(args[0], Tensor):
            self.seen.append(args[0].clone())  # an in-place activation overwrites the original
        return func(*args, **(kwargs or {}))


def activation_margin(risk: EmpiricalRisk, *, candidates: int = 200) -> float:
    """``min |z| / ‖∇_{(x, w)} z‖`` over pre-activations: about how far the nearest kink is.

    A first-order estimate of the distance in the joint norm of one input and the weights, from the
    ``candidates`` pre-activations that are smallest against the others of their layer; so an upper estimate
    of the minimum over all. Kinks of pooling and sorting are not seen.

    Args:
        risk: At the trained point.
        candidates: How many pre-activations to differentiate; 0 for none.

    Returns:
        The margin; infinite where the network has no kinks, 0 on one.

    Cost: one forward pass, and a backward pass over one point for each candidate.

    Example:
        >>> from torch import nn
        >>> from solset import Problem
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
        >>> _ = nn.init.constant_(model[0].weight, 3.0)
        >>> x = torch.tensor([[4.0]])
        >>> activation_margin(Problem(model, nn.MSELoss(), x, 3 * x).risk())  # 12 / ‖(3, 4)‖
        2.4
    """
    if candidates < 1:
        return float("inf")
    ranked = _smallest(risk, candidates)
    margin = float("inf")
    for point, chosen in ranked.items():
        margin = min(margin, _nearest(risk, point, chosen))
    return margin


def _smallest(risk: EmpiricalRisk, candidates: int) -> dict[int, list[tuple[int, int]]]:
    """The layer and unit of the relatively smallest pre-activations, by point."""
    parameters = risk.layout.split(risk.weights)
    best = torch.zeros(0, 4, dtype=torch.float64)
    for start, inputs, _ in risk.batches():
        with torch.no_grad(), _Watch() as watch:
            risk.forward(parameters, inputs)
        layers = [
            z.reshape(len(inputs), -1).to("cpu", torch.float64)
            for z in watch.seen
            if _is_per_point(z, inputs)
        ]
        for number, z in enumerate(layers):
            scale = z.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
            flat = (z.abs() / scale).flatten()
            values, where = flat.topk(min(candidates, len(flat)), largest=False)
            rows = torch.stack(
                [values, where // z.shape[1] + start, torch.full_like(values, number), where % z.shape[1]],
                dim=1,
            )
            best = torch.cat([best, rows])
        best = best[best[:, 0].argsort()[:candidates]]
    found: dict[int, list[tuple[int, int]]] = {}
    for _, point, layer, unit in best.tolist():
        found.setdefault(int(point), []).append((int(layer), int(unit)))
    return found


def _is_per_point(z: Tensor, inputs: Tensor) -> bool:
    return z.ndim > 0 and len(z) == len(inputs)


def _nearest(risk: EmpiricalRisk, point: int, chosen: Sequence[tuple[int, int]]) -> float:
    """The margin of one point's candidates; a unit that nothing moves has none."""
    inputs, _ = risk.points[[point]]
    leaves = [*risk.leaves(), inputs.detach().clone().requires_grad_()]
    with torch.enable_grad(), _Watch() as watch:
        risk.forward(leaves[:-1], leaves[-1])
    layers = [z.flatten() for z in watch.seen if _is_per_point(z, inputs)]
    margin = float("inf")
    for layer, unit in chosen:
        z = layers[layer][unit]
        if not z.requires_grad:
            continue
        slopes = torch.autograd.grad(z, leaves, retain_graph=True, allow_unused=True)
        size = sum(float(slope.square().sum()) for slope in slopes if slope is not None) ** 0.5
        if size > 0:
            margin = min(margin, abs(float(z.detach())) / size)
    return margin
