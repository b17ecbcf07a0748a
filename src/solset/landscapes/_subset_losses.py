"""The risk and the losses of some subsets of its points, from the same forward passes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from solset.checks import points_of
from solset.errors import bad_value
from solset.risk import EmpiricalRisk, Indices

ALL = "all"


def checked_subsets(subsets: Mapping[str, Indices], risk: EmpiricalRisk) -> dict[str, Tensor]:
    """The indices of each subset in increasing order.

    Args:
        subsets: By name.
        risk: Whose points they are.

    Raises:
        ValueError: If a subset is called ``"all"``, or its indices are empty, repeated or out of range.
    """
    if ALL in subsets:
        raise bad_value(
            "subsets", expected='names other than "all"', got=list(subsets), cure="It is there by itself."
        )
    return {
        name: torch.tensor(sorted(points_of(members, len(risk.points), argument=f"subsets[{name!r}]")))
        for name, members in subsets.items()
    }


def subset_losses(risk: EmpiricalRisk, subsets: Mapping[str, Tensor]) -> dict[str, float]:
    """The risk as ``"all"``, and the loss of each subset as a mean over it or its sum. Cost: a forward pass.

    Args:
        risk: At the weights.
        subsets: Sorted indices by name.
    """
    parameters = risk.layout.split(risk.weights)

    def work(start: int, inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = risk.forward(parameters, inputs)
        found = [float(risk.batch_scale(len(inputs)) * risk.loss(outputs, targets))]
        for members in subsets.values():
            inside = members[(members >= start) & (members < start + len(inputs))] - start
            share = len(inside) / len(members) if risk.reduction == "mean" else 1.0
            own = inside.to(outputs.device)
            found.append(float(share * risk.loss(outputs[own], targets[own])) if len(inside) else 0.0)
        return torch.tensor(found, dtype=torch.float64)

    with torch.no_grad():
        totals = risk.summed(torch.zeros(1 + len(subsets), dtype=torch.float64), work).tolist()
    totals[0] += 0.5 * risk.weight_decay * float(risk.weights @ risk.weights)
    return dict(zip([ALL, *subsets], totals, strict=True))


def quantities(risk: EmpiricalRisk, subsets: Mapping[str, Tensor]) -> dict[str, str]:
    """What each number of :func:`subset_losses` is, with its unit.

    Args:
        risk: As there.
        subsets: As there.
    """
    points, of_all = len(risk.points), "" if len(risk.points) == risk.total else f" of {risk.total}"
    decay = " with weight decay" if risk.weight_decay > 0 else ""
    per = "mean" if risk.reduction == "mean" else "sum"
    found = {ALL: f"risk{decay}, {per} over {points}{of_all} points"}
    return found | {
        name: f"loss on {name}, {per} over {len(members)} points" for name, members in subsets.items()
    }
