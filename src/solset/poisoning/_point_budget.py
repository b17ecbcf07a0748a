"""Budgets of whole points: which labels may flip, which points may be dropped, and how many."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from solset.changes import Change, PointsChange, Relabel, Remove, Reweight
from solset.checks import checked, within
from solset.errors import bad_value
from solset.risk import EmpiricalRisk, has_number_targets, plain_targets, target_rows

Option = tuple[Tensor, PointsChange, Tensor]
MOST_LABELS = 100  # different targets above which they are numbers of a regression


class PointBudget(ABC):
    """Which training points may change as a whole, and how many of them.

    Attributes:
        points: Distinct indices of the points that may change; ``None`` for all.
        most: Largest number of points that change.
        tried: Number of further changes that are really solved for, those of the best scores.
        breadth: Number of choices of points that go on to the next round.
    """

    points: Sequence[int] | None
    most: int
    tried: int
    breadth: int

    @abstractmethod
    def change(self, chosen: Mapping[int, Tensor]) -> Change:
        """The change of the chosen points.

        Args:
            chosen: Choice of each point by its index.
        """

    @abstractmethod
    def options(self, risk: EmpiricalRisk, places: Sequence[int]) -> list[Option]:
        """The choices, each with the change that makes it for all of some points, and its coordinates.

        Args:
            risk: Empirical risk that holds the points.
            places: Indices of the points in this risk.
        """


@checked
@dataclass(frozen=True, eq=False)
class Flips(PointBudget):
    """At most ``most`` training points get another class label.

    Attributes:
        most: Largest number of points whose label changes.
        points: Distinct indices of the points whose label may change; all by default.
        labels: Labels that a point may get; by default those that occur in the training data.
        tried: Number of further changes that are really solved for in each round, from each choice of points:
            those of the best first-order scores. More of them find more, at the cost of a solve each.
        breadth: Number of choices of points that go on to the next round.

    Raises:
        ValueError: If a number is not positive.
    """

    most: int
    points: Sequence[int] | None = None
    labels: Sequence[float] | None = None
    tried: int = 8
    breadth: int = 4

    def __post_init__(self) -> None:
        _check(self)

    def change(self, chosen: Mapping[int, Tensor]) -> Change:
        """The relabelling of the chosen points; argument as for every budget."""
        return Relabel(list(chosen), torch.stack(list(chosen.values())))

    def options(self, risk: EmpiricalRisk, places: Sequence[int]) -> list[Option]:
        """Each label with the relabelling of all of the points to it; arguments as for every budget."""
        options = []
        for label in self._labels(risk):
            change = Relabel(list(places), label.expand(len(places), *label.shape).clone())
            options.append((label, change, change.direction(risk)))
        return options

    def _labels(self, risk: EmpiricalRisk) -> Tensor:
        targets = plain_targets(risk, risk.points[range(len(risk.points))][1])
        if self.labels is not None:
            return target_rows(
                risk, torch.as_tensor(self.labels).reshape(-1, *targets.shape[1:]), len(self.labels)
            )
        values = targets.unique(dim=0)
        if len(values) > MOST_LABELS or (has_number_targets(risk) and len(values) > 2):
            raise bad_value(
                "labels",
                expected="given where targets are numbers and not two classes",
                got=f"{len(values)} different targets",
                cure="Name the targets that a point may get.",
            )
        return values


@checked
@dataclass(frozen=True, eq=False)
class Drops(PointBudget):
    """At most ``most`` training points are left out.

    Attributes:
        most: Largest number of points that are left out.
        points: Distinct indices of the points that may be left out; all by default.
        tried: Number of further points that are really solved for, as for :class:`Flips`.
        breadth: Number of choices of points that go on to the next round.

    Raises:
        ValueError: If a number is not positive.
    """

    most: int
    points: Sequence[int] | None = None
    tried: int = 8
    breadth: int = 4

    def __post_init__(self) -> None:
        _check(self)

    def change(self, chosen: Mapping[int, Tensor]) -> Change:
        """The removal of the chosen points; argument as for every budget."""
        return Remove(list(chosen))

    def options(self, risk: EmpiricalRisk, places: Sequence[int]) -> list[Option]:
        """The whole factor of each of the points, as the only choice; arguments as for every budget."""
        return [(torch.tensor(torch.nan), Reweight(list(places)), -risk.weights.new_ones(len(places)))]


def _check(budget: PointBudget) -> None:
    for name in ("most", "tried", "breadth"):
        within(name, getattr(budget, name), 1, cure="It counts points or changes.")
