"""The loss of a batch from those of its points, which count by factors."""

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from solset.errors import bad_value
from solset.risk import flat_rows, mapped, named_tensors
from solset.training._data import Batch

Loss = Callable[[Any, Any], Tensor]
CLOSE = 1e-4  # relative difference of two values of a loss that counts as rounding
EQUAL = 1e-5  # difference from 1 at which the weight of a class counts as that of the others


@dataclass(frozen=True, eq=False)
class LossByPoints:
    """A loss of a batch as ``Σ a_i c_i ℓ_i / Σ a_i c_i`` of its points, or as their sum ``Σ a_i ℓ_i``.

    The factors ``a_i`` belong to points, and are 1 at first. The weights ``c_i`` belong to labels, as class
    weights do; 0 is that of a label which the loss ignores. They are measured at batches of two points, for
    each label that is met, so that every loss that weighs classes has them, however it is written.
    """

    loss: Loss  # Function ``(outputs, targets) -> scalar``
    divides: bool  # Whether the loss of a batch is a mean by weights; it is a sum otherwise
    # Weight of each label met so far, relative to the first
    _table: dict[int, float] = field(default_factory=dict)
    # What the loss without its reduction gives a point of the first label, relative to its loss alone
    _unit: list[float] = field(default_factory=list)

    @cached_property
    def _losses(self) -> Loss:
        return losses_of(self.loss)

    @cached_property
    def _is_unreduced(self) -> bool:
        return is_unreduced(self.loss)

    def of_batch(self, batch: Batch, outputs: Sequence[Any]) -> Tensor:
        """The loss of a batch whose points have factors, or new labels on the way."""
        pairs = [self.terms(out, part.targets) for out, part in zip(outputs, batch.parts, strict=True)]
        terms, counts = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        if batch.shares is not None:
            there = [
                self.terms(out, part.targets if part.labels is None else part.labels)
                for out, part in zip(outputs, batch.parts, strict=True)
            ]
            shares = batch.shares.to(terms)
            terms, counts = (
                now + shares * (torch.cat(parts) - now)
                for now, parts in zip((terms, counts), zip(*there, strict=True), strict=True)
            )
        factors = torch.ones_like(terms) if batch.factors is None else batch.factors.to(terms)
        return self._total(factors * terms, factors * counts)

    def is_loss(self, value: Tensor, outputs: Any, targets: Any) -> bool:
        """Whether the loss of a batch is that of its points."""
        with torch.no_grad():
            terms, counts = self.terms(outputs, targets)
            total, scale = self._total(terms, counts), self._total(terms.abs(), counts)
        return abs(float(value) - float(total)) <= CLOSE * float(scale)

    def _total(self, terms: Tensor, counts: Tensor) -> Tensor:
        if not self.divides:
            return terms.sum()
        total = counts.sum()
        return terms.sum() / (total if float(total.detach()) != 0.0 else 1.0)

    def terms(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """``c_i ℓ_i`` and ``c_i`` of each point, each ``(b,)``."""
        if not self.divides or not _has_labels(outputs, targets):
            terms = self._losses(outputs, targets)
            return terms, torch.ones_like(terms)
        counts = self._counts(outputs, targets)
        seen = (counts > 0).nonzero().flatten()  # the loss of an ignored point by itself is 0/0
        if len(seen) == 0:
            return counts.to(outputs) + 0.0 * outputs.sum(), counts.to(outputs)
        rows = (outputs, targets) if len(seen) == len(outputs) else (outputs[seen], targets[seen])
        values = self._losses(*rows)  # their dtype may be another one than that of the outputs, and stays
        counts = counts.to(values)
        values = values / self._measured_unit(*rows) if self._is_unreduced else values * counts[seen]
        if len(seen) < len(outputs):
            values = values.new_zeros(len(outputs)).index_put((seen,), values)
        return values, counts

    def _counts(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The weight of each point, the mean of those of its labels, relative to the first label met."""
        labels, places = targets.detach().unique(return_inverse=True)
        for label in labels.tolist():
            if label not in self._table:
                self._measure(label, outputs, targets)
        numbers = [self._table.get(label, 0.0) for label in labels.tolist()]
        weights = outputs.new_tensor(numbers, dtype=torch.promote_types(outputs.dtype, torch.float32))
        return flat_rows(weights[places.reshape(targets.shape)]).mean(dim=1)

    def _measure(self, label: int, outputs: Tensor, targets: Tensor) -> None:
        """Notes the weight of a label, from batches of one point of it and one of the first label.

        A loss of probabilities is finite at some of the outputs that are tried only. An ignored label has no
        finite loss by itself at any of them, and adds nothing to that of another.
        """
        first = next(iter(self._table), label)
        stated, of_first = (_stated_weight(self.loss, each) for each in (label, first))
        if stated is not None and of_first:
            self._table[label] = stated / of_first
        if stated is not None and (of_first or label == first):
            return
        best, weight, is_ignored = 0.0, None, False
        for few in _tries(outputs):
            pair = torch.stack([torch.full_like(targets[0], each) for each in (label, first)])
            both, one, other = (self._value(few[i], pair[i]) for i in (slice(0, 2), slice(0, 1), slice(1, 2)))
            if label == first:
                weight = 1.0 if math.isfinite(one) else weight
            elif not math.isfinite(one):
                is_ignored |= math.isfinite(other) and abs(both - other) <= CLOSE * abs(other)
            elif abs(one - other) > best and both != one:
                best, weight = abs(one - other), (other - both) / (both - one)
        if weight is None and label == first:
            return  # ignored, and no label to compare with is known yet
        if weight is None:
            weight = 0.0 if is_ignored else 1.0
        self._table[label] = 1.0 if abs(weight - 1.0) <= EQUAL or not 0 <= weight < math.inf else weight

    def _value(self, outputs: Tensor, targets: Tensor) -> float:
        with torch.no_grad():
            return float(self.loss(outputs, targets))

    def _measured_unit(self, outputs: Tensor, targets: Tensor) -> float:
        if not self._unit:
            few = next(_tries(outputs))[:1]
            point = torch.full_like(targets[:1], next(iter(self._table)))
            with torch.no_grad():
                unreduced = float(self._losses(few, point))
            unit = unreduced / self._value(few, point) if unreduced else 1.0
            self._unit.append(1.0 if abs(unit - 1.0) <= EQUAL else unit)
        return self._unit[0]


def _stated_weight(loss: Loss, label: int) -> float | None:
    """The weight of a label that a loss of PyTorch states, 0 of an ignored one; ``None`` for other losses."""
    if type(loss) not in {nn.CrossEntropyLoss, nn.NLLLoss}:
        return None
    stated = cast("nn.CrossEntropyLoss", loss)
    if label == stated.ignore_index:
        return 0.0
    if stated.weight is None:
        return 1.0
    return float(stated.weight[label]) if 0 <= label < len(stated.weight) else None


def by_points(loss: Loss, outputs: Any, targets: Any) -> LossByPoints | None:
    """A loss by its points: a mean, by weights of labels or plain, or a sum; ``None`` if it is neither.

    Args:
        loss: Function ``(outputs, targets) -> scalar``.
        outputs: Outputs of a few points.
        targets: Targets of these points.

    Cost: the loss of these points, together and alone.
    """
    value = loss(outputs, targets).detach()
    is_sum = _reduction(loss) == "sum"
    for divides in (not is_sum, is_sum):
        rule = LossByPoints(loss, divides)
        if not bool(torch.isfinite(value)) or rule.is_loss(value, outputs, targets):
            return rule
    return None


def refuse_factors(got: str) -> ValueError:
    """The error for factors of points in a loss that does not come from them."""
    return bad_value(
        "change",
        expected="one of features alone, since the loss is no mean and no sum over the points of a batch",
        got=got,
        cure="Use a loss that is a mean or a sum of each point's own loss, with class weights or without.",
    )


def losses_of(loss: Loss) -> Loss:
    """A function of outputs and targets that returns the loss of each point of a batch, ``(b,)``.

    Args:
        loss: Function ``(outputs, targets) -> scalar``, a mean or a sum over the points of a batch; a loss
            with the option ``reduction`` is asked for all points at once, others point by point.
    """
    unreduced = _unreduced(loss)
    if unreduced is None:
        return lambda outputs, targets: _one_by_one(loss, outputs, targets)
    is_sum = _reduction(loss) == "sum"

    def losses(outputs: Any, targets: Any) -> Tensor:
        values = unreduced(outputs, targets)
        if values.ndim <= 1:
            return values
        return flat_rows(values).sum(dim=1) if is_sum else flat_rows(values).mean(dim=1)

    return losses


def is_unreduced(loss: Loss) -> bool:
    """Whether the losses of points come from the loss itself without its reduction.

    Args:
        loss: Function ``(outputs, targets) -> scalar``.
    """
    return _reduction(loss) in {"mean", "sum"}


def _has_labels(outputs: Any, targets: Any) -> bool:
    is_tensor = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    return is_tensor and not targets.is_floating_point() and not targets.is_complex()


def _tries(outputs: Tensor) -> Any:
    """Outputs of two points to try a loss at, reals and then probabilities."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, *outputs.shape[1:])
    for size in (1.0, 3.0):
        yield size * torch.randn(shape, generator=generator, dtype=torch.float64).to(outputs)
    yield torch.randn(shape, generator=generator, dtype=torch.float64).softmax(dim=-1).to(outputs)


def _one_by_one(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    count = len(named_tensors(outputs)[0][1])

    def of_point(tree: Any, i: int) -> Any:
        return mapped(tree, lambda value, _: value[i : i + 1] if isinstance(value, Tensor) else value)

    return torch.stack([loss(of_point(outputs, i), of_point(targets, i)) for i in range(count)]).reshape(-1)


def _reduction(loss: Loss) -> str | None:
    """The reduction that a loss states; ``None`` where it has no such option."""
    if isinstance(loss, nn.Module):
        return getattr(loss, "reduction", None)
    try:
        parameters = inspect.signature(loss).parameters
    except (TypeError, ValueError):
        return None
    return parameters["reduction"].default if "reduction" in parameters else None


def _unreduced(loss: Loss) -> Loss | None:
    if not is_unreduced(loss):
        return None
    if isinstance(loss, nn.Module):
        twin = copy.copy(loss)  # shares its tensors with the user's loss, which stays as it is
        twin.reduction = "none"  # type: ignore[assignment]
        return twin
    return cast("Loss", partial(cast("Any", loss), reduction="none"))
