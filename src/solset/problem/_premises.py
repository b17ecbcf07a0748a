"""The premises of a linearisation at a trained point, each from the check that knows it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from solset.changes import Change
from solset.derivatives import OptimalityMap, Premise, Premises, Verdict
from solset.risk import plain_targets

if TYPE_CHECKING:
    from solset.problem._point import TrainedPoint

NAMED = 3  # modules that a message names


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
    return Premises((*point.at_door, kinks, *([] if optimality.keeps_outputs else _classes(point, change))))


def _classes(point: "TrainedPoint", change: Change) -> list[Premise]:
    """Whether every class of the training data still has points, where without them its logit runs away."""
    targets = plain_targets(point.before, point.sweep.targets)[: len(point.before.points)]
    if targets.dtype.is_floating_point or targets.ndim != 1 or point.before.has_decay:
        return []
    gone = set(targets.unique().tolist()) - set(change.labels_after(targets).unique().tolist())
    if not gone:
        return []
    text = (
        f"no point with target {', '.join(map(str, sorted(gone)))} is left, and without weight decay nothing "
        f"holds the outputs of a class that has no points: retraining may run away to infinity"
    )
    return [Premise("minimum", Verdict.FAILED, text)]


def _kinks(point: "TrainedPoint", moved: Sequence[int], *, of_outputs: bool) -> Premise:
    """Whether the outputs, or the gradient of the risk, are differentiable at the data and the weights."""
    try:
        kinks = point.kinks(moved, of_outputs=of_outputs)
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
