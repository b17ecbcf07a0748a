"""The losses that a station of a course states."""

from collections.abc import Sequence

from torch import Tensor

from solset.changes import Change
from solset.risk import EmpiricalRisk


def stated_losses(
    change: Change, start: EmpiricalRisk, there: EmpiricalRisk, losses: Tensor, points: Sequence[int]
) -> tuple[float, float]:
    """The mean loss of the points that change, and that of all points as they count, without weight decay.

    Points whose factors or labels change are watched as they were before, whatever they count by now.

    Args:
        change: Change of the training data that a course follows.
        start: Empirical risk before the change.
        there: Empirical risk of the station, at its weights.
        losses: Loss of each point of this risk times its factor, ``(n,)``.
        points: Indices of the points that change, in the risk of the station; none stands for all.

    Cost: a forward pass of the points, where factors or labels change.
    """
    watched = points or range(len(losses))
    of_moved = float(losses[watched].mean())
    if not change.moves_data(start):
        chosen, before = change.chosen(start), start.at(there.weights)
        if chosen or not points:
            of_moved = float((before.select(chosen) if chosen else before).losses().mean())
    return of_moved, float(losses.sum()) / float(there.total)
