"""The numbers of an audit, batch of points after batch, each a few tensors that can be kept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from solset.derivatives import Linearisation
from solset.modulus._audit_interpolating import Constraints, IsolatedRows, data_blocks
from solset.modulus._audit_stationary import stationary_sensitivity
from solset.modulus._blocks import Sensitivity, isolated_blocks
from solset.modulus._peers import gradient_norms
from solset.operators import Jacobian
from solset.problem import Problem

Batch = dict[str, Tensor]
STATIONARY_BATCH = 16


@dataclass(frozen=True)
class JointAudit:
    """All constraints hold: every batch reads its blocks from one decomposition.

    Attributes:
        problem: The trained point.
        gradient: Of the validation loss, if there is one, ``(p,)``.
        slopes: ``∇_f L`` of every point, ``(n, c)``.
    """

    problem: Problem
    gradient: Tensor | None
    slopes: Tensor

    @cached_property
    def constraints(self) -> Constraints:
        """The Gram matrix with its decomposition."""
        return Constraints.of(self.problem)

    @property
    def at_once(self) -> int:
        """Points of a batch."""
        return self.problem.risk().batch_size

    @cached_property
    def _pulled(self) -> Tensor | None:
        """``(JJᵀ)⁺ J ∇ℓ``, ``(n, c)``."""
        if self.gradient is None:
            return None
        return self.constraints.solve((Jacobian(self.problem.risk()) @ self.gradient).to(torch.float64))

    def batch(self, chosen: Sequence[int]) -> Batch:
        """The numbers of some points.

        Args:
            chosen: Which.
        """
        parts = []
        for own, data in data_blocks(self.problem.risk(), chosen):
            found = self.constraints.joint(own, data).sensitivity()
            alone = self.constraints.isolated(own, data).sensitivity()
            pulled = None if self._pulled is None else self._pulled[own]
            n, c = len(self.slopes), self.problem.output_count
            squares = self.constraints.gram.reshape(n, c, n, c)[own, :, own]
            parts.append(
                {
                    **_numbers(found, data, pulled),
                    "modulus": found.modulus,
                    "isolated_modulus": alone.modulus,
                    "gradient_norm": gradient_norms(self.slopes[own], squares),
                }
            )
        return _joined(parts)


@dataclass(frozen=True)
class IsolatedAudit:
    """Each point's own constraint alone; attributes as those of :class:`JointAudit`."""

    problem: Problem
    gradient: Tensor | None
    slopes: Tensor

    @cached_property
    def _rows(self) -> IsolatedRows:
        return IsolatedRows(self.problem.risk(), self.problem.output_count, self.problem.memory_budget)

    @property
    def at_once(self) -> int:
        """Points of a batch."""
        return self._rows.at_once

    def batch(self, chosen: Sequence[int]) -> Batch:
        """The numbers of some points.

        Args:
            chosen: Which.
        """
        own = self._rows.squares(chosen, self.gradient)
        data = own.by_inputs.to(torch.float64)
        blocks = isolated_blocks(own.gram, data, self._rows.tolerance)
        found = blocks.sensitivity()
        pulled = None if self.gradient is None else torch.einsum("bij,bj->bi", blocks.inverse, own.pushed)
        return {
            **_numbers(found, data, pulled),
            "isolated_modulus": found.modulus,
            "gradient_norm": gradient_norms(self.slopes[list(chosen)], own.gram),
        }


@dataclass(frozen=True)
class StationaryAudit:
    """The Hessian or its Gauss–Newton form answers; attributes as before, and the linearisation."""

    problem: Problem
    gradient: Tensor | None
    slopes: Tensor
    line: Linearisation
    at_once: int = STATIONARY_BATCH

    def batch(self, chosen: Sequence[int]) -> Batch:
        """The numbers of some points.

        Args:
            chosen: Which.
        """
        risk, parts = self.problem.risk(), []
        scale = risk.total if risk.reduction == "mean" else 1.0
        for point in chosen:
            answered, own = stationary_sensitivity(risk, self.line, point), risk.select([point])
            found = answered.sensitivity
            part = {
                "modulus": found.modulus,
                "direction": found.direction,
                "map": found.maps,
                "gradient_norm": scale * own.gradient().norm().reshape(1).to(torch.float64),
                "is_solved": torch.tensor([answered.is_solved]),
            }
            if self.gradient is not None:
                effect = answered.change @ self.gradient.to(torch.float64)
                sign = torch.where(effect < 0, -1.0, 1.0)
                shown = effect.abs() if answered.is_solved else torch.full_like(effect, float("nan"))
                part |= {"direction": sign * found.direction, "validation_change": shown.reshape(1)}
            parts.append(part)
        return _joined(parts)


AuditRoute = JointAudit | IsolatedAudit | StationaryAudit


def each_batch(
    route: AuditRoute, chosen: Sequence[int], keep: Callable[[int, int, Callable[[], Batch]], Batch]
) -> Iterator[tuple[int, Batch]]:
    """Batch after batch: how many points it has, and its numbers.

    Args:
        route: Computes them.
        chosen: ``K``.
        keep: From a number, the count of points and what computes that batch, to the batch, perhaps from
            an earlier run.
    """
    for number, start in enumerate(range(0, len(chosen), route.at_once)):
        part = list(chosen[start : start + route.at_once])
        yield len(part), keep(number, len(part), lambda part=part: route.batch(part))


def _numbers(found: Sensitivity, data: Tensor, pulled: Tensor | None) -> Batch:
    """Direction and map; with a validation loss its slope, and the direction along which it rises."""
    if pulled is None:
        return {"direction": found.direction, "map": found.maps}
    slope = -torch.einsum("bcd,bc->bd", data, pulled)  # of the validation loss in the features
    effect = (slope * found.direction).sum(dim=1)
    sign = torch.where(effect < 0, -torch.ones_like(effect), torch.ones_like(effect))
    unknown = torch.full_like(effect, float("nan"))
    answered = torch.isfinite(found.modulus)  # no change of the weights answers a direction otherwise
    return {
        "direction": sign.unsqueeze(1) * found.direction,
        "map": found.maps,
        "validation_change": torch.where(answered, effect.abs(), unknown),
        "validation_slope": torch.where(answered, slope.norm(dim=1), unknown),
    }


def _joined(parts: list[Batch]) -> Batch:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
