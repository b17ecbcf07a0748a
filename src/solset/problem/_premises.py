"""The premises of a linearisation at a trained point, each from the check that knows it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from solset.changes import Change
from solset.derivatives import OptimalityMap, Premises

if TYPE_CHECKING:
    from solset.problem._point import TrainedPoint


def premises_of(
    point: "TrainedPoint",
    optimality: OptimalityMap,  # noqa: ARG001 - for checks that depend on the map
    kind: type[Change],  # noqa: ARG001 - for checks that depend on what changes
    points: Sequence[int],  # noqa: ARG001 - likewise
) -> Premises:
    """What was checked of a linearisation; every check adds its own premise here, and nowhere else.

    Args:
        point: Trained point, with the premises that were checked when the problem was built.
        optimality: Optimality map that is linearised.
        kind: Class of the changes that are answered.
        points: Indices of the points that change.
    """
    return Premises(point.at_door)
