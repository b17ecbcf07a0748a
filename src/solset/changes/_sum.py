"""Several changes of the training data at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from solset.changes._addition import Add
from solset.changes._change import Change, Exchange, PointsChange, TrainingChange
from solset.changes._decay import Decay
from solset.changes._labels import Relabel
from solset.changes._move import Move
from solset.changes._weights import Remove, Reweight, without
from solset.errors import bad_value
from solset.linalg import Beside, LinearOperator, Space
from solset.risk import EmpiricalRisk

_ORDER = (Move, Add, Relabel, Reweight, Decay, Remove)  # points keep their numbers until the last


@dataclass(frozen=True, eq=False)
class Sum(Change):
    """Changes that are made together, as ``Move([0], dx) + Remove([7])``.

    All of them name the points of the data before any change. The same point moves or is reweighted by the
    sum of its changes; two changes of one point that exclude each other, such as two new labels, are refused.

    Attributes:
        parts: Changes that are made, none of them a sum.

    Example:
        >>> Remove([7]) + Decay(1e-3) + Decay(1e-3)
        Decay(0.002) + Remove(points 7)
    """

    parts: tuple[Change, ...]

    def chosen(self, risk: EmpiricalRisk) -> list[int]:
        """The points of all parts; argument as for every change."""
        return sorted({point for part in self._checked(risk) for point in part.chosen(risk)})

    def of_gradient(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:
        """The operators of the parts side by side; arguments as for every change."""
        return Beside([part.of_gradient(risk, memory_budget) for part in self._checked(risk)])

    def of_outputs(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:
        """The operators of the parts side by side; arguments as for every change."""
        return Beside([part.of_outputs(risk, memory_budget) for part in self._checked(risk)])

    def joining(self, risk: EmpiricalRisk) -> EmpiricalRisk | None:
        """The risk with the points that join; argument as for every change."""
        added = [part for part in self.parts if isinstance(part, Add)]
        return added[0].joining(risk) if added else None

    def is_finite(self, risk: EmpiricalRisk) -> bool:
        """Whether a part is, and a Newton step is known for all; argument as for every change."""
        return any(part.is_finite(risk) for part in self.parts) and self.exchange(risk) is not None

    def exchange(self, risk: EmpiricalRisk) -> Exchange | None:
        """The losses that leave and come by all parts; ``None`` with a change of decay; argument as usual."""
        each = [(part, part.exchange(risk)) for part in self._checked(risk)]
        all_points = [point for part, _ in each for point in part.chosen(risk)]
        if len(set(all_points)) < len(all_points):  # the parts of one point are not independent
            return None
        inverse, parts, leaving = 1.0, [], []
        for _, one in each:
            if one is None:
                return None
            inverse += 1.0 / one.factor - 1.0
            parts += one.parts
            leaving += one.points
        return Exchange(1.0 / inverse, tuple(sorted(parts, key=lambda part: part[0])), tuple(leaving))

    def leaving(self, risk: EmpiricalRisk) -> list[int]:
        """The points that leave by any part; argument as for every change."""
        return sorted({point for part in self._checked(risk) for point in part.leaving(risk)})

    def space(self, risk: EmpiricalRisk) -> Space:
        """The coordinates of the parts one after the other; argument as for every change."""
        size = sum(part.space(risk).size for part in self.parts)
        return Space("change", (size,), risk.weights.dtype, risk.weights.device)

    def direction(self, risk: EmpiricalRisk) -> Tensor:
        """The coordinates of the parts one after the other; argument as for every change."""
        return torch.cat([part.direction(risk) for part in self._checked(risk)])

    def applied_to(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        """The risk after all parts; argument as for every change."""
        for part in self._checked(risk):
            part.direction(risk)
        for part in self._checked(risk):
            risk = part.applied_to(risk)
        return risk

    def partly(
        self,
        risk: EmpiricalRisk,
        share: float,
        base: EmpiricalRisk | None = None,  # noqa: ARG002 - a sum is not a part of one
    ) -> EmpiricalRisk:
        """The risk on the way of all parts; arguments as for every change."""
        parts, moved = self._checked(risk), self._moved(risk, share)
        there = moved
        for part in parts:
            there = there if part.moves_data(risk) else part.partly(there, share, moved)
        return there

    def rate(self, risk: EmpiricalRisk, share: float) -> Tensor:
        """The sum of the rates of the parts, all of which are on their way; arguments as usual."""
        there, moved = self.partly(risk, share), self._moved(risk, share)
        rates = [part.pull(there, moved, part.direction(risk)) for part in self._checked(risk)]
        return torch.stack(rates).sum(dim=0)

    def _moved(self, risk: EmpiricalRisk, share: float) -> EmpiricalRisk:
        """The risk after the parts that move features and targets."""
        parts = self._checked(risk)
        if any(isinstance(part, Relabel) and not part.moves_data(risk) for part in parts):
            _require_apart(parts, risk, (Move,), (Relabel,))
        for part in parts:
            risk = part.partly(risk, share) if part.moves_data(risk) else risk
        return risk

    def moving(self, risk: EmpiricalRisk) -> list[int]:
        """The points of moves; argument as for every change."""
        return sorted({point for part in self.parts for point in part.moving(risk)})

    def outputs_after(self, risk: EmpiricalRisk) -> Tensor:
        """The outputs that fit after all parts; argument as for every change."""
        outputs = risk.outputs()
        count, new = len(outputs), outputs.clone()
        joined = outputs[:0]
        for part in self._checked(risk):
            if isinstance(part, Remove):
                continue
            after = part.outputs_after(risk)
            new, joined = new + (after[:count] - outputs), torch.cat([joined, after[count:]])
        gone = [point for part in self.parts if isinstance(part, Remove) for point in part.chosen(risk)]
        return torch.cat([without(new, gone), joined])

    def labels_after(self, targets: Tensor) -> Tensor:
        """The targets after the parts; argument as for every change."""
        for part in self.parts:
            targets = part.labels_after(targets)
        return targets

    def of_training(self, count: int, features: Callable[[], Space]) -> TrainingChange:
        """What the parts do together, where one does not undo another; arguments as usual."""
        return _together([part.of_training(count, features) for part in self.parts])

    def _checked(self, risk: EmpiricalRisk) -> list[Change]:
        """The parts with their points named, refused where they exclude each other at a point."""
        parts = [_resolved(part, risk) for part in self.parts]
        kinds = (Relabel, Reweight, Remove)
        for first in range(len(kinds)):
            for second in range(first, len(kinds)):
                _require_apart(parts, risk, (kinds[first],), (kinds[second],))
        _require_apart(parts, risk, (Move,), (Remove,))
        return parts

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def _resolved(part: Change, risk: EmpiricalRisk) -> Change:
    """The part with its points named, since points that join come after those that were there."""
    is_open = isinstance(part, PointsChange) and part.points is None and not isinstance(part, Remove)
    return replace(part, points=part.chosen(risk)) if is_open else part  # type: ignore[type-var]


def _require_apart(
    parts: list[Change], risk: EmpiricalRisk, first: tuple[type, ...], second: tuple[type, ...]
) -> None:
    """Refuses two parts of these kinds that have a point in common."""
    for i, one in enumerate(parts):
        for other in parts[i + 1 :]:
            pairs = ((one, other), (other, one))
            if not any(isinstance(a, first) and isinstance(b, second) for a, b in pairs):
                continue
            both = sorted(set(one.chosen(risk)) & set(other.chosen(risk)))
            if both:
                raise bad_value(
                    "change",
                    expected="a sum that changes a point in one way",
                    got=f"{type(one).__name__} and {type(other).__name__} of points {both[:5]}",
                    cure="Leave one of them out for these points.",
                )


def summed(first: Change, second: Change) -> Change:
    """Both changes together; moves, reweightings and decays of the same points add up."""
    parts: list[Change] = []
    given = [part for one in (first, second) for part in (one.parts if isinstance(one, Sum) else [one])]
    for part in sorted(given, key=_place):
        merged = None if not parts else _merged(parts[-1], part)
        parts[-1:] = [merged] if merged is not None else [*parts[-1:], part]
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def _place(part: Change) -> int:
    return next((i for i, kind in enumerate(_ORDER) if isinstance(part, kind)), -1)


def _merged(first: Change, second: Change) -> Change | None:
    """One change for two of the same kind whose coordinates add up; ``None`` where they stay apart."""
    if isinstance(first, Add) and isinstance(second, Add):
        return _both_additions(first, second)
    if isinstance(first, Decay) and isinstance(second, Decay):
        both = (first.change, second.change)
        return Decay(both[0] + both[1]) if all(isinstance(x, int | float) for x in both) else None  # type: ignore[operator]
    if isinstance(first, Move) and isinstance(second, Move):
        if not (isinstance(first.dx, Tensor) and isinstance(second.dx, Tensor)):
            return None
        points, blocks = _added(
            (_indices(first, len(first.dx)), first.dx), (_indices(second, len(second.dx)), second.dx)
        )
        return Move(points, blocks)
    if isinstance(first, Reweight) and isinstance(second, Reweight) and first.divisor == second.divisor:
        if None in (first.points, second.points, first.factors, second.factors):
            return None
        pairs = []
        for one in (first, second):
            points = _indices(one, 0)
            steps = torch.as_tensor(one.factors, dtype=torch.float64).expand(len(points))
            pairs.append((points, steps))
        points, factors = _added(*pairs)
        return Reweight(points, factors, divisor=first.divisor)
    return None


def _both_additions(first: Add, second: Add) -> Add:
    data = [(one.inputs, one.targets) for one in (first, second)]
    are_tensors = all(isinstance(part, Tensor) for pair in data for part in pair)
    fits = are_tensors and all(a.shape[1:] == b.shape[1:] for a, b in zip(*data, strict=True))
    if not fits or first.divisor != second.divisor:
        raise bad_value(
            "change",
            expected="one Add in a sum, or several of tensors of the same shape with the same divisor",
            got=f"{first} and {second}",
            cure="Put all new points into one.",
        )
    inputs, targets = (torch.cat(parts) for parts in zip(*data, strict=True))
    return Add(inputs, targets, divisor=first.divisor)


def _indices(change: PointsChange, count: int) -> list[int]:
    return list(range(count)) if change.points is None else [int(i) for i in change.points]


def _added(first: tuple[list[int], Tensor], second: tuple[list[int], Tensor]) -> tuple[list[int], Tensor]:
    """The blocks of both by point, added where a point is in both."""
    points = list(dict.fromkeys([*first[0], *second[0]]))
    place = {point: j for j, point in enumerate(points)}
    blocks = first[1].new_zeros(len(points), *first[1].shape[1:])
    for indices, part in (first, second):
        blocks[[place[i] for i in indices]] += part
    return points, blocks


def _together(changes: list[TrainingChange]) -> TrainingChange:
    """One change of a training for several; see :meth:`Sum.of_training`."""
    factors = _by_point([one.factors for one in changes])
    if any(factor < -1 for factor in factors.values()):
        raise bad_value(
            "change",
            expected="a sum that takes no more than the whole of a point",
            got=f"factors of {1 + min(factors.values()):g}",
            cure="Remove a point once, and reweight no point that is removed.",
        )
    gone = {point for one in changes for point, factor in one.factors.items() if factor <= -1}
    features = _by_point([one.features for one in changes])
    _refuse_both("a move and a removal", gone & features.keys())
    targets: dict[int, Tensor] = {}
    for one in changes:
        _refuse_both("two new targets", targets.keys() & one.targets.keys())
        targets |= one.targets
    _refuse_both("a new target and another factor", targets.keys() & factors.keys())
    return TrainingChange(
        features,
        factors,
        targets,
        tuple(pair for one in changes for pair in one.added),
        tuple(decay for one in changes for decay in one.decays),
        sum(one.rate for one in changes),
    )


def _by_point(parts: Sequence[Mapping[int, Any]]) -> dict[int, Any]:
    """The values of all parts by point, added where a point is in several."""
    total: dict[int, Any] = {}
    for part in parts:
        for point, value in part.items():
            total[point] = total[point] + value if point in total else value
    return total


def _refuse_both(what: str, points: set[int]) -> None:
    if points:
        raise bad_value(
            "change",
            expected="a sum that changes a point in one way",
            got=f"{what} of points {sorted(points)[:5]}",
            cure="Leave one of them out for these points.",
        )
