"""The risk and the losses of some subsets of its points, from the same forward passes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from solset.checks import points_of
from solset.errors import bad_value
from solset.risk import EmpiricalRisk, Indices

ALL = "all"


def checked_subsets(subsets: Mapping[str, Indices], risk: EmpiricalRisk) -> dict[str, Tensor]:
    """The indices of each subset in increasing order; no subset may be called ``"all"``."""
    if ALL in subsets:
        cure = 'The subset "all" is always there.'
        raise bad_value("subsets", expected='names other than "all"', got=list(subsets), cure=cure)
    return {
        name: torch.tensor(sorted(points_of(members, len(risk.points), argument=f"subsets[{name!r}]")))
        for name, members in subsets.items()
    }


def subset_losses(risk: EmpiricalRisk, subsets: Mapping[str, Tensor]) -> dict[str, float]:
    """The risk as ``"all"``, and the loss of each subset as a mean or sum over it, in one forward pass."""
    parameters = risk.layout.split(risk.weights)

    def work(start: int, inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = risk.forward(parameters, inputs)
        losses = [float(risk.batch_scale(len(inputs)) * risk.loss(outputs, targets))]
        for members in subsets.values():
            inside = members[(members >= start) & (members < start + len(inputs))] - start
            share = len(inside) / len(members) if risk.reduction == "mean" else 1.0
            members_here = inside.to(outputs.device)
            loss = risk.loss(outputs[members_here], targets[members_here]) if len(inside) else 0.0
            losses.append(float(share * loss))
        return torch.tensor(losses, dtype=torch.float64)

    with torch.no_grad():
        totals = risk.summed(torch.zeros(1 + len(subsets), dtype=torch.float64), work).tolist()
    totals[0] += float(risk.regularisation(parameters))
    return dict(zip([ALL, *subsets], totals, strict=True))


def quantities(risk: EmpiricalRisk, subsets: Mapping[str, Tensor]) -> dict[str, str]:
    """A description of each number of :func:`subset_losses`, with its unit."""
    points, of_all = len(risk.points), "" if len(risk.points) == risk.total else f" of {risk.total}"
    decay = " with weight decay" if risk.has_decay else ""
    per = "mean" if risk.reduction == "mean" else "sum"
    risk_text = {ALL: f"risk{decay}, {per} over {points}{of_all} points"}
    return risk_text | {
        name: f"loss on {name}, {per} over {len(members)} points" for name, members in subsets.items()
    }
