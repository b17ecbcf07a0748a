"""The numbers of an audit, batch of points after batch, each a few tensors that can be kept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from solset.changes import Move, PointsChange
from solset.derivatives import Linearisation
from solset.errors import Status
from solset.linalg import LeftSide, largest_ratios, largest_singular
from solset.modulus._audit_interpolating import Constraints, IsolatedRows, data_blocks
from solset.modulus._peers import gradient_norms
from solset.operators import Jacobian
from solset.problem import Problem


@dataclass(frozen=True)
class Sensitivity:
    """How far each point of a batch moves the weights."""

    modulus: Tensor  # Lipschitz moduli ``(b,)``, in weight units per input unit
    direction: Tensor  # Unit data directions that attain them, ``(b, d)``; zero where nothing moves
    maps: Tensor  # Change of the weights per unit of each feature, ``‖A⁺ C e_j‖``, ``(b, d)``


def sensitivity(side: LeftSide, data: Tensor) -> Sensitivity:
    """The sensitivity to points whose outputs are constraints.

    Args:
        side: Left side of the constraints, seen at the rows of each point.
        data: Derivative ``J_{x,k}`` of each point's outputs in its features, ``(b, c, d)``.
    """
    values, vectors = torch.linalg.eigh(data @ data.mT)
    ratios = largest_ratios(side, vectors * values.clamp_min(0).sqrt().unsqueeze(-2))
    inverse = side.half.mT @ side.half
    maps = torch.einsum("bcd,bce,bed->bd", data, inverse, data).clamp_min(0).sqrt()
    moved = torch.einsum("bcd,bcl->bdl", data, side.kernel @ ratios.leaking).norm(dim=2)
    is_moved = moved > (side.resolution * ratios.size).unsqueeze(1)
    infinite = torch.full_like(maps, float("inf"))
    return Sensitivity(
        ratios.value,
        _unit(torch.einsum("bcd,bc->bd", data, ratios.attained_at(side))),
        torch.where(is_moved & ratios.value.isinf().unsqueeze(1), infinite, maps),
    )


def sensitivity_of_answers(answers: Tensor) -> Sensitivity:
    """The sensitivity to one point from the changes of the weights that its features cause.

    Args:
        answers: Matrix ``H⁺B_k``, ``(p, d)``.
    """
    modulus, left = largest_singular(answers)
    return Sensitivity(modulus.reshape(1), _unit((left @ answers).unsqueeze(0)), answers.norm(dim=0)[None])


def _unit(directions: Tensor) -> Tensor:
    lengths = directions.norm(dim=1, keepdim=True)
    return torch.where(lengths > 0, directions / lengths.clamp_min(1e-300), directions)


Batch = dict[str, Tensor]
STATIONARY_BATCH = 16


@dataclass(frozen=True)
class JointAudit:
    """The audit where all constraints hold: every batch reads one decomposition."""

    problem: Problem  # Problem whose training set is fitted
    change: PointsChange  # Change of points, whose coordinates are answered for each point by itself
    gradient: Tensor | None  # Gradient of the validation loss, if there is one, ``(p,)``
    slopes: Tensor  # Loss gradient ``∇_f L`` in the outputs of every point, ``(n, c)``

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
        pushed = (Jacobian(self.problem.risk()) @ self.gradient).to(torch.float64)
        return self.constraints.side.solve(pushed.reshape(-1)).reshape_as(self.slopes)

    def batch(self, points: Sequence[int]) -> Batch:
        """The numbers of some points."""
        parts = []
        for batch, data in data_blocks(self.problem.risk(), self.change, points):
            joint = sensitivity(self.constraints.joint(batch), data)
            isolated = sensitivity(self.constraints.isolated(batch), data)
            pulled = None if self._pulled is None else self._pulled[batch]
            parts.append(
                {
                    **_numbers(joint, data, pulled),
                    "modulus": joint.modulus,
                    "isolated_modulus": isolated.modulus,
                    "gradient_norm": gradient_norms(self.slopes[batch], self.constraints.squares(batch)),
                }
            )
        return joined(parts)


@dataclass(frozen=True)
class IsolatedAudit:
    """The audit of each point's own constraint alone; attributes as those of :class:`JointAudit`."""

    problem: Problem
    change: PointsChange
    gradient: Tensor | None
    slopes: Tensor

    @cached_property
    def _rows(self) -> IsolatedRows:
        return IsolatedRows(self.problem.risk(), self.problem.output_count, self.problem.memory_budget)

    @property
    def at_once(self) -> int:
        """Points of a batch."""
        return self._rows.at_once

    def batch(self, points: Sequence[int]) -> Batch:
        """The numbers of some points."""
        squares = self._rows.squares(points, self.gradient)
        side, data = self._rows.side(squares.gram), squares.by_inputs.to(torch.float64)
        if not isinstance(self.change, Move):
            blocks = data_blocks(self.problem.risk(), self.change, points)
            data = torch.cat([block for _, block in blocks])
        isolated = sensitivity(side, data)
        return {
            **_numbers(isolated, data, None if self.gradient is None else side.solve(squares.pushed)),
            "isolated_modulus": isolated.modulus,
            "has_full_rank": (side.half != 0).any(dim=2).all(dim=1),
            "gradient_norm": gradient_norms(self.slopes[list(points)], squares.gram),
        }


