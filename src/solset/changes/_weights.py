"""Points that count less, more, or not at all."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.changes._change import PointChange, PointsChange
from solset.checks import points_of
from solset.errors import bad_value
from solset.linalg import LinearOperator, Space
from solset.operators import PointGradients
from solset.risk import EmpiricalRisk, point_factors


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

    def of_gradient(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """The gradients of the points' losses as columns; arguments as for every change."""
        return PointGradients(risk, self._removed(len(risk.points)))

    def of_outputs(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """Refuses: where the data are fitted, nothing moves; arguments as for every change."""
        raise bad_value(
            "optimality",
            expected="'stationary' or 'gauss_newton' for points that are removed",
            got="'interpolating'",
            cure="Fitted weights stay a solution without these points: the distance is 0, and the set grows.",
        )

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
