"""What keeps a loss from having a derivative in its targets."""

import torch
from torch import Tensor

from solset.risk._empirical import EmpiricalRisk
from solset.risk._weighed import WeighedLoss, one_by_one, plain_targets

_ROUNDING = 1e3  # units of rounding by which sums in another order may differ


def targets_obstacle(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor) -> str:
    """What keeps targets from having a derivative; empty where they have one.

    Args:
        risk: Empirical risk with the loss.
        outputs: Outputs of all points, ``(n, *out)``.
        targets: Targets of all points, as the risk keeps them.

    Cost: a pass through the loss where points count unequally; the network is not run.
    """
    if risk.points.targets is not None:
        return "targets are several tensors"
    if risk.door.moves_target:
        return "targets move with the inputs, whose derivative includes theirs"
    plain, loss = plain_targets(risk, targets), risk.loss
    if not plain.is_floating_point():
        return "targets are class labels or other whole numbers"
    if isinstance(loss, WeighedLoss):
        with torch.no_grad():
            alone = one_by_one(loss.loss, outputs, plain, is_batched=loss.is_batched)
            whole = float(loss.loss(outputs, plain))
        expected, size = (float(part.mean() if loss.is_mean else part.sum()) for part in (alone, alone.abs()))
        if not abs(whole - expected) <= _ROUNDING * torch.finfo(outputs.dtype).eps * size:
            return "the weights that the loss takes from targets would change with them"
    return ""
