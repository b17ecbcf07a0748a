"""Budgets of whole points: which labels may flip, which points may be dropped, and how many."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from solset.changes import Change, PointsChange, Relabel, Remove, Reweight
from solset.checks import checked, within
from solset.errors import bad_value
from solset.risk import EmpiricalRisk, has_number_targets, plain_targets, target_rows

Option = tuple[Tensor, PointsChange, Tensor]
NO_LABEL = torch.tensor(torch.nan)  # choice of a point that is left out
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

    @abstractmethod
    def choices(self, risk: EmpiricalRisk, place: int) -> list[Tensor]:
        """The choices that change a point.

        Args:
            risk: Empirical risk that holds the points.
            place: Index of the point in this risk.
        """

    def random(self, risk: EmpiricalRisk, count: int, generator: torch.Generator) -> Change:
        """A change of points that chance chooses, to compare a design with.

        Args:
            risk: Empirical risk that holds the points.
            count: Number of points that change; fewer where fewer of them have a choice.
            generator: Source of the choice.
        """
        allowed = range(len(risk.points)) if self.points is None else self.points
        chosen: dict[int, Tensor] = {}
        for drawn in torch.randperm(len(allowed), generator=generator).tolist():
            if len(chosen) == count:  # to ask the others would read all targets once for each
                break
            if choices := self.choices(risk, allowed[drawn]):
                chosen[allowed[drawn]] = choices[int(torch.randint(len(choices), (), generator=generator))]
        return self.change(chosen)


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
        ValueError: If a number is not positive, or a label is not finite.
    """

    most: int
    points: Sequence[int] | None = None
    labels: Sequence[float] | None = None
    tried: int = 8
    breadth: int = 4

    def __post_init__(self) -> None:
        _check(self)
        if self.labels is not None and not (len(self.labels) and all(map(isfinite, self.labels))):
            cure = "Leave them out for those of the training data."
            raise bad_value("labels", expected="finite numbers", got=list(self.labels), cure=cure)

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

    def choices(self, risk: EmpiricalRisk, place: int) -> list[Tensor]:
        """The labels that are not the point's own; arguments as for every budget."""
        own_label = plain_targets(risk, risk.points[[place]][1])[0]
        return [label for label in self._labels(risk) if not torch.equal(label, own_label)]

    def _labels(self, risk: EmpiricalRisk) -> Tensor:
        targets = plain_targets(risk, risk.points[range(len(risk.points))][1])
        if self.labels is not None:
            labels = torch.tensor(self.labels, dtype=torch.float64)
            if not torch.equal(labels.to(targets.dtype).double(), labels) and not targets.is_floating_point():
                cure = "Give the classes as integers."
                raise bad_value("labels", expected=f"of {targets.dtype}", got=list(self.labels), cure=cure)
            rows = labels.to(targets.dtype).reshape(-1, *targets.shape[1:])
            return target_rows(risk, rows, len(self.labels))
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
        return [(NO_LABEL, Reweight(list(places)), -risk.weights.new_ones(len(places)))]

    def choices(self, risk: EmpiricalRisk, place: int) -> list[Tensor]:  # noqa: ARG002 - as for every budget
        """The only choice, to leave the point out; arguments as for every budget."""
        return [NO_LABEL]


def _check(budget: PointBudget) -> None:
    for name in ("most", "tried", "breadth"):
        within(name, getattr(budget, name), 1, cure="It counts points or changes.")
