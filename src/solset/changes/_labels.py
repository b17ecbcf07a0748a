"""Targets of points that change: numbers by a derivative, class labels by the two losses."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from solset.changes._change import Change, Exchange, PointsChange, TrainingChange
from solset.changes._factors import Term, columns, exchanged, mixed
from solset.checks import points_of, shaped
from solset.errors import bad_type, bad_value
from solset.linalg import BlockDiagonal, InRows, LinearOperator, Product, Space
from solset.operators import Jacobian, TargetSlopes, fitted_outputs, output_answer
from solset.risk import (
    EmpiricalRisk,
    has_number_targets,
    new_factors,
    plain_targets,
    target_form,
    target_rows,
    with_targets,
)


@dataclass(frozen=True, eq=False)
class Relabel(PointsChange):
    """The targets of some training points change.

    - Targets that are real numbers, as in regression and for soft labels, move: to first order the gradient
      of the risk changes by ``α Jᵀ (∂²_{f,y} L) Δy``. Where the data are fitted, the outputs follow:
      ``Λ Δf = -∂²_{f,y} L Δy``, which is ``Δf = Δy`` for a squared loss.
    - Labels that are whole numbers, as of classes, jump: the gradient changes by
      ``α Σ_k (∇ℓ_k^new - ∇ℓ_k^old)``, each with the weight of its class. Where the data are fitted, the
      outputs go to the minimum of the new loss; cross-entropy has none, and is refused.

    Attributes:
        points: Indices of the points, in the order of the targets; ``None`` stands for all points.
        targets: New targets ``(len(points), *target)``, like those of training; a sequence will do. ``None``
            stands for numbers that move by any length, of which a derivative is asked.

    Example:
        >>> Relabel([3, 5], [1, 0])
        Relabel(points 3, 5; to 1, 0)
    """

    targets: Any = None

    def of_gradient(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """The derivative in the targets, or between the losses; arguments as for every change."""
        if not has_number_targets(risk):
            return columns(risk, self._terms(risk), divides=True)
        losses = self._losses(risk)
        return Product(Jacobian(losses).T, TargetSlopes(losses))

    def of_outputs(self, risk: EmpiricalRisk, memory_budget: int) -> LinearOperator:  # noqa: ARG002
        """What the new targets ask of the outputs; arguments as for every change."""
        chosen, losses = self.chosen(risk), self._losses(risk)
        if has_number_targets(risk):
            answer = output_answer(TargetSlopes(losses), losses)
        else:
            answer = (losses.outputs() - fitted_outputs(self._terms(risk)[0].losses)).unsqueeze(2)
        c = answer.shape[1]
        places = torch.as_tensor(chosen, device=answer.device).unsqueeze(1) * c
        rows = (places + torch.arange(c, device=answer.device)).reshape(-1)
        return InRows(BlockDiagonal(answer), rows, len(risk.points) * c)

    def is_finite(self, risk: EmpiricalRisk) -> bool:
        """Whether the targets are labels, which jump; argument as for every change."""
        return not has_number_targets(risk)

    def exchange(self, risk: EmpiricalRisk) -> Exchange:
        """The losses with the old targets leave, those with the new ones come; argument as usual."""
        new, old = self._terms(risk)
        return exchanged(risk, [old, new], divides=True)

    def space(self, risk: EmpiricalRisk) -> Space:
        """The shape of the targets that move, or one number per label; argument as for every change."""
        shape = target_form(risk)[0] if has_number_targets(risk) else ()
        return Space("dy", (len(self.chosen(risk)), *shape), risk.weights.dtype, risk.weights.device)

    def direction(self, risk: EmpiricalRisk) -> Tensor:
        """The change of the targets, or 1 for each label; argument as for every change."""
        _refuse_own_input(risk)
        chosen = self.chosen(risk)
        new = target_rows(risk, self.targets, len(chosen))
        if not has_number_targets(risk):
            self._terms(risk)  # refuses labels that the loss does not take
            return risk.weights.new_ones(len(chosen))
        if self._new_factors(risk, chosen, new) is not None:
            self._require_same_factors(risk, new)
        return (new - plain_targets(risk, risk.points[chosen][1]).to(new.dtype)).to(risk.weights).reshape(-1)

    def applied_to(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        """The risk with the new targets; argument as for every change."""
        self.direction(risk)
        chosen = self.chosen(risk)
        rows = target_rows(risk, self.targets, len(chosen))
        factors = self._new_factors(risk, chosen, rows)
        changed = with_targets(risk, chosen, rows, factors)
        if factors is None or has_number_targets(risk):
            return changed
        old, new = (term.factors.sum() for term in reversed(self._terms(risk)))
        return replace(changed, total=float(risk.total + new - old))

    def partly(self, risk: EmpiricalRisk, share: float, base: EmpiricalRisk | None = None) -> EmpiricalRisk:
        """Targets on their way, or both losses with factors that add up; arguments as for every change."""
        if not has_number_targets(risk):
            steps = risk.weights.new_full((len(self.chosen(risk)),), share)
            return mixed(risk, self._terms(base or risk), steps, divides=True)
        chosen = self.chosen(risk)
        old = plain_targets(risk, risk.points[chosen][1])
        way = self.direction(risk).reshape(old.shape).to(old.dtype)
        factors = new_factors(risk, risk.points[chosen][0], old, chosen)
        return with_targets(risk, chosen, old + share * way, factors)

    def pull(self, there: EmpiricalRisk, base: EmpiricalRisk, direction: Tensor) -> Tensor:
        """The derivative of the gradient on the way; arguments as for every change."""
        if has_number_targets(base):
            return self.of_gradient(there, 0) @ direction
        return columns(there, self._terms(base), divides=True) @ direction

    def along(self, risk: EmpiricalRisk, coordinates: Tensor) -> Change | None:
        """The targets that move by other numbers; ``None`` for labels; arguments as for every change."""
        if not has_number_targets(risk):
            return None
        old = plain_targets(risk, risk.points[self.chosen(risk)][1])
        return replace(self, targets=old + coordinates.reshape(old.shape).to(old.dtype))

    def typical(self, risk: EmpiricalRisk) -> Tensor:
        """The targets of the points, where they are numbers; argument as for every change."""
        if not has_number_targets(risk):
            return super().typical(risk)
        old = plain_targets(risk, risk.points[self.chosen(risk)][1])
        return old.to(risk.weights).reshape(self.space(risk).shape)

    def moves_data(self, risk: EmpiricalRisk) -> bool:
        """Whether the targets are numbers; argument as for every change."""
        return has_number_targets(risk)

    def outputs_after(self, risk: EmpiricalRisk) -> Tensor:
        """The outputs that fit the new targets at the points; argument as for every change."""
        outputs, chosen = risk.outputs(), self.chosen(risk)
        outputs[chosen] = fitted_outputs(self.applied_to(risk).select(chosen))
        return outputs

    def labels_after(self, targets: Tensor) -> Tensor:
        """The targets with the new ones among them; argument as for every change."""
        after = targets.clone()
        chosen = list(range(len(targets))) if self.points is None else [int(i) for i in self.points]
        after[chosen] = torch.as_tensor(self.targets, device=targets.device).to(targets.dtype)
        return after

    def coordinates(self, risk: EmpiricalRisk) -> Hashable:
        """The points where numbers move, and the change itself for labels; argument as for every change."""
        return super().coordinates(risk) if has_number_targets(risk) else self

    def of_training(self, count: int, features: Callable[[], Space]) -> TrainingChange:  # noqa: ARG002
        """The new target of each point; arguments as for every change."""
        chosen, cure = points_of(self.points, count), "Pass one new target for each point, like in training."
        try:
            targets = torch.as_tensor(self.targets).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            got = type(self.targets).__name__
            raise bad_type("targets", expected="numbers or class labels", got=got, cure=cure) from error
        shaped("targets", targets, (len(chosen), *targets.shape[1:]), cure=cure)
        return TrainingChange(targets=dict(zip(chosen, targets, strict=True)))

    def _losses(self, risk: EmpiricalRisk) -> EmpiricalRisk:
        _refuse_own_input(risk)
        return risk.select(self.chosen(risk))

    def _terms(self, risk: EmpiricalRisk) -> list[Term]:
        """The losses with the new labels, and those with the old ones, which make room for them."""
        chosen = self.chosen(risk)
        old = self._losses(risk)
        rows = target_rows(risk, self.targets, len(chosen))
        factors = self._new_factors(risk, chosen, rows)
        new = with_targets(old, range(len(chosen)), rows, factors)
        return [Term(new, None), Term(old, chosen, -1.0)]

    def _new_factors(self, risk: EmpiricalRisk, chosen: list[int], rows: Tensor) -> Tensor | None:
        """The factors with which the new targets count, computed once for a risk and its new targets."""
        return self._latest.of(risk, rows, lambda: new_factors(risk, risk.points[chosen][0], rows, chosen))

    @cached_property
    def _latest(self) -> "_LatestFactors":
        return _LatestFactors()

    def _require_same_factors(self, risk: EmpiricalRisk, rows: Tensor) -> None:
        chosen = self.chosen(risk)
        inputs, targets = risk.points[chosen]
        before, after = (
            new_factors(risk, inputs, one, chosen) for one in (plain_targets(risk, targets), rows)
        )
        close = 1e3 * torch.finfo(risk.weights.dtype).eps
        if before is None or after is None or bool(((after - before).abs() > close * before).any()):
            raise bad_value(
                "targets",
                expected="numbers on which the weights of the points in the loss do not depend",
                got="targets that change by how much their points count",
                cure="Remove the points and add them with the new targets.",
            )

    @cached_property
    def _text(self) -> str:
        if self.targets is None:
            return "to any numbers"
        if isinstance(self.targets, Tensor) and (self.targets.ndim != 1 or len(self.targets) > 5):
            return f"to targets of shape {tuple(self.targets.shape)}"
        values = self.targets.tolist() if isinstance(self.targets, Tensor) else self.targets
        return f"to {', '.join(map(str, values))}" if isinstance(values, list) else "to new targets"

    def __repr__(self) -> str:
        return f"Relabel({self.named}; {self._text})"


class _LatestFactors:
    """The factors of new targets that were asked for last, since several products ask for the same ones."""

    def __init__(self) -> None:
        self._risk: Callable[[], EmpiricalRisk | None] = lambda: None
        self._targets = torch.empty(0)
        self._factors: Tensor | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _LatestFactors, ()  # a copy in another process knows no risk of this one

    def of(self, risk: EmpiricalRisk, targets: Tensor, compute: Callable[[], Tensor | None]) -> Tensor | None:
        """The factors for a risk and new targets, computed where others were asked for last."""
        if self._risk() is not risk or not torch.equal(self._targets, targets):
            self._factors = compute()
            self._risk, self._targets = ref(risk), targets.clone()
        return self._factors


def _refuse_own_input(risk: EmpiricalRisk) -> None:
    if risk.door.moves_target:
        raise bad_value(
            "change",
            expected="no change of targets where each is its own input",
            got="Relabel",
            cure="Move the features: the targets move with them.",
        )
