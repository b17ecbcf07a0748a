"""Features of points that move."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from solset.changes._change import Change, PointChange, named_points
from solset.checks import points_of
from solset.linalg import LinearOperator, Space
from solset.operators import InputJacobian, Mixed
from solset.risk import EmpiricalRisk, Indices


@dataclass(frozen=True, eq=False)
class Move(Change):
    """Features of some training points change: ``x_i`` becomes ``x_i + dx_i``.

    Attributes:
        points: Indices of the points that move, in the order of ``dx``; ``None`` stands for all points.
        dx: Change of the features, ``(len(points), *input)``, in input units after preprocessing.

    Example:
        >>> import torch
        >>> Move([0, 3], torch.zeros(2, 5))
        Move(points 0, 3; dx of shape (2, 5))
    """

    points: Indices | None
    dx: Tensor

    @classmethod
    def of_gradient(cls, risk: EmpiricalRisk, points: Sequence[int], memory_budget: int) -> LinearOperator:
        """The mixed derivative ``B = ∇_x ∇_w E``; arguments as for every change."""
        return Mixed(risk, points, memory_budget=memory_budget)

    @classmethod
    def of_outputs(cls, risk: EmpiricalRisk, points: Sequence[int], memory_budget: int) -> LinearOperator:
        """The derivative ``J_x`` of the outputs in the inputs; arguments as for every change."""
        return InputJacobian(risk, points, memory_budget=memory_budget)

    @classmethod
    def space(cls, risk: EmpiricalRisk, points: Sequence[int]) -> Space:
        """One block per moved point, shaped like one input; arguments as for every change."""
        shape = risk.points.feature_shape
        return Space("dx", (len(points), *shape), risk.weights.dtype, risk.weights.device)

    def direction(self, risk: EmpiricalRisk) -> Tensor:
        """``dx`` as a flat vector; argument as for every change."""
        risk.points.require_moving()
        points = self.chosen(risk)
        flat = self.space(risk, points).flatten(self.dx)
        risk.points.require_own(points, self.dx)
        return flat

    def applied_to(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        """The risk on the moved points; argument as for every change."""
        points = self.chosen(risk)
        return risk.move(points, self.space(risk, points).unflatten(self.direction(risk)))

    def of_points(self, count: int, features: Callable[[], Space]) -> PointChange:
        """The move of the features; arguments as for every change."""
        chosen, one = points_of(self.points, count), features()
        space = replace(one, shape=(len(chosen), *one.shape))
        return PointChange(chosen, features=space.unflatten(space.flatten(self.dx)))

    def __repr__(self) -> str:
        return f"Move({named_points(self.points)}; dx of shape {tuple(getattr(self.dx, 'shape', ()))})"
