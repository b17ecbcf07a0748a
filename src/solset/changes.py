"""Changes of the training data, as values: what moves, and how the risk and its derivatives answer.

A new kind of change is one subclass of :class:`Change`; problems, estimates and retraining take it as it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from solset.checks import points_of
from solset.errors import bad_type
from solset.linalg import LinearOperator, Space
from solset.operators import InputJacobian, Mixed
from solset.risk import EmpiricalRisk, Indices


class Change(ABC):
    """A change of the training data, which a kind of change describes by coordinates ``t`` of some points.

    The kind (the class) knows the two data operators, the instance knows how far to go along them. With
    ``C`` one of the operators and ``t`` the coordinates, an estimate solves ``A v = -C t``.

    Attributes:
        points: Indices of the points that change; ``None`` stands for all points.
    """

    points: Indices | None

    @classmethod
    @abstractmethod
    def of_gradient(cls, risk: EmpiricalRisk, points: Sequence[int], memory_budget: int) -> LinearOperator:
        """The derivative of the risk's gradient in the coordinates, ``(p, q)``: ``C`` of a Hessian side.

        Args:
            risk: Empirical risk at the trained point.
            points: Indices of the points that change, checked.
            memory_budget: Bytes that graphs kept between products may take.
        """

    @classmethod
    @abstractmethod
    def of_outputs(cls, risk: EmpiricalRisk, points: Sequence[int], memory_budget: int) -> LinearOperator:
        """The derivative of all training outputs in the coordinates, ``(n·c, q)``: ``C`` for rows of ``J``.

        Args:
            risk: Empirical risk at the trained point.
            points: Indices of the points that change, checked.
            memory_budget: Bytes that graphs kept between products may take.
        """

    @classmethod
    @abstractmethod
    def space(cls, risk: EmpiricalRisk, points: Sequence[int]) -> Space:
        """The shape, dtype and device that coordinates for these points have.

        Args:
            risk: Empirical risk at the trained point.
            points: Indices of the points that change, checked.
        """

    @abstractmethod
    def direction(self, risk: EmpiricalRisk) -> Tensor:
        """The coordinates, flat ``(q,)``, checked against the data of the risk.

        Args:
            risk: Empirical risk at the trained point.

        Raises:
            TypeError: If they are not a tensor, or the points are not integers.
            ValueError: If points, shape, dtype or device do not fit the data, or an entry is not finite.
        """

    @abstractmethod
    def applied_to(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        """The risk on the changed data, at the same weights.

        Args:
            risk: Empirical risk on the data before the change.

        Raises:
            TypeError: As for :meth:`direction`.
            ValueError: As for :meth:`direction`.
        """

    def chosen(self, risk: EmpiricalRisk) -> list[int]:
        """The indices of the points that change, as a checked list.

        Args:
            risk: Empirical risk on the data before the change.

        Raises:
            TypeError: If the points are not integers.
            ValueError: If they are none, repeated or out of range.
        """
        return points_of(self.points, len(risk.points))


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

    def __repr__(self) -> str:
        if self.points is None:
            names = "all points"
        else:
            indices = list(self.points)
            names = "points " + ", ".join(map(str, indices[:5])) + (", …" if len(indices) > 5 else "")
        return f"Move({names}; dx of shape {tuple(getattr(self.dx, 'shape', ()))})"


def require_change(change: object, kind: type[Change] = Change) -> None:
    """Refuses what is not a change of the data, such as a bare tensor.

    Args:
        change: Argument that the caller passed as a change.
        kind: Class that the change has to be of; any change by default.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(change, kind):
        raise bad_type(
            "change",
            expected="a change of the training data",
            got=type(change).__name__,
            cure="Use solset.Move(points, dx), with points=None for all points.",
        )