@dataclass(frozen=True)
class StationaryAudit:
    """The audit by the Hessian or its Gauss–Newton form, where the loss is not fitted.

    Attributes as those of :class:`JointAudit`, and the linearisation whose constraint is solved.
    """

    problem: Problem
    change: PointsChange
    gradient: Tensor | None
    slopes: Tensor
    line: Linearisation
    at_once: int = STATIONARY_BATCH

    def batch(self, points: Sequence[int]) -> Batch:
        """The numbers of some points.

        Cost: the products that write out the ``d`` columns of each point (for features ``d`` second-order
        sweeps over it, or ``p`` if fewer), and as many solves.
        """
        return joined([self._of_point(point) for point in points])

    def _of_point(self, point: int) -> Batch:
        risk = self.problem.risk()
        columns = replace(self.change, points=[point]).of_gradient(risk, 0).to_dense()
        solution = self.line.system.solve(columns)
        answers, is_solved = -solution.value.to(torch.float64), solution.status is Status.CONVERGED
        point_sensitivity = sensitivity_of_answers(answers)
        scale = risk.total if risk.reduction == "mean" else 1.0
        norm = scale * risk.select([point]).gradient().norm()
        part = {
            "modulus": point_sensitivity.modulus,
            "direction": point_sensitivity.direction,
            "map": point_sensitivity.maps,
            "gradient_norm": norm.reshape(1).to(torch.float64),
            "is_solved": torch.tensor([is_solved]),
        }
        if not is_solved:
            is_empty = solution.status is Status.INCONSISTENT
            part["modulus"] = torch.full_like(part["modulus"], float("inf") if is_empty else float("nan"))
        if self.gradient is not None:
            effect = answers @ part["direction"][0] @ self.gradient.to(torch.float64)
            shown = effect.abs() if is_solved else torch.full_like(effect, float("nan"))
            part |= {"direction": _sign(effect) * part["direction"], "validation_change": shown.reshape(1)}
        return part


@runtime_checkable
class AuditRoute(Protocol):
    """The kind of an audit, which computes the numbers of its points batch by batch."""

    @property
    def at_once(self) -> int:
        """Points of a batch."""
        ...

    def batch(self, points: Sequence[int]) -> Batch:
        """The numbers of some points."""
        ...


def each_batch(
    route: AuditRoute, points: Sequence[int], keep: Callable[[int, int, Callable[[], Batch]], Batch]
) -> Iterator[tuple[int, Batch]]:
    """Batch after batch: the number of its points, and its numbers."""
    for number, start in enumerate(range(0, len(points), route.at_once)):
        part = list(points[start : start + route.at_once])
        yield len(part), keep(number, len(part), lambda part=part: route.batch(part))


def _numbers(points: Sensitivity, data: Tensor, pulled: Tensor | None) -> Batch:
    """Direction and map; with a validation loss its slope, and the direction along which it rises."""
    if pulled is None:
        return {"direction": points.direction, "map": points.maps}
    slope = -torch.einsum("bcd,bc->bd", data, pulled)  # of the validation loss in the features
    effect = (slope * points.direction).sum(dim=1)
    unknown = torch.full_like(effect, float("nan"))
    answered = torch.isfinite(points.modulus)  # no change of the weights answers a direction otherwise
    return {
        "direction": _sign(effect).unsqueeze(1) * points.direction,
        "map": points.maps,
        "validation_change": torch.where(answered, effect.abs(), unknown),
        "validation_slope": torch.where(answered, slope.norm(dim=1), unknown),
    }


def _sign(effect: Tensor) -> Tensor:
    return torch.where(effect < 0, -torch.ones_like(effect), torch.ones_like(effect))


def joined(parts: list[Batch]) -> Batch:
    """The numbers of several batches, one after another."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
