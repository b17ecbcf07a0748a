"""The base of every change: what it is for the derivatives, for the data and for a training."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from solset.checks import points_of
from solset.errors import bad_type
from solset.linalg import LinearOperator, Space
from solset.risk import EmpiricalRisk, Indices


@dataclass(frozen=True, eq=False)
class Exchange:
    """The risk after a change, as ``factor · (E + Σ sign · E_part)``, beside weight decay and penalty.

    Attributes:
        factor: ``α`` after the change relative to ``α`` before: ``n/(n - |K|)`` where points leave a mean.
        parts: Losses that leave (sign -1) or come (sign 1), each as a risk with the ``α`` before the change
            and without weight decay or penalty.
        points: Indices of the points that leave, in the order of the first part; none if none leave.
    """

    factor: float
    parts: tuple[tuple[float, EmpiricalRisk], ...]
    points: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class TrainingChange:
    """What a change does to a training, which runs on single points and has settings of its own.

    Attributes:
        features: Change of the features of moved points, by index.
        factors: Change of the factors of points' losses, which are 1 at first, by index.
        targets: New target of relabelled points, by index.
        added: Inputs and targets of points that join, a pair for each addition.
        decays: Changes of the weight decay, each one number or one by pattern of names.
        rate: Relative change of the learning rate of every step.
    """

    features: Mapping[int, Tensor] = field(default_factory=dict)
    factors: Mapping[int, float] = field(default_factory=dict)
    targets: Mapping[int, Tensor] = field(default_factory=dict)
    added: tuple[tuple[Any, Any], ...] = ()
    decays: tuple[float | Mapping[str, float], ...] = ()
    rate: float = 0.0


class Change(ABC):
    """A change of the training data, which is described by coordinates ``t``.

    A change knows two data operators, the derivatives in its coordinates, and how far it goes along them.
    With ``C`` one of the operators, an estimate solves ``A v = -C t``. ``A`` does not know what changes.
    """

    @abstractmethod
    def of_gradient(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:
        """The derivative of the risk's gradient in the coordinates, ``(p, q)``: ``C`` of a Hessian side.

        Args:
            risk: Empirical risk at the trained point.
            memory_budget: Bytes that graphs kept between products may take.
        """

    @abstractmethod
    def of_outputs(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:
        """The derivative of all training outputs in the coordinates, ``(n·c, q)``: ``C`` for rows of ``J``.

        Args:
            risk: Empirical risk at the trained point.
            memory_budget: Bytes that graphs kept between products may take.
        """

    @abstractmethod
    def space(self, risk: EmpiricalRisk) -> Space:
        """The shape, dtype and device of the coordinates.

        Args:
            risk: Empirical risk at the trained point.
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

    @abstractmethod
    def chosen(self, risk: EmpiricalRisk) -> list[int]:
        """The indices of the training points that change, as a checked list.

        Args:
            risk: Empirical risk on the data before the change.

        Raises:
            TypeError: If the points are not integers.
            ValueError: If they are none, repeated or out of range.
        """

    def partly(
        self,
        risk: EmpiricalRisk,  # noqa: ARG002
        share: float,  # noqa: ARG002
        base: EmpiricalRisk | None = None,  # noqa: ARG002
    ) -> EmpiricalRisk:
        """The risk on the way of the change, at the same weights; points that leave stay in with factors.

        Args:
            risk: Empirical risk on the data before the change.
            share: Part ``τ`` of the change that is made, from 0 to 1.
            base: Risk before other changes of factors, from which losses are taken; the same by default.

        Raises:
            TypeError: If this kind of change has no way between.
            ValueError: As for :meth:`direction`.
        """
        raise bad_type(
            "change",
            expected="one that can be made in part",
            got=type(self).__name__,
            cure="Give it a method partly, or use a change of solset.",
        )

    def rate(self, risk: EmpiricalRisk, share: float) -> Tensor:
        """The derivative of the gradient of :meth:`partly` in the share ``τ``, ``(p,)``.

        Args:
            risk: Empirical risk on the data before the change, at the weights of interest.
            share: Part ``τ`` of the change that is made, from 0 to 1.
        """
        return self.pull(self.partly(risk, share), risk, self.direction(risk))

    def pull(self, there: EmpiricalRisk, base: EmpiricalRisk, direction: Tensor) -> Tensor:  # noqa: ARG002
        """The derivative of the gradient of a risk on the way, along the change, ``(p,)``.

        Args:
            there: Risk on the way, from :meth:`partly`.
            base: Risk before any change of factors, from which losses are taken.
            direction: Coordinates of the change, ``(q,)``.
        """
        return self.of_gradient(there, 0) @ direction

    def moves_data(self, risk: EmpiricalRisk) -> bool:  # noqa: ARG002
        """Whether features or targets move, and no factor of a loss changes.

        Args:
            risk: Empirical risk on the data before the change.
        """
        return False

    def joining(self, risk: EmpiricalRisk) -> EmpiricalRisk | None:  # noqa: ARG002 - for points that join
        """The risk with the points that join after all others; ``None`` where none does.

        Args:
            risk: Empirical risk on the data before the change.
        """
        return None

    def outputs_after(self, risk: EmpiricalRisk) -> Tensor:
        """The outputs that fit the changed data where those of the trained weights fit it now, ``(n', c)``.

        Args:
            risk: Empirical risk on the data before the change.

        Raises:
            ValueError: If no outputs fit the changed data.
        """
        return risk.outputs()

    def along(self, risk: EmpiricalRisk, coordinates: Tensor) -> "Change | None":  # noqa: ARG002
        """The change of this kind with other coordinates; ``None`` for a kind that cannot be small.

        Args:
            risk: Empirical risk on the data before the change.
            coordinates: Coordinates of the new change, flat ``(q,)``.
        """
        return None

    def typical(self, risk: EmpiricalRisk) -> Tensor:
        """Coordinates of ordinary size, in the shape of the space, against which a change counts as small.

        Args:
            risk: Empirical risk on the data before the change.
        """
        space = self.space(risk)
        return torch.ones(space.shape, dtype=space.dtype, device=space.device)

    def remark(self, *, keeps_outputs: bool) -> str:  # noqa: ARG002 - for factors
        """A clause for the reason of a linearisation that says what is special; empty for most changes.

        Args:
            keeps_outputs: Whether solutions are the weights that keep all training outputs.
        """
        return ""

    def labels_after(self, targets: Tensor) -> Tensor:
        """The targets that are left after the change, of all points that still count.

        Args:
            targets: Targets of all points before, as the risk keeps them, without the factors beside them.
        """
        return targets

    def __add__(self, other: object) -> "Change":
        """Both changes together; see :class:`solset.changes.Sum`."""
        from solset.changes._sum import summed  # noqa: PLC0415 - a sum is made of changes

        require_change(other)
        return summed(self, cast("Change", other))

    def __radd__(self, other: object) -> "Change":
        """The change itself after the 0 with which ``sum`` begins."""
        return self if other == 0 else NotImplemented

    def moving(self, risk: EmpiricalRisk) -> list[int]:  # noqa: ARG002 - for moves
        """The indices of the points whose features move, where kinks of the network matter.

        Args:
            risk: Empirical risk on the data before the change.
        """
        return []

    def coordinates(self, risk: EmpiricalRisk) -> Hashable:  # noqa: ARG002 - for moves
        """A key that is equal for changes with the same coordinates, whatever their lengths.

        Args:
            risk: Empirical risk on the data before the change.
        """
        return self

    def is_finite(self, risk: EmpiricalRisk) -> bool:  # noqa: ARG002 - for jumps
        """Whether the change is never small, as a removal, so that an estimate is by default a Newton step.

        Args:
            risk: Empirical risk on the data before the change.
        """
        return False

    def exchange(self, risk: EmpiricalRisk) -> Exchange | None:  # noqa: ARG002 - for finite changes
        """The losses that the change takes from the risk and adds to it; ``None`` if it is not known so.

        A Newton step on the changed risk needs no more than these, beside what is known before the change.

        Args:
            risk: Empirical risk on the data before the change.

        Raises:
            TypeError: As for :meth:`direction`.
            ValueError: As for :meth:`direction`.
        """
        return None

    def leaving(self, risk: EmpiricalRisk) -> list[int]:  # noqa: ARG002 - for removals
        """The indices of the points that are no longer there after the change.

        Args:
            risk: Empirical risk on the data before the change.
        """
        return []

    def of_training(self, count: int, features: Callable[[], Space]) -> TrainingChange:  # noqa: ARG002
        """What the change does to a training that runs on single points.

        Args:
            count: Number of training points.
            features: Function that gives the space of one point's features, or refuses if none may move.

        Raises:
            TypeError: As for :meth:`direction`, or if this kind of change does not say it.
            ValueError: As for :meth:`direction`.
        """
        raise bad_type(
            "change",
            expected="a change of solset for a training",
            got=type(self).__name__,
            cure="Give it a method of_training, or build the Training of the changed data and run it.",
        )


@dataclass(frozen=True, eq=False)
class PointsChange(Change):
    """A change of some of the training points.

    Attributes:
        points: Distinct indices of the points that change; all points by default.
    """

    points: Indices | None = None

    def chosen(self, risk: EmpiricalRisk) -> list[int]:
        """The indices of the points, as a checked list; argument as for every change."""
        return points_of(self.points, len(risk.points))

    def coordinates(self, risk: EmpiricalRisk) -> Hashable:
        """The class and the points; argument as for every change."""
        return type(self), tuple(self.chosen(risk))

    @property
    def named(self) -> str:
        """The points in a few words."""
        if self.points is None:
            return "all points"
        points = self.points.tolist() if isinstance(self.points, Tensor) else self.points
        if isinstance(points, str) or not isinstance(points, Iterable):  # refused by name where it is used
            return f"points {points!r}"
        indices = list(points)
        return "points " + (", ".join(map(str, indices[:5])) or "[]") + (", …" if len(indices) > 5 else "")


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
