"""The kind of change whose modulus is asked for: its points, and whether it can be small."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from solset.changes import Change, Move, PointsChange
from solset.errors import bad_value
from solset.problem import Problem

Kind = Change | type[Change]


def change_of(problem: Problem, kind: Kind, points: Sequence[int] | None) -> Change:
    """The change whose coordinates are meant, with checked points.

    Args:
        problem: Problem at its trained weights.
        kind: Class of the change, or a change of that kind, which names its points itself.
        points: Indices of the points, for a class; all by default.

    Raises:
        ValueError: If points come twice or do not fit, or the class alone does not say what changes.
    """
    if not isinstance(kind, type):
        change = kind
    elif issubclass(kind, PointsChange):
        change, points = kind(problem.check_points(points)), None
    else:
        try:
            change = kind()
        except TypeError as error:
            cure = f"Pass a change, such as {kind.__name__}(inputs, targets)."
            expected = "a change that says what joins"
            raise bad_value("kind", expected=expected, got=kind.__name__, cure=cure) from error
    if points is not None:
        cure = "Leave it out: the change names its points, or has none."
        raise bad_value("points", expected="left out for this kind", got=points, cure=cure)
    if isinstance(change, Move):
        problem.risk().points.require_moving()
    change.chosen(problem.risk())
    return change


def require_small(problem: Problem, change: Change) -> None:
    """Refuses a change without a modulus: one that is never small, or a sum in unlike units.

    Raises:
        ValueError: If it has none; says what to take instead.
    """
    if can_be_small(problem, change):
        return
    raise bad_value(
        "kind",
        expected="one kind of change that can be small: Move, Relabel of numbers, Reweight or Decay",
        got=repr(change),
        cure="Points join, leave and change their class as a whole: solset.audit ranks such changes by their "
        "real size, and Reweight has the derivative in the factor of a point.",
    )


def can_be_small(problem: Problem, change: Change) -> bool:
    """Whether the size of a change is free, so that a modulus is its effect per unit."""
    risk = problem.risk()
    if isinstance(change, PointsChange):  # one point says it, without the coordinates of all others
        change = replace(change, points=change.chosen(risk)[:1])
    try:
        size = change.space(risk).size
    except NotImplementedError:
        return False
    return change.along(risk, torch.zeros(size, dtype=risk.weights.dtype)) is not None


def alone(change: Change) -> Change:
    """The same kind of change in the problem of its own points, where it is that of all points.

    Raises:
        ValueError: If it is no change of points.
    """
    if isinstance(change, PointsChange):
        return replace(change, points=None)
    cure = "Leave it out; there are no points whose constraints could stand alone."
    raise bad_value("joint", expected=f"True for {change!r}", got=False, cure=cure)
