"""Features of points that move."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from solset.changes._change import Change, Exchange, PointsChange, TrainingChange
from solset.checks import points_of, require
from solset.linalg import LinearOperator, Space
from solset.operators import InputJacobian, Mixed
from solset.risk import EmpiricalRisk, as_tensors


@dataclass(frozen=True, eq=False)
class Move(PointsChange):
    """Features of some training points change: ``x_i`` becomes ``x_i + dx_i``.

    Attributes:
        points: Indices of the points that move, in the order of ``dx``; ``None`` stands for all points.
        dx: Change of the features, ``(len(points), *input)``, in input units after preprocessing: a
            tensor, or an array or frame, which is read in the dtype of the inputs; ``None``
            stands for moves of any length, of which a derivative is asked.

    Example:
        >>> import torch
        >>> Move([0, 3], torch.zeros(2, 5))
        Move(points 0, 3; dx of shape (2, 5))
    """

    dx: Any = None

    def of_gradient(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:
        """The mixed derivative ``B = ∇_x ∇_w E``; arguments as for every change."""
        return Mixed(risk, self.chosen(risk), memory_budget=memory_budget)

    def of_outputs(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:
        """The derivative ``J_x`` of the outputs in the inputs; arguments as for every change."""
        return InputJacobian(risk, self.chosen(risk), memory_budget=memory_budget)

    def space(self, risk: EmpiricalRisk) -> Space:
        """One block per moved point, shaped like one input; argument as for every change."""
        shape = risk.points.feature_shape
        return Space("dx", (len(self.chosen(risk)), *shape), risk.weights.dtype, risk.weights.device)

    def direction(self, risk: EmpiricalRisk) -> Tensor:
        """``dx`` as a flat vector; argument as for every change."""
        risk.points.require_moving()
        space = self.space(risk)
        flat = space.flatten(self._length(space))
        risk.points.require_own(self.chosen(risk), space.unflatten(flat))
        return flat

    def applied_to(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        """The risk on the moved points; argument as for every change."""
        return risk.move(self.chosen(risk), self.space(risk).unflatten(self.direction(risk)))

    def partly(
        self,
        risk: EmpiricalRisk,
        share: float,
        base: EmpiricalRisk | None = None,  # noqa: ARG002
    ) -> EmpiricalRisk:
        """The risk on points that moved a part of the way; arguments as for every change."""
        return risk.move(self.chosen(risk), share * self.space(risk).unflatten(self.direction(risk)))

    def along(self, risk: EmpiricalRisk, coordinates: Tensor) -> Change:
        """The move of the same points by other features; arguments as for every change."""
        return replace(self, dx=self.space(risk).unflatten(coordinates))

    def typical(self, risk: EmpiricalRisk) -> Tensor:
        """The features of the points; argument as for every change."""
        return risk.points.features(self.chosen(risk))

    def moves_data(self, risk: EmpiricalRisk) -> bool:  # noqa: ARG002
        """True; argument as for every change."""
        return True

    def moving(self, risk: EmpiricalRisk) -> list[int]:
        """All points of the change; argument as for every change."""
        return self.chosen(risk)

    def exchange(self, risk: EmpiricalRisk) -> Exchange:
        """The losses of the points leave, those of the moved points come; argument as for every change."""
        points = self.chosen(risk)
        parts = ((-1.0, risk.select(points)), (1.0, self.applied_to(risk).select(points)))
        return Exchange(1.0, parts, tuple(points))

    def of_training(self, count: int, features: Callable[[], Space]) -> TrainingChange:
        """The move of the features; arguments as for every change."""
        chosen, one = points_of(self.points, count), features()
        space = replace(one, shape=(len(chosen), *one.shape))
        moves = space.unflatten(space.flatten(self._length(space)))
        return TrainingChange(features=dict(zip(chosen, moves, strict=True)))

    def _length(self, space: Space) -> Tensor:
        """``dx`` as a tensor; an array or a frame in the dtype of the inputs."""
        like = torch.empty(0, dtype=space.dtype, device=space.device)
        dx = as_tensors("dx", self.dx, like)
        cure = "Use torch.as_tensor on one block for each point."
        if isinstance(dx, dict):
            cure = 'Pass the tensor alone: the input that moves is named in Problem(..., moves="image").'
        require("dx", dx, Tensor, cure=cure)
        return cast("Tensor", dx)

    def __repr__(self) -> str:
        length = "any dx" if self.dx is None else f"dx of shape {tuple(getattr(self.dx, 'shape', ()))}"
        return f"Move({self.named}; {length})"
