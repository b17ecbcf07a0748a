"""How far the nearest kink is: all first-order statements end there."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from solset.door import checked
from solset.risk import EmpiricalRisk

AT_ZERO = frozenset(
    {
        functional.relu,
        functional.relu_,
        functional.leaky_relu,
        functional.rrelu,
        functional.prelu,
        torch.relu,
        torch.relu_,
        Tensor.relu,
        Tensor.relu_,
        torch.abs,
        Tensor.abs,
    }
)
"""Functions with a kink at zero."""

CLAMPS: Mapping[Callable[..., Any], tuple[str, ...]] = {
    torch.clamp: ("min", "max"),
    Tensor.clamp: ("min", "max"),
    Tensor.clamp_: ("min", "max"),
    torch.clamp_min: ("min",),
    Tensor.clamp_min: ("min",),
    torch.clamp_max: ("max",),
    Tensor.clamp_max: ("max",),
    functional.threshold: ("threshold",),
}
"""Functions with kinks at the bounds that they are given."""

FIXED: Mapping[Callable[..., Any], tuple[float, ...]] = {
    functional.relu6: (0.0, 6.0),
    functional.hardswish: (-3.0, 3.0),
    functional.hardsigmoid: (-3.0, 3.0),
}
"""Functions with kinks at these values."""


def kinks_of(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Where a function's first argument has its kinks, as numbers or tensors; none if it is smooth.

    Args:
        func: What is called.
        args: With what.
        kwargs: And with what else.
    """
    if func in AT_ZERO:
        return [0.0]
    if func in FIXED:
        return list(FIXED[func])
    if func is functional.hardtanh:
        given = dict(zip(("min_val", "max_val"), args[1:], strict=False)) | dict(kwargs)
        return [given.get("min_val", -1.0), given.get("max_val", 1.0)]
    if func in CLAMPS:
        names = CLAMPS[func]
        given = dict(zip(names, args[1:], strict=False)) | dict(kwargs)
        return [given[name] for name in names if given.get(name) is not None]
    if func in {torch.maximum, torch.minimum, Tensor.maximum, Tensor.minimum} and len(args) > 1:
        return [args[1]]
    return []


class _Watch(TorchFunctionMode):
    """Keeps the distance to its kink of every argument of a function that has one."""

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
        if args and isinstance(args[0], Tensor):
            # A difference is a copy: an in-place activation overwrites the original.
            self.seen += [args[0] - kink for kink in kinks_of(func, args, kwargs or {})]
        return func(*args, **(kwargs or {}))


@checked
def activation_margin(risk: EmpiricalRisk, *, candidates: int = 200) -> float:
    """``min |z| / ‖∇_{(x, w)} z‖`` over pre-activations: about how far the nearest kink is.

    A first-order estimate of the distance in the joint norm of one input and the weights, from the
    ``candidates`` pre-activations that are smallest against the others of their layer; so an upper estimate
    of the minimum over all. Rectifiers of all kinds, clamps, absolute values and element-wise maxima are seen
    (``z`` is then the distance to the kink); kinks of pooling, sorting and of a user's own autograd functions
    are not.

    Args:
        risk: At the trained point.
        candidates: How many pre-activations to differentiate; 0 for none.

    Returns:
        The margin; infinite where no kink was seen, 0 on one, not a number if a kinked layer does not keep
        the points in its first dimension.

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
    if ranked is None:
        return float("nan")
    return min((_nearest(risk, point, chosen) for point, chosen in ranked.items()), default=float("inf"))


def _smallest(risk: EmpiricalRisk, candidates: int) -> dict[int, list[tuple[int, int]]] | None:
    """The layer and unit of the relatively smallest pre-activations, by point; ``None`` if points mix."""
    parameters = risk.layout.split(risk.weights)

    def work(start: int, inputs: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad(), _Watch() as watch:
            risk.forward(parameters, inputs)
        return _ranked(start, len(inputs), watch.seen, candidates)

    best = risk.joined(work)
    if bool(best.isnan().any()):
        return None
    found_by_point: dict[int, list[tuple[int, int]]] = {}
    for _, point, layer, unit in best[best[:, 0].argsort()[:candidates]].tolist():
        found_by_point.setdefault(int(point), []).append((int(layer), int(unit)))
    return found_by_point


def _ranked(start: int, count: int, seen: Sequence[Tensor], candidates: int) -> Tensor:
    """Size, point, layer and unit of the smallest of a batch, ``(k, 4)``; not a number where points mix."""
    if any(z.ndim == 0 or len(z) != count for z in seen):
        return torch.full((1, 4), float("nan"), dtype=torch.float64)
    found = [torch.zeros(0, 4, dtype=torch.float64)]
    for number, values in enumerate(seen):
        z = values.reshape(count, -1).to("cpu", torch.float64)
        scale = z.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        flat = (z.abs() / scale).flatten()
        sizes, where = flat.topk(min(candidates, len(flat)), largest=False)
        point, unit = where // z.shape[1] + start, where % z.shape[1]
        found.append(torch.stack([sizes, point, torch.full_like(sizes, number), unit], dim=1))
    best = torch.cat(found)
    return best[best[:, 0].argsort()[:candidates]]


def _nearest(risk: EmpiricalRisk, point: int, chosen: Sequence[tuple[int, int]]) -> float:
    """The margin of one point's candidates; a unit that nothing moves has none."""
    inputs, _ = risk.points[[point]]
    leaves = [*risk.leaves(), inputs.detach().clone().requires_grad_()]
    with torch.enable_grad(), _Watch() as watch:
        risk.forward(leaves[:-1], leaves[-1])
    margin = float("inf")
    for layer, unit in chosen:
        z = watch.seen[layer].flatten()[unit]
        if not z.requires_grad:
            continue
        slopes = torch.autograd.grad(z, leaves, retain_graph=True, allow_unused=True)
        size = sum(float(slope.square().sum()) for slope in slopes if slope is not None) ** 0.5
        if size > 0:
            margin = min(margin, abs(float(z.detach())) / size)
    return margin
