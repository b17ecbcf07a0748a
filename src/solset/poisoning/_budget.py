"""The perturbations that a poisoner may choose from: which points, how far, within which features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, prod
from typing import Any, Literal

import torch
from torch import Tensor

from solset.changes import Move, PointsChange, Relabel, Reweight
from solset.checks import checked, one_of
from solset.errors import bad_value
from solset.problem import Problem
from solset.risk import digest, has_number_targets
from solset.sets import Ball, Box, BoxedBall, ConvexSet, tangent_cone

_KINDS: dict[str, type[PointsChange]] = {"features": Move, "targets": Relabel, "factors": Reweight}


@checked
@dataclass(frozen=True, eq=False)
class Budget:
    """Which training points may change, how far, and within which valid features, targets or factors.

    Attributes:
        points: Distinct indices ``K`` of training points.
        radius: Largest norm of the change, in input units after preprocessing; zero leaves no room.
        norm: Norm of the change, ``"l2"`` or ``"linf"``.
        scope: Range of the norm: ``"per_point"`` bounds each point's change, ``"total"`` that of all points
            together.
        lower: Smallest valid feature (target, factor): a number, or a tensor that broadcasts to
            ``(|K|, *input)``.
        upper: Largest valid feature (target, factor): a number, or a tensor that broadcasts to
            ``(|K|, *input)``.
        of: Part of the data that changes: ``"features"``, ``"targets"`` that are numbers, or ``"factors"`` of
            the losses, which are 1 as trained and stay at least 0. The radius is in the same units.

    Raises:
        ValueError: If the radius is negative or not finite, norm or scope are unknown, or a bound is NaN.
    """

    points: Sequence[int]
    radius: float
    norm: Literal["l2", "linf"] = "l2"
    scope: Literal["per_point", "total"] = "per_point"
    lower: float | Tensor = -inf
    upper: float | Tensor = inf
    of: Literal["features", "targets", "factors"] = "features"

    def __post_init__(self) -> None:
        if not 0 <= self.radius < inf:
            raise bad_value(
                "radius", expected="finite and not negative", got=self.radius, cure="It is in input units."
            )
        one_of("norm", self.norm, ("l2", "linf"))
        one_of("scope", self.scope, ("per_point", "total"))
        one_of("of", self.of, tuple(_KINDS))
        for name in ("lower", "upper"):
            if bool(torch.isnan(torch.as_tensor(getattr(self, name))).any()):
                raise bad_value(name, expected="numbers", got="NaN", cure="Use an infinite bound for none.")

    def identity(self) -> dict[str, Any]:
        """The settings that distinguish this budget from others, in the types of JSON."""
        bounds = digest([torch.as_tensor(self.lower), torch.as_tensor(self.upper)])
        points = [int(i) for i in self.points]
        return {
            "points": points,
            "radius": float(self.radius),
            "norm": self.norm,
            "scope": self.scope,
            "of": self.of,
            "valid features": bounds,
        }

    def at(self, problem: Problem) -> "FeasibleSet":
        """The feasible perturbations of a problem's points.

        Args:
            problem: The trained point, whose data the bounds are for.

        Raises:
            ValueError: If points or bounds do not fit, or no perturbation is feasible.
        """
        kind, risk = self.kind(problem), problem.risk()
        if self.of == "features":
            risk.points.require_moving()
        if self.of == "targets" and not has_number_targets(risk):
            cure = "Take solset.poisoning.Flips, which changes class labels."
            raise bad_value("of", expected="'targets' only where they are numbers", got="labels", cure=cure)
        return self.around(kind.typical(risk))

    def kind(self, problem: Problem) -> PointsChange:
        """The kind of change that the budget bounds, of its points.

        Args:
            problem: Problem whose points the budget names.
        """
        return _KINDS[self.of](problem.check_points(self.points))

    def require_features(self) -> None:
        """Refuses a budget of targets or factors, where only features may move.

        Raises:
            ValueError: If targets or factors are meant.
        """
        if self.of != "features":
            cure = "solset.design_poisoning takes targets and factors."
            raise bad_value("budget", expected="one of features", got=f"one of {self.of}", cure=cure)

    def around(self, inputs: Tensor) -> "FeasibleSet":
        """The feasible perturbations of points with these features.

        Args:
            inputs: Features of the points that may move, ``(|K|, *input)``, in the order of ``points``.

        Raises:
            ValueError: If the bounds do not fit, or no perturbation is feasible.
        """
        lower, upper = (_expanded(name, getattr(self, name), inputs) for name in ("lower", "upper"))
        if self.of == "factors":  # no point counts less than nothing
            lower = lower.clamp(min=0.0)
        return FeasibleSet(self, inputs, lower, upper)


def _expanded(name: str, bound: float | Tensor, inputs: Tensor) -> Tensor:
    value = torch.as_tensor(bound, dtype=inputs.dtype, device=inputs.device)
    try:
        return value.expand(inputs.shape).clone()
    except RuntimeError:
        raise bad_value(
            name,
            expected=f"a number or a tensor that broadcasts to {tuple(inputs.shape)}",
            got=f"shape {tuple(value.shape)}",
            cure="Give one bound per feature, or per point and feature.",
        ) from None


@dataclass(frozen=True, eq=False)
class FeasibleSet:
    """The perturbations that a budget allows, ``{Δx : ‖Δx‖ ≤ r, lower ≤ x̄ + Δx ≤ upper}``.

    The set is a product of convex sets, one for each point or one for all. A point that :meth:`project`
    returns is inside to the last bit: its norm as computed is at most the radius, and ``x̄ + Δx`` as rounded
    lies in the box.

    Attributes:
        budget: Budget that the set belongs to.
        inputs: Features ``x̄`` of the points that may move, ``(|K|, *input)``.
        lower: Smallest valid features, in the shape of ``inputs``.
        upper: Largest valid features, in the shape of ``inputs``.
    """

    budget: Budget
    inputs: Tensor
    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        nearest = torch.minimum(torch.maximum(self.inputs, self.lower), self.upper) - self.inputs
        is_empty = bool((self.lower > self.upper).any()) or self.size(nearest) > self.budget.radius
        if is_empty:
            raise bad_value(
                "budget",
                expected="one that some perturbation keeps",
                got=f"an empty feasible set: valid features are {self.size(nearest):.3g} away from the "
                f"points, the radius is {self.budget.radius:g}, or lower exceeds upper",
                cure="Widen the box of valid features or the radius.",
            )

    def project(self, dx: Tensor) -> Tensor:
        """The nearest feasible perturbation.

        Args:
            dx: Any perturbation, ``(|K|, *input)``.

        Cost: a bisection of products of the size of ``dx`` where a ball and a box are both active.
        """
        return self._inside(self._blockwise(lambda part, block: part.project(block), dx))

    def tangent(self, dx: Tensor, direction: Tensor) -> Tensor:
        """The part of a direction that stays feasible to first order at ``dx``.

        It is the projection on the tangent cone: at an active bound, what leads out of it is removed.

        Args:
            dx: Feasible perturbation, ``(|K|, *input)``.
            direction: Direction to project, in the shape of ``dx``.
        """
        tol = 1e-8 if dx.dtype == torch.float64 else 1e-5
        blocks = zip(self._sets, self._split(dx), self._split(direction), strict=True)
        cones = [tangent_cone(part, here, distance_tol=tol).project(along) for part, here, along in blocks]
        return torch.stack(cones).reshape(dx.shape)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The step as long as the radius that raises a linear function most, without regard to the box.

        Args:
            gradient: Gradient of the function, ``(|K|, *input)``.
        """
        if self.budget.norm == "linf":
            return self.budget.radius * gradient.sign()
        blocks = [(block, float(torch.linalg.vector_norm(block))) for block in self._split(gradient)]
        longest = [(self.budget.radius / size) * block if size > 0 else block for block, size in blocks]
        return torch.stack(longest).reshape(gradient.shape)

    def farthest(self, gradient: Tensor) -> Tensor:
        """The feasible perturbation at which a linear function is largest.

        Args:
            gradient: Gradient of the function, ``(|K|, *input)``.
        """
        return self._inside(self._blockwise(_extreme, gradient))

    def random(self, generator: torch.Generator) -> Tensor:
        """A feasible perturbation along a random direction, as large as budget and box allow.

        Args:
            generator: Generator of the random direction.
        """
        draw = torch.randn(self.inputs.shape, generator=generator, dtype=torch.float64)
        return self.farthest(draw.to(self.inputs))

    def contains(self, dx: Tensor) -> bool:
        """Whether a perturbation lies in the budget and in the box, without any tolerance."""
        moved = self.inputs + dx
        in_box = bool(((moved >= self.lower) & (moved <= self.upper)).all())
        return in_box and self.size(dx) <= self.budget.radius

    def size(self, dx: Tensor) -> float:
        """The norm that the radius bounds: the largest over points, or that of all points together."""
        if self.budget.norm == "linf":
            return float(dx.abs().max())
        return max(float(torch.linalg.vector_norm(block)) for block in self._split(dx))

    def _split(self, dx: Tensor) -> list[Tensor]:
        """Flat blocks, each with a set of its own: one for each point, or one for all."""
        if self.budget.scope == "total":
            return [dx.reshape(-1)]
        return list(dx.reshape(len(dx), prod(dx.shape[1:])).unbind())

    def _blockwise(self, move: Callable[[ConvexSet, Tensor], Tensor], dx: Tensor) -> Tensor:
        moved = [move(part, block) for part, block in zip(self._sets, self._split(dx), strict=True)]
        return torch.stack(moved).reshape(dx.shape)

    @cached_property
    def _sets(self) -> list[ConvexSet]:
        bounds = zip(
            self._split(self.lower - self.inputs), self._split(self.upper - self.inputs), strict=True
        )
        return [self._set(lower, upper) for lower, upper in bounds]

    def _set(self, lower: Tensor, upper: Tensor) -> ConvexSet:
        radius = self.budget.radius
        if self.budget.norm == "linf":
            return Box(lower.clamp(min=-radius), upper.clamp(max=radius))
        return BoxedBall(Box(lower, upper), Ball(torch.zeros_like(lower), radius))

    def _inside(self, dx: Tensor) -> Tensor:
        """The perturbation without the excess that rounding put outside the box or the radius."""
        down, up = torch.full_like(dx, -inf), torch.full_like(dx, inf)
        for _ in range(64):
            if self.contains(dx):
                return dx
            moved = self.inputs + dx
            dx = torch.where(moved > self.upper, torch.nextafter(dx - (moved - self.upper), down), dx)
            dx = torch.where(moved < self.lower, torch.nextafter(dx + (self.lower - moved), up), dx)
            if self.size(dx) > self.budget.radius:
                dx = torch.nextafter(dx, torch.zeros_like(dx))
        return torch.minimum(torch.maximum(self.inputs, self.lower), self.upper) - self.inputs


def _extreme(part: ConvexSet, direction: Tensor) -> Tensor:
    if isinstance(part, BoxedBall):
        return part.farthest(direction)
    assert isinstance(part, Box)  # noqa: S101 - the only other kind that is built
    center = part.project(torch.zeros_like(direction))
    return torch.where(direction > 0, part.upper, torch.where(direction < 0, part.lower, center))
