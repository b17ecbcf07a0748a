"""The one place where it is decided how a change that is not small is answered."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from solset.changes import Change, Move
from solset.derivatives import Linearisation, Selection
from solset.errors import SolsetWarning, bad_value
from solset.operators import Jacobian
from solset.problem._informative import InformativeSelection
from solset.problem._newton import NewtonStep
from solset.problem._point import LinearisedMap, TrainedPoint
from solset.risk import EmpiricalRisk, flat_rows, gradient_scale
from solset.sets import AffineSet, Leftover
from solset.solvers import Prepared

PRECISE = 1e-12  # unit of rounding from which it is less than anything that is asked of a gradient
SHORT = 3e-3  # length of a change of features relative to them, up to which it counts as infinitesimal
ROUNDED = 100  # units of rounding of the terms that cancel in a gradient, up to which it counts as zero

Order = Literal["first", "newton"]


def checked_answers(point: TrainedPoint, answers: AffineSet, change: Change) -> AffineSet:
    """The same set, whose elements are asked how much of the changed risk's gradient they leave.

    Cost: one gradient for each element; for one shorter than a tenth of the weights none where outputs are
        kept, and two over the points that move where these are few and move by less than 0.3 %.
    """

    def rest(step: Tensor) -> Tensor:
        changed, before = change.applied_to(point.risk), point.sweep.gradient
        left = changed.at(changed.weights + step).gradient() - before
        eps = torch.finfo(left.dtype).eps
        if eps > PRECISE and left.norm() <= ROUNDED * eps * gradient_scale(point.risk, point.sweep.outputs):
            return torch.zeros_like(left)
        return left

    if answers.leftover is None:
        return replace(answers, leftover=Leftover(lambda: 0.0, is_exact=False, is_newton=False, rest=rest))
    nearby = _nearby(point.risk, change, answers.rhs)
    return replace(answers, leftover=replace(answers.leftover, rest=rest, nearby=nearby))


def _nearby(risk: EmpiricalRisk, change: Change, rhs: Tensor) -> Callable[[], Tensor] | None:
    """A function that returns what a linear model in the features misses; ``None`` unless they move little.

    Args:
        risk: Empirical risk before the change.
        change: Change of the data.
        rhs: Right-hand side ``b``, the change of the gradient with the other sign.
    """
    points = change.moving(risk) if isinstance(change, Move) else []
    if risk.is_whole or not 0 < 2 * len(points) <= len(risk.points):
        return None
    lengths = change.direction(risk).reshape(len(points), -1).norm(dim=1)
    if bool((lengths > SHORT * flat_rows(risk.points.features(points)).norm(dim=1)).any()):
        return None

    def missed() -> Tensor:
        parts = [one.select(points).gradient() for one in (change.applied_to(risk), risk)]
        return parts[0] - parts[1] + rhs

    return missed


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
    line = source.linearisation
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
            expected=f"'first' or left out for {change!r}",
            got="'newton', which is not known for a change of the weight decay or of two kinds at one point",
            cure="Leave it out, or ask for the parts of a sum one by one.",
        )
    step = NewtonStep(point, line, line.map, exchange, change.applied_to(point.risk))
    return step.answers() if line.map.feels_gradient else step.damped_answers()


def remaining(point: TrainedPoint, source: Linearisation | Selection, change: Change) -> AffineSet | None:
    """The changes of the weights that answer for the points that stay or join; ``None`` if none leave.

    The rows of points that leave are dropped, so that the dimension is larger by their rank beside those that
    stay. If nothing else changes, the set contains zero: the trained weights fit what is left.

    Cost: nothing where the rows are kept: those that stay are taken from them, with their Gram matrix.
    """
    leaving = change.leaving(point.risk)
    if not leaving:
        return None
    direction, risk = change.direction(point.risk), change.joining(point.risk) or point.risk
    line = source.linearisation
    if isinstance(source, Selection) and bool(line.push(direction).any()):
        source.verify(direction)
        line = source.linearisation
    stays = torch.ones(len(risk.points), dtype=torch.bool)
    stays[leaving] = False
    rows = stays[_points_of_rows(len(risk.points), point.outputs, source)]
    rhs = -line.push(direction)[rows.to(line.gradient.device)]

    def system() -> Prepared:
        kept_rows = line.system.keeping(rows)
        if kept_rows is not None:
            return kept_rows
        rest = risk.select(stays.nonzero().flatten().tolist())
        return line.constraint.solver.prepare(Jacobian(rest, memory_budget=point.memory_budget))

    zero = torch.zeros_like(point.sweep.gradient)
    dropped = len(leaving) * point.outputs
    is_known = line.rank == line.rows and int((~rows).sum()) == dropped and line.system.gram is not None
    bound = "" if is_known else "at most "
    grows = f"the set grows by the rank of the {dropped} rows that leave ({bound}{dropped} dimensions)"
    note = (
        f"without these points the trained weights stay a solution, at distance 0, and {grows}; gradient "
        f"flow from the trained weights stays there, and training from scratch ends elsewhere in the larger "
        f"set (solset.Training)"
    )
    if bool(rhs.any()):
        note = f"the points that leave hold nothing any more: {grows}"
        for failure in line.premises.failures:
            warnings.warn(failure, SolsetWarning, stacklevel=4)
    return AffineSet(system, rhs, zero, notes=(*line.premises.failures, note), name=line.map.name)


def _points_of_rows(count: int, outputs: int, source: Linearisation | Selection) -> Tensor:
    """The index of the point that each row belongs to."""
    if isinstance(source, InformativeSelection):
        return source.choice.directions.points.cpu()
    return torch.arange(count).repeat_interleave(outputs)
