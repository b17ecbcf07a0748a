"""The derivative of the loss's slope in targets that are numbers."""

import torch
from torch import Tensor

from solset.risk._empirical import EmpiricalRisk
from solset.risk._heads import through_loss
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


def target_slopes(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor, pushed: Tensor) -> Tensor:
    """The derivative ``(∂_y α∇_f L)ᵀ u`` of each point in its target, ``(n, k, *target)``.

    Args:
        risk: Empirical risk with the loss, whose targets have no :func:`targets_obstacle`.
        outputs: Outputs of all points, ``(n, *out)``.
        targets: Targets of all points, as the risk keeps them.
        pushed: Vector ``u`` for each point's outputs, ``k`` of them, ``(n, c, k)``.

    Cost: ``k + 1`` sweeps through the loss; the network is not run.
    """
    shape = plain_targets(risk, targets[:1]).shape[1:]
    parts = torch.cat([targets.reshape(len(targets), -1), pushed.reshape(len(pushed), -1).to(targets)], dim=1)
    width = targets[0].numel()

    def work(out: Tensor, rows: Tensor) -> Tensor:
        leaf = out.detach().clone().requires_grad_()
        aims = rows[:, :width].reshape(len(rows), *targets.shape[1:]).detach().clone().requires_grad_()
        vectors = rows[:, width:].reshape(len(rows), -1, pushed.shape[2]).to(out.dtype)
        with torch.enable_grad():
            value = risk.batch_scale(len(rows)) * risk.loss(leaf, aims)
            (slope,) = torch.autograd.grad(value, leaf, create_graph=True)
            flat = slope.reshape(len(rows), -1)
            if not flat.requires_grad:
                return rows.new_zeros(len(rows), vectors.shape[2], *shape, dtype=out.dtype)
            each = [
                torch.autograd.grad(
                    flat, aims, column, retain_graph=True, allow_unused=True, materialize_grads=True
                )[0]
                for column in vectors.unbind(2)
            ]
        stacked = torch.stack(each, dim=1).reshape(len(rows), len(each), -1)
        return stacked[:, :, : shape.numel()].reshape(len(rows), len(each), *shape).to(out.dtype)

    return through_loss(risk, outputs, work, targets=parts)
