"""What changes of factors have in common: losses that count more, and losses that count less."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.changes._change import Exchange
from solset.linalg import LinearOperator, Sum
from solset.operators import PointGradients
from solset.risk import (
    EmpiricalRisk,
    WeighedLoss,
    as_weighed,
    joined,
    point_factors,
    require_points,
    with_factors,
)


@dataclass(frozen=True, eq=False)
class Term:
    """Losses whose factors change, relative to the factors with which they count in the risk."""

    losses: EmpiricalRisk  # Losses of the points, one for each coordinate, with ``α`` as in the whole risk
    places: list[int] | None  # Indices of the points in the risk; ``None`` for points that are not in it
    # Change of the factor for a unit of the coordinate: 1, or -1 where losses make room for others
    sign: float = 1.0

    @property
    def factors(self) -> Tensor:
        """The factors with which the losses count once they are in the risk, ``(|K|,)`` in float64."""
        return _factors(self.losses)


def columns(risk: EmpiricalRisk, terms: Sequence[Term], *, divides: bool) -> LinearOperator:
    """The derivative of the risk's gradient in the coordinates, ``(p, |K|)``.

    Args:
        risk: Empirical risk at the point of linearisation.
        terms: Losses whose factors change, each in the same coordinates; the first with sign 1.
        divides: Whether the divisor of a mean changes with the factors.
    """
    operator: LinearOperator = PointGradients(risk, terms[0].losses, divides=divides)
    for term in terms[1:]:
        operator = Sum(operator, PointGradients(risk, term.losses, divides=divides), term.sign)
    return operator


def mixed(risk: EmpiricalRisk, terms: Sequence[Term], steps: Tensor, *, divides: bool) -> EmpiricalRisk:
    """The risk after factors changed; points stay in their places, and new ones come after them.

    Args:
        risk: Empirical risk before the change.
        terms: Losses whose factors change.
        steps: Change of each coordinate, ``(|K|,)``.
        divides: Whether the divisor of a mean changes with the factors.

    Raises:
        ValueError: If it is not known by what a mean is divided.

    Cost: a forward pass of a few points, and one read of the data.
    """
    require_points(risk)
    if divides:
        point_factors(risk, [0])  # refuses a divisor that is not known
    changed, steps = as_weighed(risk), steps.to(torch.float64)
    factors, total = _factors(changed).clone(), float(risk.total)
    for term in terms:
        way = term.sign * steps * term.factors
        total += float(way.sum()) if divides else 0.0
        if term.places is not None:
            factors[term.places] += way
        else:
            more = as_weighed(term.losses)
            changed = replace(changed, points=joined(changed.points, more.points))
            factors = torch.cat([factors, way])
    return with_factors(changed, factors, float(total))


def by_sign(risk: EmpiricalRisk, places: Sequence[int], steps: Tensor) -> list[Term]:
    """The losses of points that count less, then of those that count more: no loss has a negative factor.

    Args:
        risk: Empirical risk before the change.
        places: Indices of the points.
        steps: Change of the factor of each, ``(|K|,)``.
    """
    terms = []
    for sign, mask in ((-1.0, steps < 0), (1.0, steps >= 0)):
        chosen = mask.nonzero().flatten().tolist()
        if chosen:
            points = [places[i] for i in chosen]
            losses = as_weighed(risk.select(points))
            factors = _factors(losses) * steps[chosen].abs().to(torch.float64)
            terms.append(Term(with_factors(losses, factors, float(losses.total)), points, sign))
    return terms


def exchanged(risk: EmpiricalRisk, terms: Sequence[Term], *, divides: bool) -> Exchange:
    """The losses that leave and come at the end of a change of factors.

    Args:
        risk: Empirical risk before the change.
        terms: Losses whose factors change by their sign.
        divides: Whether the divisor of a mean changes with the factors.
    """
    require_points(risk)
    total, parts = float(risk.total), []
    if divides:
        point_factors(risk, [0])  # refuses a divisor that is not known
    for term in terms:
        total += term.sign * float(term.factors.sum()) if divides else 0.0
        parts.append((term.sign, term.losses))
    leaving = next((term.places for term in terms if term.sign < 0), None)
    factor = risk.total / total if risk.reduction == "mean" else 1.0
    return Exchange(factor, tuple(parts), tuple(leaving or ()))


def _factors(risk: EmpiricalRisk) -> Tensor:
    if not isinstance(risk.loss, WeighedLoss):
        return torch.ones(len(risk.points), dtype=torch.float64, device=risk.weights.device)
    return risk.points[range(len(risk.points))][1][:, -1]
