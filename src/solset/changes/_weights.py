"""Points that count less, more, or not at all."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from solset.changes._change import PointChange, PointsChange
from solset.changes._exchange import Exchange
from solset.checks import points_of
from solset.errors import bad_value
from solset.linalg import LinearOperator, Space, Zero
from solset.operators import PointGradients
from solset.risk import EmpiricalRisk, output_shape, point_factors


@dataclass(frozen=True, eq=False)
class Remove(PointsChange):
    """Some training points are left out.

    A mean stays a mean over the points that are left, as a loader takes it. To first order the gradient of
    the risk changes by ``-α Σ_k (∇ℓ_k - g)``, where ``g`` is the gradient of the mean loss, and 0 for a sum.

    Attributes:
        points: Indices of the points that are left out; not all of them.

    Example:
        >>> Remove([7])
        Remove(points 7)
    """

    is_finite: ClassVar[bool] = True

    def of_gradient(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """The gradients of the points' losses as columns; arguments as for every change."""
        return PointGradients(risk, self._removed(len(risk.points)))

    def of_outputs(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """Zero: the weight of a point changes no output; arguments as for every change."""
        shape = (len(risk.points) * prod(output_shape(risk)), len(self._removed(len(risk.points))))
        return Zero(shape, risk.weights.dtype, risk.weights.device)

    def space(self, risk: EmpiricalRisk) -> Space:
        """One number per point; argument as for every change."""
        return Space("factors", (len(self.chosen(risk)),), risk.weights.dtype, risk.weights.device)

    def direction(self, risk: EmpiricalRisk) -> Tensor:
        """A factor less by 1 for each point; argument as for every change."""
        return -torch.ones(
            len(self._removed(len(risk.points))), dtype=risk.weights.dtype, device=risk.weights.device
        )

    def applied_to(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        """The risk on the points that are left; argument as for every change."""
        removed = set(self._removed(len(risk.points)))
        rest = [i for i in range(len(risk.points)) if i not in removed]
        factors = point_factors(risk, rest)
        total = len(rest) if factors is None else float(factors.sum())
        return replace(risk, points=risk.points.select(rest), total=total)

    def exchange(self, risk: EmpiricalRisk) -> Exchange:
        """The losses leave, and a mean is divided by what is left; argument as for every change."""
        removed = self._removed(len(risk.points))
        factors = point_factors(risk, removed)
        taken = len(removed) if factors is None else float(factors.sum())
        factor = risk.total / (risk.total - taken) if risk.reduction == "mean" else 1.0
        return Exchange(factor, ((-1.0, risk.select(removed)),), tuple(removed))

    def leaving(self, risk: EmpiricalRisk) -> list[int]:
        """All of the points; argument as for every change."""
        return self._removed(len(risk.points))

    def of_points(self, count: int, features: Callable[[], Space]) -> PointChange:  # noqa: ARG002
        """A factor of 0 for each point; arguments as for every change."""
        removed = self._removed(count)
        return PointChange(removed, factors=-torch.ones(len(removed), dtype=torch.float64))

    def _removed(self, count: int) -> list[int]:
        removed = points_of(self.points, count)
        if self.points is None or len(removed) == count:
            raise bad_value("points", expected="fewer than all points", got="all of them", cure="Leave some.")
        return removed

    def __repr__(self) -> str:
        return f"Remove({self.named})"
