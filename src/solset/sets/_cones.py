"""Tangent and normal cones of convex sets (Rockafellar & Wets, chapter 6)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.errors import bad_type, bad_value
from solset.sets._affine import AffineSet
from solset.sets._bodies import Ball, Box, Halfspace, Simplex, drained
from solset.sets._convex import ConvexSet, slack_at
from solset.sets._intersections import BoxedBall, BoxedCone
from solset.sets._polyhedron import Polyhedron


@dataclass(frozen=True, eq=False, repr=False)
class Polar(ConvexSet):
    """The polar ``K* = {v : ⟨v, u⟩ ≤ 0 for all u ∈ K}`` of a closed convex cone.

    Its projection is Moreau's: ``v`` minus the projection on ``K``.
    """

    cone: ConvexSet  # Closed convex cone ``K``

    @property
    def size(self) -> int:
        """Length of the vectors."""
        return self.cone.size

    def _nearest(self, point: Tensor) -> Tensor:
        return point - self.cone.project(point)


@dataclass(frozen=True, eq=False, repr=False)
class Subspace(ConvexSet):
    """The direction space ``ker A`` of an affine set."""

    affine: AffineSet  # Affine set with that direction space

    @property
    def size(self) -> int:
        """Length of the vectors."""
        return len(self.affine.reference)

    def _nearest(self, point: Tensor) -> Tensor:
        return self.affine.directions(point.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True, eq=False, repr=False)
class _SimplexTangent(ConvexSet):
    """The cone ``{v : Σ v = 0, v ≥ 0 where signed}``."""

    signed: Tensor

    @property
    def size(self) -> int:
        return len(self.signed)

    def _nearest(self, point: Tensor) -> Tensor:
        return drained(point, self.signed, 0.0)


def tangent_cone(closed: ConvexSet | AffineSet, point: Tensor, *, distance_tol: float = 1e-8) -> ConvexSet:
    """The tangent cone ``T_C(x)``: the directions that stay in ``C`` to first order.

    Args:
        closed: Set ``C``: a ball, box, boxed ball, halfspace, simplex, polyhedron or affine set.
        point: Point ``x`` of ``C``, ``(p,)``.
        distance_tol: Relative distance that counts as zero: a constraint within
            ``distance_tol · max(1, ‖x‖)`` of its bound is active, and a point that far outside is in ``C``.

    Returns:
        A closed convex cone; ``project`` gives the feasible part of a direction.

    Raises:
        ValueError: If ``x`` is not in ``C``.
        TypeError: If no tangent cone is known for this kind of set.

    Example:
        >>> pixels = Box(torch.zeros(2), torch.ones(2))
        >>> tangent_cone(pixels, torch.tensor([0.0, 0.5])).project(torch.tensor([-1.0, -1.0]))
        tensor([ 0., -1.])
    """
    if not closed.contains(point, distance_tol=distance_tol):
        raise bad_value(
            "point",
            expected="a point of the set",
            got=f"one at distance {closed.distance(point):.3g}",
            cure="Project it on the set first.",
        )
    near = slack_at(point, distance_tol)
    match closed:
        case Box(lower=lower, upper=upper):
            return Box(_unless(point - lower > near, -torch.inf), _unless(upper - point > near, torch.inf))
        case Ball(center=center, radius=radius):
            if radius <= near:
                return Box(torch.zeros_like(point), torch.zeros_like(point))
            outward = point - center
            is_inside = float(torch.linalg.vector_norm(outward)) < radius - near
            return _everything(point) if is_inside else Halfspace(outward, 0.0)
        case BoxedBall(box=box, ball=ball):
            return _both(*(tangent_cone(part, point, distance_tol=distance_tol) for part in (box, ball)))
        case Halfspace(normal=normal, offset=offset):
            slack = (offset - float(normal @ point)) / float(torch.linalg.vector_norm(normal))
            return _everything(point) if slack > near else Halfspace(normal, 0.0)
        case Polyhedron(matrix=matrix):
            active = closed.slack(point) <= near
            return Polyhedron(matrix[active], torch.zeros_like(closed.bounds[active]))
        case Simplex():
            return _SimplexTangent(point <= near)
        case AffineSet():
            return Subspace(closed)
    raise bad_type(
        "closed",
        expected="a ball, box, boxed ball, halfspace, simplex, polyhedron or affine set",
        got=type(closed).__name__,
        cure="Describe it by one of them.",
    )


def normal_cone(closed: ConvexSet | AffineSet, point: Tensor, *, distance_tol: float = 1e-8) -> ConvexSet:
    """The normal cone ``N_C(x) = {v : ⟨v, u - x⟩ ≤ 0 for all u ∈ C}``, the polar of the tangent cone.

    Args:
        closed: Set ``C``, of a kind that :func:`tangent_cone` takes.
        point: Point ``x`` of ``C``, ``(p,)``.
        distance_tol: As for :func:`tangent_cone`.

    Raises:
        ValueError: If ``x`` is not in ``C``.
        TypeError: If no tangent cone is known for this kind of set.

    Example:
        >>> ball = Ball(torch.zeros(2), 1.0)
        >>> normal_cone(ball, torch.tensor([1.0, 0.0])).project(torch.tensor([2.0, 3.0]))
        tensor([2., 0.])
    """
    return Polar(tangent_cone(closed, point, distance_tol=distance_tol))


def _both(sides: ConvexSet, cap: ConvexSet) -> ConvexSet:
    """The directions that the cone of a box and that of a ball share."""
    match sides, cap:
        case Box(), Halfspace():
            return BoxedCone(sides, cap)
        case Box(), Box():  # the ball is inactive, or a single point
            return Box(torch.maximum(sides.lower, cap.lower), torch.minimum(sides.upper, cap.upper))
    return sides


def _unless(is_free: Tensor, bound: float) -> Tensor:
    """Zero; the bound at each free coordinate."""
    return torch.where(is_free, bound, 0.0)


def _everything(point: Tensor) -> Box:
    return Box(torch.full_like(point, -torch.inf), torch.full_like(point, torch.inf))
