"""Distance, excess and Pompeiu–Hausdorff distance of sets (Definition 1), and their limits (Definition 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from solset.checks import within
from solset.errors import bad_value
from solset.results import Result
from solset.sets._affine import AffineSet
from solset.sets._bodies import Ball, Box, Halfspace, Simplex
from solset.sets._cloud import PointCloud
from solset.sets._convex import ClosedSet, ConvexSet
from solset.sets._farthest import ascend, farthest_affine

_DENSE_SIZE = 512
_STARTS = 16


@dataclass(frozen=True, repr=False)
class SetDistance(Result):
    """A supremum of distances, and whether the number is exact or a lower bound.

    Attributes:
        value: Supremum of the distances; a lower bound if ``is_exact`` is false.
        is_exact: Whether ``value`` is the supremum up to rounding.
    """

    value: float
    is_exact: bool

    @property
    def headline(self) -> str:
        """The number, and whether it is exact."""
        return f"{self.value:.6g}, {'exact' if self.is_exact else 'a lower bound'}"


def distance(point: Tensor, closed: ClosedSet) -> float:
    """``d(w, C)``, the distance of a point to a set; infinite if the set is empty.

    Args:
        point: Point ``w`` whose distance is measured, ``(p,)``.
        closed: Closed set ``C``, convex or not.

    Cost: one projection.

    Example:
        >>> distance(torch.tensor([3.0, 4.0]), Ball(torch.zeros(2), 1.0))
        4.0
    """
    return closed.distance(point)


def excess(
    source: ClosedSet,
    target: ClosedSet,
    *,
    radius: float | None = None,
    generator: torch.Generator | None = None,
) -> SetDistance:
    """The excess ``e(C, D) = sup {d(w, D) : w ∈ C}``, with ``e(∅, ·) = 0`` and ``e(·, ∅) = ∞``.

    Definition 1; Rockafellar & Wets, section 4.C. An unbounded ``C`` is replaced by ``C ∩ ρ𝔹``; ``D`` is not
    truncated. The center of the ball is the ``reference`` of an :class:`AffineSet`, and the point of ``C``
    nearest to 0 for any other set.

    Args:
        source: Closed set ``C`` from which distances are measured.
        target: Closed set ``D`` to which distances are measured.
        radius: Radius ``ρ`` of the ball, required for an unbounded ``C``; a bounded ``C`` ignores it.
        generator: Source of the starting points of a search; needed only if no exact rule applies.

    Returns:
        An exact number if ``C`` is a point cloud or a simplex, for two balls, two boxes, a ball and a
        halfspace, and for two affine sets of at most 512 coordinates (by an eigen-decomposition); else a
        lower bound from a search by ascent or sampling.

    Raises:
        ValueError: If ``ρ`` or the generator is needed and missing.

    Cost: two solves with ``p`` right-hand sides and ``O(p³)`` for two affine sets; else one projection for
    each point of the search.

    Example:
        >>> small, large = Ball(torch.zeros(2), 1.0), Ball(torch.zeros(2), 3.0)
        >>> excess(small, large), excess(large, small)
        (SetDistance(0, exact), SetDistance(2, exact))
    """
    if _is_empty(source):
        return SetDistance(0.0, is_exact=True)
    if isinstance(source, AffineSet):
        return _affine_excess(source, target, _required(radius), generator)
    if _is_empty(target):
        return SetDistance(inf, is_exact=True)
    exact = _exact(source, target)
    if exact is not None:
        return SetDistance(exact, is_exact=True)
    if not isinstance(source, ConvexSet):
        raise bad_value(
            "source",
            expected="an AffineSet, a ConvexSet or a PointCloud",
            got=type(source).__name__,
            cure="Use a PointCloud of points of the set.",
        )
    return _sampled(source, target, radius, _present(generator))


def pompeiu_hausdorff(
    first: ClosedSet,
    second: ClosedSet,
    *,
    radius: float | None = None,
    generator: torch.Generator | None = None,
) -> SetDistance:
    """The Pompeiu–Hausdorff distance ``h(C, D) = max(e(C, D), e(D, C))``.

    Definition 1. An unbounded set is truncated where it is the source of the excess, as in :func:`excess`, so
    that the number compares the sets within ``ρ`` only. Two empty sets are at distance 0.

    Args:
        first: Closed set ``C`` of the two.
        second: Closed set ``D`` of the two.
        radius: Radius ``ρ`` of the ball, required if a set is unbounded.
        generator: As for :func:`excess`.

    Raises:
        ValueError: If ``ρ`` or the generator is needed and missing, or both sets lie beyond ``ρ``.

    Cost: that of two excesses.

    Example:
        >>> first = PointCloud(torch.tensor([[0.0], [1.0]]))
        >>> second = PointCloud(torch.tensor([[0.0], [4.0]]))
        >>> pompeiu_hausdorff(first, second).value
        3.0
    """
    forth = excess(first, second, radius=radius, generator=generator)
    back = excess(second, first, radius=radius, generator=generator)
    value = max(forth.value, back.value)
    offsets = [_offset(closed) for closed in (first, second)]
    if value == 0.0 and radius is not None and min(offsets) > radius:
        raise bad_value(
            "radius",
            expected=f"more than {min(offsets):.4g}, the distance at which the nearer of the two sets begins",
            got=radius,
            cure="Within a smaller ball both sets are empty, and there is nothing to compare.",
        )
    return SetDistance(value, is_exact=value == inf or (forth.is_exact and back.is_exact))


def in_outer_limit(point: Tensor, sets: Sequence[ClosedSet], *, tail: int, distance_tol: float) -> bool:
    """Whether ``w`` seems to be in the outer limit ``{w : liminf_k d(w, C_k) = 0}`` (Painlevé–Kuratowski).

    Definition 2; Rockafellar & Wets, section 4.A. The test is ``min d(w, C_k) ≤ distance_tol`` over
    the last ``tail`` sets.

    Args:
        point: Point ``w`` that is tested, ``(p,)``.
        sets: Sets ``C_1, C_2, …``, in order.
        tail: Number of sets at the end that stand for "infinitely many k".
        distance_tol: Absolute distance that counts as zero.

    Raises:
        ValueError: If the tail is empty or longer than the sequence, or the tolerance is negative.

    Notes:
        No finite sequence proves a limit: the answer is about these sets, this tail and this tolerance.

    Cost: one projection on each set of the tail.

    Example:
        >>> jumping = [PointCloud(torch.tensor([[float((-1) ** k)]])) for k in range(10)]
        >>> tests = (in_outer_limit, in_inner_limit)
        >>> [test(torch.ones(1), jumping, tail=4, distance_tol=1e-9) for test in tests]
        [True, False]
    """
    return min(_tail_distances(point, sets, tail, distance_tol)) <= distance_tol


def in_inner_limit(point: Tensor, sets: Sequence[ClosedSet], *, tail: int, distance_tol: float) -> bool:
    """Whether ``w`` seems to be in the inner limit ``{w : limsup_k d(w, C_k) = 0}``.

    The test is ``max d(w, C_k) ≤ distance_tol`` over the last ``tail`` sets; every point of the inner
    limit is in the outer one (:func:`in_outer_limit`).

    Args:
        point: Point ``w`` that is tested, ``(p,)``.
        sets: Sets ``C_1, C_2, …``, in order.
        tail: Number of sets at the end that stand for "all k large enough".
        distance_tol: Absolute distance that counts as zero.

    Raises:
        ValueError: If the tail is empty or longer than the sequence, or the tolerance is negative.

    Cost: one projection on each set of the tail.
    """
    return max(_tail_distances(point, sets, tail, distance_tol)) <= distance_tol


def _tail_distances(point: Tensor, sets: Sequence[ClosedSet], tail: int, tolerance: float) -> list[float]:
    within("tail", tail, 1, len(sets), cure="Count the sets that stand for the limit.")
    within("distance_tol", tolerance, 0, cure="Use the distance that counts as zero.")
    return [closed.distance(point) for closed in sets[-tail:]]


def _is_empty(closed: ClosedSet) -> bool:
    if isinstance(closed, AffineSet):
        return closed.is_empty()
    return isinstance(closed, PointCloud) and closed.is_empty


def _offset(closed: ClosedSet) -> float:
    """The distance from its reference at which an affine set begins; 0 for other sets and for empty ones."""
    if not isinstance(closed, AffineSet) or closed.is_empty():
        return 0.0
    return float(torch.linalg.vector_norm(closed.min_norm().value - closed.reference))


def _required(radius: float | None) -> float:
    if radius is None or not 0 < radius < inf:
        raise bad_value(
            "radius",
            expected="positive and finite for an unbounded set",
            got=radius,
            cure="Truncate the set to the scale you care about, such as a multiple of ‖Δw‖.",
        )
    return radius


def _present(generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        raise bad_value(
            "generator",
            expected="a torch.Generator, because no exact rule applies to these sets",
            got=None,
            cure="Pass torch.Generator().manual_seed(0).",
        )
    return generator


def _exact(source: ClosedSet, target: ClosedSet) -> float | None:
    """The excess where it is a formula or a maximum over finitely many points."""
    match source, target:
        case PointCloud(points=points), _:
            return max(target.distance(point) for point in points)
        case Ball(), Ball():
            apart = float(torch.linalg.vector_norm(source.center - target.center))
            return max(0.0, apart + source.radius - target.radius)
        case Ball(), Halfspace():
            length = float(torch.linalg.vector_norm(target.normal))
            height = (float(target.normal @ source.center) - target.offset) / length
            return max(0.0, height + source.radius)
        case Box(), Box() if _is_bounded(source):
            # Each coordinate is at its worst end independently of the others.
            over = torch.maximum(target.lower - source.lower, source.upper - target.upper)
            return float(torch.linalg.vector_norm(over.clamp(min=0.0)))
        case Simplex(coordinates=size, total=total), ConvexSet() | AffineSet():
            # A convex function is largest at a vertex.
            like = _sample_dtype(target)
            return max(target.distance(total * vertex) for vertex in torch.eye(size, dtype=like))
    return None


def _affine_excess(
    source: AffineSet, target: ClosedSet, radius: float, generator: torch.Generator | None
) -> SetDistance:
    center = source.min_norm().value
    offset = float(torch.linalg.vector_norm(center - source.reference))
    if offset > radius:
        return SetDistance(0.0, is_exact=True)
    if _is_empty(target):
        return SetDistance(inf, is_exact=True)
    reach = (radius**2 - offset**2) ** 0.5
    if isinstance(target, AffineSet) and len(center) <= _DENSE_SIZE:
        return SetDistance(farthest_affine(source, target, center, reach), is_exact=True)
    starts = torch.randn(_STARTS, len(center), generator=_present(generator), dtype=torch.float64)

    def directions(vector: Tensor) -> Tensor:
        return source.directions(vector.unsqueeze(1)).squeeze(1)

    bounds = (ascend(center, reach, directions, target, start.to(center)) for start in starts)
    return SetDistance(max(bounds), is_exact=False)


def _sampled(
    source: ConvexSet, target: ClosedSet, radius: float | None, generator: torch.Generator
) -> SetDistance:
    """The largest distance over points of ``C``: by ascent in a ball, else by projected samples."""
    like = _sample_dtype(source, target)
    starts = torch.randn(_STARTS, source.size, generator=generator, dtype=torch.float64).to(like)
    if isinstance(source, Ball):
        center = source.center.to(like)
        bounds = (ascend(center, source.radius, lambda v: v, target, start) for start in starts)
        return SetDistance(max(bounds), is_exact=False)
    center = source.project(torch.zeros(source.size, dtype=like))
    if isinstance(source, Box) and _is_bounded(source):
        reach = float(torch.linalg.vector_norm(source.upper - source.lower))
    elif isinstance(source, Simplex):
        reach = 2 * source.total
    else:
        reach = _required(radius)
    # A projection is nonexpansive and keeps the center, so projected points stay within the ball.
    outward = (center + reach * start / torch.linalg.vector_norm(start) for start in starts)
    distances = (target.distance(source.project(point)) for point in outward)
    return SetDistance(max(target.distance(center), *distances), is_exact=False)


def _is_bounded(box: Box) -> bool:
    return bool((torch.isfinite(box.lower) & torch.isfinite(box.upper)).all())


def _sample_dtype(*sets: ClosedSet) -> torch.dtype:
    """The dtype of the first set that keeps a tensor, float64 if none does."""
    for closed in sets:
        for name in ("center", "lower", "normal", "matrix", "points", "reference"):
            if hasattr(closed, name):
                return getattr(closed, name).dtype
    return torch.float64
