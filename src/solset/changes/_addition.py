"""Points that join the training data."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from solset.changes._change import Change, Exchange, TrainingChange
from solset.changes._factors import Term, columns, exchanged, mixed
from solset.changes._weights import Divisor, require_division_after
from solset.checks import one_of
from solset.linalg import BlockDiagonal, InRows, LinearOperator, Space
from solset.operators import fitted_outputs
from solset.risk import EmpiricalRisk, candidates, joined, new_factors, with_targets


@dataclass(frozen=True, eq=False)
class Add(Change):
    """New points join the training data.

    By default a mean becomes one over all points, as a loader takes it. To first order the gradient of the
    risk changes by ``α Σ (∇ℓ_new - g)``, where ``g`` is the gradient of the mean loss, and by ``α Σ ∇ℓ_new``
    for a sum. Where the data are fitted, new rows come to those of the training points: the new outputs go
    to the minimum of their losses, and all others stay.

    Attributes:
        inputs: Inputs of the new points ``(k, *input)``, in any form in which a problem takes its data.
        targets: Targets of the new points ``(k, *target)``; ``None`` beside a dataset of pairs.
        divisor: Number by which a mean is divided afterwards: ``"after"`` for that of all points with the
            new ones, ``"before"`` for that of the old ones, so that ``α`` stays.

    Example:
        >>> Add(torch.zeros(2, 5), torch.tensor([1, 0]))
        Add(2 points)
    """

    inputs: Any
    targets: Any = None
    divisor: Divisor = field(default="after", kw_only=True)

    def __post_init__(self) -> None:
        one_of("divisor", self.divisor, ("after", "before"))

    def chosen(self, risk: EmpiricalRisk) -> list[int]:  # noqa: ARG002
        """No training point changes; argument as for every change."""
        return []

    def of_gradient(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """The gradients of the new losses as columns; arguments as for every change."""
        return columns(risk, self._terms(risk), divides=self.divisor == "after")

    def of_outputs(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """What the new outputs miss, in rows after all others; arguments as for every change."""
        losses = self._losses(risk)
        answer = (losses.outputs() - fitted_outputs(losses)).unsqueeze(2)
        (k, c, _), n = answer.shape, len(risk.points)
        rows = torch.arange(n * c, (n + k) * c, device=answer.device)
        return InRows(BlockDiagonal(answer), rows, (n + k) * c)

    def joining(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        """The risk with the new points after all others; argument as for every change."""
        return self.applied_to(risk)

    def is_finite(self, risk: EmpiricalRisk) -> bool:  # noqa: ARG002
        """True: a point that joins is never small; argument as for every change."""
        return True

    def exchange(self, risk: EmpiricalRisk) -> Exchange:
        """The losses of the new points come; argument as for every change."""
        return exchanged(risk, self._terms(risk), divides=self.divisor == "after")

    def space(self, risk: EmpiricalRisk) -> Space:
        """One number per new point; argument as for every change."""
        count = len(self._losses(risk).points)
        return Space("factors", (count,), risk.weights.dtype, risk.weights.device)

    def direction(self, risk: EmpiricalRisk) -> Tensor:
        """A factor of 1 for each new point; argument as for every change."""
        return risk.weights.new_ones(len(self._losses(risk).points))

    def applied_to(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        """The risk with the new points after all others; argument as for every change."""
        losses = self._losses(risk)
        if losses.loss is not risk.loss:  # the new points do not count like the others
            return self.partly(risk, 1.0)
        term = Term(losses, None)
        total = risk.total + (float(term.factors.sum()) if self.divisor == "after" else 0.0)
        return replace(risk, points=joined(risk.points, losses.points), total=total)

    def partly(self, risk: EmpiricalRisk, share: float, base: EmpiricalRisk | None = None) -> EmpiricalRisk:
        """The risk in which the new points count a little; arguments as for every change."""
        terms = self._terms(base or risk)
        steps = risk.weights.new_full((len(terms[0].losses.points),), share)
        return mixed(risk, terms, steps, divides=self.divisor == "after")

    def pull(self, there: EmpiricalRisk, base: EmpiricalRisk, direction: Tensor) -> Tensor:
        """The derivative of the gradient on the way; arguments as for every change."""
        return columns(there, self._terms(base), divides=self.divisor == "after") @ direction

    def outputs_after(self, risk: EmpiricalRisk) -> Tensor:
        """The outputs, with those that fit the new points; argument as for every change."""
        return torch.cat([risk.outputs(), fitted_outputs(self._losses(risk))])

    def labels_after(self, targets: Tensor) -> Tensor:
        """The targets, to which those of the new points come; argument as for every change."""
        new = self.targets
        fits = isinstance(new, Tensor) and new.shape[1:] == targets.shape[1:]
        return torch.cat([targets, new.to(targets)]) if fits else targets

    def of_training(self, count: int, features: Callable[[], Space]) -> TrainingChange:  # noqa: ARG002
        """The new points, each in one batch of every epoch; arguments as for every change."""
        require_division_after(self.divisor)
        return TrainingChange(added=((self.inputs, self.targets),))

    def _terms(self, risk: EmpiricalRisk) -> list[Term]:
        return [Term(self._losses(risk), None)]

    def _losses(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        """The losses of the new points alone, with the factors with which they count."""
        points = candidates(risk, self.inputs, self.targets)
        everyone = range(len(points))
        inputs, rows = points[everyone]
        factors = new_factors(risk, inputs, rows, [])
        alone = replace(risk.without_regularisation(), points=points)
        return alone if factors is None else with_targets(alone, everyone, rows, factors)

    @cached_property
    def _count(self) -> int | None:
        try:
            return len(self.inputs)
        except TypeError:
            return None

    def __repr__(self) -> str:
        count = "new points" if self._count is None else f"{self._count} points"
        count = "1 point" if self._count == 1 else count
        reading = "" if self.divisor == "after" else ', divisor="before"'
        return f"Add({count}{reading})"
