"""The premises of a linearisation at a trained point, each from the check that knows it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solset.changes import Change
from solset.derivatives import OptimalityMap, Premise, Premises, Verdict
from solset.risk import plain_targets

if TYPE_CHECKING:
    from solset.problem._point import TrainedPoint

NAMED = 3  # modules that a message names
FAR = 20.0  # output at which a loss that has a minimum rises again


def premises_of(
    point: "TrainedPoint",
    optimality: OptimalityMap,
    change: Change,
) -> Premises:
    """What was checked of a linearisation; every check adds its own premise here, and nowhere else.

    Args:
        point: Trained point, with the premises that were checked when the problem was built.
        optimality: Optimality map that is linearised.
        change: Change whose coordinates are answered.
    """
    moved = change.moving(point.before)
    kinks = _kinks(point, moved, of_outputs=optimality.keeps_outputs)
    if optimality.keeps_outputs:  # outputs are kept at any weights, stationary or not
        return Premises((*(one for one in point.at_door if one.name != "scale"), kinks, *_flat(point)))
    return Premises((*point.at_door, kinks, *_classes(point, change)))


def _flat(point: "TrainedPoint") -> list[Premise]:
    """Whether outputs are kept that the loss would let move."""
    if not point.flat:
        return []
    text = (
        f"the loss is flat in the outputs of {point.flat} points, which need not be kept: there are more "
        f"solutions than this set has"
    )
    return [Premise("loss", Verdict.FAILED, text)]


def _classes(point: "TrainedPoint", change: Change) -> list[Premise]:
    """Whether every class of the training data still has points, where without them its logit runs away."""
    gone = lost_classes(point, change)
    if not gone:
        return []
    text = (
        f"no point with target {', '.join(f'{one:g}' for one in gone)} is left, and without weight decay "
        f"nothing holds the outputs of a class that has no points: retraining may run away to infinity"
    )
    return [Premise("minimum", Verdict.FAILED, text)]


def lost_classes(point: "TrainedPoint", change: Change) -> list[float]:
    """The classes that lose all of their points, where some weights do not decay.

    Numbers as targets are classes where there are two of them and the loss of the one that stays falls for
    ever as the output goes away from the other, as a logistic loss does.

    Args:
        point: Trained point before the change.
        change: Change of the data, checked.
    """
    targets = plain_targets(point.before, point.sweep.targets)[: len(point.before.points)]
    if targets.numel() != len(targets) or point.before.least_decay > 0:
        return []
    if targets.dtype.is_floating_point and not change.leaving(point.before):
        return []
    values = targets.unique()
    if targets.dtype.is_floating_point and len(values) != 2:
        return []
    left = set(change.labels_after(targets).unique().tolist())
    gone = sorted(float(one) for one in values.tolist() if one not in left)
    return gone if not targets.dtype.is_floating_point or _runs_away(point, targets, gone) else []


def _runs_away(point: "TrainedPoint", targets: Tensor, gone: Sequence[float]) -> bool:
    """Whether the loss of the target that is left has no minimum at any output."""
    if len(gone) != 1 or point.outputs != 1:
        return False
    of_gone = int((targets.flatten() == gone[0]).nonzero()[0])
    of_rest = int((targets.flatten() != gone[0]).nonzero()[0])
    shape = point.sweep.outputs[:1].shape

    def loss(place: int, output: float) -> float:
        outputs = torch.full(shape, output).to(point.sweep.outputs)
        with torch.no_grad():
            return float(point.risk.loss(outputs, point.sweep.targets[place : place + 1]))

    side = 1.0 if loss(of_gone, FAR) > loss(of_gone, -FAR) else -1.0
    return loss(of_rest, side * FAR) < loss(of_rest, side * FAR / 2)


def _kinks(point: "TrainedPoint", moved: Sequence[int], *, of_outputs: bool) -> Premise:
    """Whether the outputs, or the gradient of the risk, are differentiable at the data and the weights."""
    try:
        kinks = point.kinks.of(moved, of_outputs=of_outputs)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        text = f"kinks of the network could not be looked for ({str(error).splitlines()[0]})"
        return Premise("kinks", Verdict.UNCHECKED, text)
    if not kinks.points:
        return Premise("kinks", Verdict.HELD)
    count, total = len(kinks.points), len(point.risk.points)
    where = "; ".join(
        f"{one.units} units ({100 * one.share:.2g} %) of {one.module}" for one in kinks.modules[:NAMED]
    )
    of = f"{total} points" if total > 1 else "1 point"
    text = (
        f"one-sided at {count} of {of}: {where} stand on a kink, where the derivatives to both sides differ; "
        f"the formula takes one of them, and its error does not shrink with the change"
    )
    return Premise("kinks", Verdict.FAILED, text)
