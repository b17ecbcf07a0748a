"""Changes of the training data, as values: what moves, and how the risk and its derivatives answer.

A new kind of change is one subclass of :class:`Change`; problems, estimates and retraining take it as it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.checks import points_of
from solset.errors import bad_type, bad_value
from solset.linalg import LinearOperator, Space
from solset.operators import InputJacobian, Mixed, PointGradients
from solset.risk import EmpiricalRisk, Indices, point_factors


@dataclass(frozen=True, eq=False)
class PointChange:
    """What a change does to single points of the data, for a training that runs on them.

    Attributes:
        points: Indices of the points that change, distinct.
        features: Change of their features, ``(len(points), *input)``; ``None`` where they stay.
        factors: Change of the factors of their losses, which are 1 at first, ``(len(points),)``; ``None``
            where they stay.
    """

    points: list[int]
    features: Tensor | None = None
    factors: Tensor | None = None


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

    def of_points(self, count: int, features: Callable[[], Space]) -> PointChange:  # noqa: ARG002
        """What the change does to each point of the data, for a training that runs on them.

        Args:
            count: Number of training points.
            features: Function that gives the space of one point's features, or refuses if none may move.

        Raises:
            TypeError: As for :meth:`direction`, or if this kind of change does not say it.
            ValueError: As for :meth:`direction`.
        """
        raise bad_type(
            "change",
            expected="one that says what it does to single points",
            got=type(self).__name__,
            cure="Give it a method of_points, or use Move, Reweight or Remove.",
        )

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

    def of_points(self, count: int, features: Callable[[], Space]) -> PointChange:
        """The move of the features; arguments as for every change."""
        chosen, one = points_of(self.points, count), features()
        space = replace(one, shape=(len(chosen), *one.shape))
        return PointChange(chosen, features=space.unflatten(space.flatten(self.dx)))

    def __repr__(self) -> str:
        return f"Move({_named(self.points)}; dx of shape {tuple(getattr(self.dx, 'shape', ()))})"


def _named(points: Indices | None) -> str:
    if points is None:
        return "all points"
    indices = [int(i) for i in points]
    return "points " + ", ".join(map(str, indices[:5])) + (", …" if len(indices) > 5 else "")


@dataclass(frozen=True, eq=False)
class Remove(Change):
    """Some training points are left out.

    A mean stays a mean over the points that are left, as a loader takes it. To first order the gradient of
    the risk changes by ``-α Σ_k (∇ℓ_k - g)``, where ``g`` is the gradient of the mean loss, and 0 for a sum.

    Attributes:
        points: Indices of the points that are left out; not all of them.

    Example:
        >>> Remove([7])
        Remove(points 7)
    """

    points: Indices | None

    @classmethod
    def of_gradient(cls, risk: EmpiricalRisk, points: Sequence[int], memory_budget: int) -> LinearOperator:  # noqa: ARG003
        """The gradients of the points' losses as columns; arguments as for every change."""
        return PointGradients(risk, points)

    @classmethod
    def of_outputs(cls, risk: EmpiricalRisk, points: Sequence[int], memory_budget: int) -> LinearOperator:  # noqa: ARG003
        """Refuses: where the data are fitted, nothing moves; arguments as for every change."""
        raise bad_value(
            "optimality",
            expected="'stationary' or 'gauss_newton' for points that are removed",
            got="'interpolating'",
            cure="Fitted weights stay a solution without these points: the distance is 0, and the set grows.",
        )

    @classmethod
    def space(cls, risk: EmpiricalRisk, points: Sequence[int]) -> Space:
        """One number per point; arguments as for every change."""
        return Space("factors", (len(points),), risk.weights.dtype, risk.weights.device)

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
        return f"Remove({_named(self.points)})"


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
