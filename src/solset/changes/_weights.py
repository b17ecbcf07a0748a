"""Points that count less, more, or not at all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

import torch
from torch import Tensor

from solset.changes._change import Change, Exchange, PointsChange, TrainingChange
from solset.changes._factors import Term, by_sign, columns, exchanged, mixed
from solset.checks import one_of, points_of
from solset.errors import bad_type, bad_value
from solset.linalg import LinearOperator, Space, Zero
from solset.risk import EmpiricalRisk, output_shape, point_factors

Divisor = Literal["after", "before"]
"""Number by which a mean is divided: that of the points that count after the change, or before it."""


@dataclass(frozen=True, eq=False)
class Reweight(PointsChange):
    """Some training points count more or less: the factor of the loss of each becomes ``1 + ε``.

    To first order the gradient of a mean changes by ``α Σ_k ε_k (∇ℓ_k - g)``, where ``g`` is the gradient of
    the mean loss, and that of a sum by ``α Σ_k ε_k ∇ℓ_k``. Weights that fit all points exactly fit them with
    any factors: then the interpolating map gives the whole set of solutions, at distance 0.

    Attributes:
        points: Indices of the points, in the order of the factors; ``None`` stands for all points.
        factors: Relative changes ``ε`` of the factors, one number for all or one for each point, at least
            -1; ``None`` stands for changes of any size, of which a derivative is asked. From 1 on (and at
            -1) an estimate is a Newton step by default, as for :class:`Remove`.
        divisor: Number by which a mean is divided afterwards: ``"after"`` for the sum of the new factors, as
            a weighted mean is; ``"before"`` for that of the old ones, so that ``α`` stays.

    Example:
        >>> Reweight([3, 5], -0.5)
        Reweight(points 3, 5; factors -0.5)
    """

    factors: float | Sequence[float] | Tensor | None = None
    divisor: Divisor = field(default="after", kw_only=True)

    def __post_init__(self) -> None:
        one_of("divisor", self.divisor, ("after", "before"))

    def of_gradient(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """The gradients of the points' losses as columns; arguments as for every change."""
        return columns(risk, self._terms(risk), divides=self.divisor == "after")

    def of_outputs(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """Zero, because factors do not matter where every point is fitted; arguments as for every change."""
        return _no_answer(risk, len(self.chosen(risk)))

    def remark(self, *, keeps_outputs: bool) -> str:
        """The remark that nothing changes where outputs are kept; argument as for every change."""
        return "; fitted points are fitted with any factors, so that nothing changes" if keeps_outputs else ""

    def space(self, risk: EmpiricalRisk) -> Space:
        """One number per point; argument as for every change."""
        return Space("factors", (len(self.chosen(risk)),), risk.weights.dtype, risk.weights.device)

    def direction(self, risk: EmpiricalRisk) -> Tensor:
        """The relative changes of the factors; argument as for every change."""
        return self._steps(self.chosen(risk), len(risk.points)).to(risk.weights)

    def applied_to(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        """The risk with the new factors; argument as for every change."""
        return self.partly(risk, 1.0)

    def partly(self, risk: EmpiricalRisk, share: float, base: EmpiricalRisk | None = None) -> EmpiricalRisk:
        """The risk with factors that changed a part of the way; arguments as for every change."""
        base = base or risk
        steps = share * self._steps(self.chosen(base), len(base.points))
        return mixed(risk, self._terms(base), steps, divides=self.divisor == "after")

    def pull(self, there: EmpiricalRisk, base: EmpiricalRisk, direction: Tensor) -> Tensor:
        """The derivative of the gradient on the way; arguments as for every change."""
        return columns(there, self._terms(base), divides=self.divisor == "after") @ direction

    def along(self, risk: EmpiricalRisk, coordinates: Tensor) -> Change:  # noqa: ARG002
        """Other factors of the same points; arguments as for every change."""
        return replace(self, factors=coordinates)

    def labels_after(self, targets: Tensor) -> Tensor:
        """The targets of all points that still count; argument as for every change."""
        return without(targets, self._gone(len(targets)))

    def is_finite(self, risk: EmpiricalRisk) -> bool:
        """Whether a factor changes by the whole of a point or more; argument as for every change."""
        return bool((self._steps(self.chosen(risk), len(risk.points)).abs() >= 1).any())

    def exchange(self, risk: EmpiricalRisk) -> Exchange:
        """The losses come again with the change of their factors; argument as for every change."""
        chosen = self.chosen(risk)
        terms = by_sign(risk, chosen, self._steps(chosen, len(risk.points)))
        return exchanged(risk, terms, divides=self.divisor == "after")

    def leaving(self, risk: EmpiricalRisk) -> list[int]:
        """The points whose factor becomes 0; argument as for every change."""
        return self._gone(len(risk.points))

    def of_training(self, count: int, features: Callable[[], Space]) -> TrainingChange:  # noqa: ARG002
        """The change of the factors; arguments as for every change."""
        require_division_after(self.divisor)
        chosen = points_of(self.points, count)
        return TrainingChange(factors=dict(zip(chosen, self._steps(chosen, count).tolist(), strict=True)))

    def _terms(self, risk: EmpiricalRisk) -> list[Term]:
        chosen = self.chosen(risk)
        return [Term(risk.select(chosen), chosen)]

    def _gone(self, count: int) -> list[int]:
        """The points of all whose factor becomes 0; none where any factors are meant."""
        if self.factors is None:
            return []
        chosen = points_of(self.points, count)
        steps = self._steps(chosen, count).tolist()
        return [i for i, step in zip(chosen, steps, strict=True) if step == -1.0]

    def _steps(self, chosen: Sequence[int], total: int) -> Tensor:
        """The changes of the factors of the chosen points among all, in float64, checked."""
        count = len(chosen)
        cure = "Pass a number of at least -1, or one for each point; -1 removes a point."
        try:
            steps = torch.as_tensor(self.factors, dtype=torch.float64).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            got = type(self.factors).__name__
            raise bad_type("factors", expected="numbers", got=got, cure=cure) from error
        if steps.ndim > 1 or (steps.ndim == 1 and len(steps) != count):
            expected = f"one number, or {count}, one for each point"
            raise bad_value("factors", expected=expected, got=f"shape {tuple(steps.shape)}", cure=cure)
        if not bool((torch.isfinite(steps) & (steps >= -1)).all()):
            ends = dict.fromkeys([f"{float(steps.min()):g}", f"{float(steps.max()):g}"])
            got = " to ".join(ends)
            raise bad_value("factors", expected="finite and at least -1", got=got, cure=cure)
        if bool((steps == -1).all()) and count == total:
            raise _nothing_left()
        return steps.expand(count)

    def __repr__(self) -> str:
        text = "any factors" if self.factors is None else f"factors {_shown(self.factors)}"
        return f"Reweight({self.named}; {text}{_reading(self.divisor)})"


@dataclass(frozen=True, eq=False)
class Remove(PointsChange):
    """Some training points are left out.

    By default a mean stays a mean over the points that are left, as a loader takes it. To first order the
    gradient of the risk changes by ``-α Σ_k (∇ℓ_k - g)``, where ``g`` is the gradient of the mean loss, and
    by ``-α Σ_k ∇ℓ_k`` for a sum.

    Attributes:
        points: Indices of the points that are left out; not all of them.
        divisor: Number by which a mean is divided afterwards: ``"after"`` for that of the points that are
            left, ``"before"`` for that of all points, so that ``α`` stays.

    Example:
        >>> Remove([7])
        Remove(points 7)
    """

    divisor: Divisor = field(default="after", kw_only=True)

    def __post_init__(self) -> None:
        one_of("divisor", self.divisor, ("after", "before"))

    def is_finite(self, risk: EmpiricalRisk) -> bool:  # noqa: ARG002
        """True: a removal is never small; argument as for every change."""
        return True

    def of_gradient(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:
        """The gradients of the points' losses as columns; arguments as for every change."""
        return self._reweighting(len(risk.points)).of_gradient(risk, memory_budget)

    def of_outputs(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """Zero: the weight of a point changes no output; arguments as for every change."""
        return _no_answer(risk, len(self._removed(len(risk.points))))

    def space(self, risk: EmpiricalRisk) -> Space:
        """One number per point; argument as for every change."""
        return self._reweighting(len(risk.points)).space(risk)

    def direction(self, risk: EmpiricalRisk) -> Tensor:
        """A factor less by 1 for each point; argument as for every change."""
        return self._reweighting(len(risk.points)).direction(risk)

    def applied_to(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        """The risk on the points that are left; argument as for every change."""
        removed = self._removed(len(risk.points))
        rest = [i for i in range(len(risk.points)) if i not in set(removed)]
        total = risk.total
        if self.divisor == "after":
            factors = point_factors(risk, removed)
            total = total - (len(removed) if factors is None else float(factors.to(torch.float64).sum()))
        return replace(risk, points=risk.points.select(rest), total=total)

    def exchange(self, risk: EmpiricalRisk) -> Exchange:
        """The losses leave, and a mean is divided by what is left; argument as for every change."""
        removed = self._removed(len(risk.points))
        term = Term(risk.select(removed), removed, -1.0)
        return exchanged(risk, [term], divides=self.divisor == "after")

    def leaving(self, risk: EmpiricalRisk) -> list[int]:
        """All of the points; argument as for every change."""
        return self._removed(len(risk.points))

    def partly(self, risk: EmpiricalRisk, share: float, base: EmpiricalRisk | None = None) -> EmpiricalRisk:
        """The risk in which the points count less; arguments as for every change."""
        base = base or risk
        return self._reweighting(len(base.points)).partly(risk, share, base)

    def pull(self, there: EmpiricalRisk, base: EmpiricalRisk, direction: Tensor) -> Tensor:
        """The derivative of the gradient on the way; arguments as for every change."""
        return self._reweighting(len(base.points)).pull(there, base, direction)

    def outputs_after(self, risk: EmpiricalRisk) -> Tensor:
        """The outputs of the points that are left; argument as for every change."""
        return without(risk.outputs(), self._removed(len(risk.points)))

    def labels_after(self, targets: Tensor) -> Tensor:
        """The targets of the points that are left; argument as for every change."""
        return without(targets, self._removed(len(targets)))

    def of_training(self, count: int, features: Callable[[], Space]) -> TrainingChange:  # noqa: ARG002
        """A factor of 0 for each point; arguments as for every change."""
        require_division_after(self.divisor)
        return TrainingChange(factors=dict.fromkeys(self._removed(count), -1.0))

    def _reweighting(self, count: int) -> Reweight:
        return Reweight(self._removed(count), -1.0, divisor=self.divisor)

    def _removed(self, count: int) -> list[int]:
        removed = points_of(self.points, count)
        if self.points is None or len(removed) == count:
            raise _nothing_left()
        return removed

    def __repr__(self) -> str:
        return f"Remove({self.named}{_reading(self.divisor)})"


def _no_answer(risk: EmpiricalRisk, coordinates: int) -> LinearOperator:
    """The zero matrix ``(n·c, q)``: no output has to change."""
    shape = (len(risk.points) * prod(output_shape(risk)), coordinates)
    return Zero(shape, risk.weights.dtype, risk.weights.device)


def without(targets: Tensor, points: Sequence[int]) -> Tensor:
    """The targets of all other points."""
    stays = torch.ones(len(targets), dtype=torch.bool, device=targets.device)
    stays[list(points)] = False
    return targets[stays]


def require_division_after(divisor: Divisor) -> None:
    """Refuses a divisor that a training does not take."""
    if divisor != "after":
        raise bad_value(
            "divisor",
            expected="'after' for a training, which divides the loss of a batch by the factors of its points",
            got=repr(divisor),
            cure="Leave the divisor out.",
        )


def _nothing_left() -> ValueError:
    return bad_value("points", expected="fewer than all points", got="all of them", cure="Leave some.")


def _shown(factors: object) -> str:
    try:
        values = torch.as_tensor(factors)
    except (TypeError, ValueError, RuntimeError):  # refused by name where it is used
        return repr(factors)
    return f"{float(values):g}" if values.numel() == 1 else f"of shape {tuple(values.shape)}"


def _reading(divisor: Divisor) -> str:
    return "" if divisor == "after" else ', divisor="before"'
