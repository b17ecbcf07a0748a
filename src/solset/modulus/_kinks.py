"""The distance to the nearest kink, where all first-order statements end."""

from collections.abc import Sequence

import torch
from torch import Tensor

from solset.checks import checked
from solset.operators import Switches
from solset.risk import EmpiricalRisk


@checked
def activation_margin(risk: EmpiricalRisk, *, candidates: int = 200) -> float:
    """``min |z| / ‖∇_{(x, w)} z‖`` over pre-activations: the distance to the nearest kink, about.

    A first-order estimate of the distance in the joint norm of one input and the weights, from the
    ``candidates`` pre-activations that are smallest against the others of their layer; so an upper estimate
    of the minimum over all. Rectifiers of all kinds, clamps, absolute values and element-wise maxima are seen
    (``z`` is then the distance to the kink); kinks of pooling, sorting and of a user's own autograd functions
    are not.

    Args:
        risk: Empirical risk at the trained point.
        candidates: Number of pre-activations to differentiate; 0 for none, which gives infinity.

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
        with torch.no_grad(), Switches() as watch:
            risk.forward(parameters, inputs)
        return _ranked(start, len(inputs), watch.values, candidates)

    best = risk.joined(work)
    if bool(best.isnan().any()):
        return None
    units_by_point: dict[int, list[tuple[int, int]]] = {}
    for _, point, layer, unit in best[best[:, 0].argsort()[:candidates]].tolist():
        units_by_point.setdefault(int(point), []).append((int(layer), int(unit)))
    return units_by_point


def _ranked(start: int, count: int, seen: Sequence[Tensor], candidates: int) -> Tensor:
    """Size, point, layer and unit of the smallest of a batch, ``(k, 4)``; not a number where points mix."""
    if any(z.ndim == 0 or len(z) != count for z in seen):
        return torch.full((1, 4), float("nan"), dtype=torch.float64)
    ranked = [torch.zeros(0, 4, dtype=torch.float64)]
    for number, values in enumerate(seen):
        z = _real(values).reshape(count, -1).to("cpu", torch.float64)
        scale = z.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        flat = (z.abs() / scale).flatten()
        sizes, where = flat.topk(min(candidates, len(flat)), largest=False)
        point, unit = where // z.shape[1] + start, where % z.shape[1]
        ranked.append(torch.stack([sizes, point, torch.full_like(sizes, number), unit], dim=1))
    best = torch.cat(ranked)
    return best[best[:, 0].argsort()[:candidates]]


def _real(values: Tensor) -> Tensor:
    """The values, or the absolute values of complex ones, whose kink is at zero."""
    return values.abs() if values.is_complex() else values


def _nearest(risk: EmpiricalRisk, point: int, chosen: Sequence[tuple[int, int]]) -> float:
    """The margin of one point's candidates; a unit that nothing moves has none."""
    inputs, _ = risk.points[[point]]
    leaf, batch = risk.points.leaf(inputs)
    leaves = [*risk.leaves(), leaf]
    with torch.enable_grad(), Switches() as watch:
        risk.forward(leaves[:-1], batch)
    margin = float("inf")
    for layer, unit in chosen:
        z = _real(watch.values[layer].flatten()[unit])
        if not z.requires_grad:
            continue
        slopes = torch.autograd.grad(z, leaves, retain_graph=True, allow_unused=True)
        size = sum(float(slope.square().sum()) for slope in slopes if slope is not None) ** 0.5
        if size > 0:
            margin = min(margin, abs(float(z.detach())) / size)
    return margin
