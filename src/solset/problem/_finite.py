"""The one place where it is decided how a change that is not small is answered."""

import warnings
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from solset.changes import Change
from solset.derivatives import Linearisation, Selection
from solset.errors import SolsetWarning, bad_value
from solset.problem._newton import NewtonStep
from solset.problem._point import LinearisedMap, TrainedPoint
from solset.problem._remaining import remaining
from solset.sets import AffineSet, Leftover

Order = Literal["first", "newton"]


def checked_answers(point: TrainedPoint, answers: AffineSet, change: Change) -> AffineSet:
    """The same set, whose long elements are asked how much of the changed risk's gradient they leave.

    Args:
        point: Trained point before the change.
        answers: Set of changes of the weights.
        change: Change of the data, checked.

    Cost: two gradients for an element longer than a tenth of the weights, and none for a shorter one.
    """

    def shortfall(step: Tensor) -> float:
        changed, before = change.applied_to(point.risk), point.sweep.gradient
        there = changed.at(changed.weights + step).gradient()
        here = float(torch.linalg.vector_norm(changed.gradient() - before))
        return float(torch.linalg.vector_norm(there - before)) / here if here > 0 else 0.0

    leftover = answers.leftover or Leftover(lambda: 0.0, is_exact=False)
    return replace(answers, leftover=replace(leftover, shortfall=shortfall))


def finite_answers(
    point: TrainedPoint, source: Linearisation | Selection, change: Change, order: Order | None
) -> AffineSet | None:
    """The set of weight changes by one Newton step, or by dropping constraints; ``None`` for first order.

    By default changes that are never small take a Newton step, whatever the solver: one that keeps no
    decomposition works on the changed matrix. The proximal map takes the whole change of the gradient, but
    its matrix as it was. Where the outputs are kept, points that leave drop their rows,
    to any order.

    Args:
        point: Trained point before the change.
        source: Linearisation there, which names the map.
        change: Change of the data, checked.
        order: Kind of estimate that was asked for; ``None`` for the default.

    Raises:
        ValueError: If the order is no kind of estimate, or the change or the map has no Newton step.
    """
    if order not in {None, "first", "newton"}:
        raise bad_value(
            "order", expected="'first' or 'newton'", got=repr(order), cure="Leave it out for the default."
        )
    line = source.linearisation if isinstance(source, Selection) else source
    if line.map.keeps_outputs:
        leaving = remaining(point, source, change)
        if leaving is None and order == "newton":
            raise bad_value(
                "order",
                expected="'first' where the training outputs are kept",
                got="'newton'",
                cure='Leave it out, or take optimality="stationary".',
            )
        return leaving
    if (order or ("newton" if change.is_finite(point.risk) else "first")) == "first":
        if order is None and any(part.is_finite(point.risk) for part in getattr(change, "parts", ())):
            warnings.warn(
                f"{change} is answered to first order, though a part of it is never small: no Newton step is "
                f"known for a sum with Decay or of two changes of one point; compare with the parts alone",
                SolsetWarning,
                stacklevel=4,
            )
        return None
    exchange = change.exchange(point.risk)
    if exchange is None or not isinstance(line.map, LinearisedMap):
        raise bad_value(
            "order",
            expected=f"'first' for {type(change).__name__}",
            got="'newton'",
            cure="Leave it out: a Newton step needs a change of single points.",
        )
    step = NewtonStep(point, line, line.map, exchange, change.applied_to(point.risk))
    return step.answers() if line.map.feels_gradient else step.damped_answers()
