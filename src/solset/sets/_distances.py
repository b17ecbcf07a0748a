"""Distance, excess and Pompeiu–Hausdorff distance of sets (Definition 1)."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from solset.errors import bad_value
from solset.sets._affine import AffineSet
from solset.sets._bodies import Ball, Box, Halfspace, Simplex
from solset.sets._cloud import PointCloud
from solset.sets._convex import ClosedSet, ConvexSet
from solset.sets._farthest import ascend, farthest_affine

_DENSE_SIZE = 512
_STARTS = 16


@dataclass(frozen=True)
class SetDistance:
    """A supremum of distances, and whether it was attained or only approached.

    Attributes:
        value: The number; a lower bound where ``is_exact`` is false.
        is_exact: Whether ``value`` is the supremum up to rounding.
    """

    value: float
    is_exact: bool


def distance(point: Tensor, closed: ClosedSet) -> float:
    """``d(w, C)``, the distance of a point to a set; infinite if the set is empty.

    Args:
        point: ``w``, ``(p,)``.
        closed: ``C``.

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

    Definition 1; Rockafellar & Wets, section 4.C. An unbounded ``C`` is taken as ``C ∩ ρ𝔹``, with ``D`` not
    truncated. The ball is centred at the set's own ``reference`` for an :class:`AffineSet`, and at the point
    of ``C`` nearest to 0 for any other.

    Args:
        source: ``C``.
        target: ``D``.
        radius: ``ρ``, required for an unbounded ``C``; a bounded ``C`` ignores it.
        generator: Where the search for a lower bound starts; needed only where no exact rule applies.

    Returns:
        Exact for a point cloud or a simplex ``C``, for two balls, two boxes, a ball and a halfspace, and for
        two affine sets of at most 512 coordinates (an eigen-decomposition); a lower bound found by ascent or
        sampling for anything else.

    Raises:
        ValueError: If ``ρ`` or the generator is missing where it is needed.

    Cost: for two affine sets two solves with ``p`` right-hand sides and ``O(p³)``; otherwise one projection
    for each point tried.

    Example:
        >>> small, large = Ball(torch.zeros(2), 1.0), Ball(torch.zeros(2), 3.0)
        >>> excess(small, large), excess(large, small)
        (SetDistance(value=0.0, is_exact=True), SetDistance(value=2.0, is_exact=True))
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
            cure="Take a PointCloud of its points.",
        )
    return _sampled(source, target, radius, _given(generator))


def pompeiu_hausdorff(
    first: ClosedSet,
    second: ClosedSet,
    *,
    radius: float | None = None,
    generator: torch.Generator | None = None,
) -> SetDistance:
    """The Pompeiu–Hausdorff distance ``h(C, D) = max(e(C, D), e(D, C))``.

    Definition 1. Unbounded sets are truncated as in :func:`excess`, each in turn, so that the number bounds
    only what happens within ``ρ``; two empty sets are at distance 0.

    Args:
        first: ``C``.
        second: ``D``.
        radius: ``ρ``, required if a set is unbounded.
        generator: As for :func:`excess`.

    Raises:
        ValueError: As :func:`excess`.

    Example:
        >>> first = PointCloud(torch.tensor([[0.0], [1.0]]))
        >>> second = PointCloud(torch.tensor([[0.0], [4.0]]))
        >>> pompeiu_hausdorff(first, second).value
        3.0
    """
    there = excess(first, second, radius=radius, generator=generator)
    back = excess(second, first, radius=radius, generator=generator)
    value = max(there.value, back.value)
    return SetDistance(value, is_exact=value == inf or (there.is_exact and back.is_exact))


def _is_empty(closed: ClosedSet) -> bool:
    if isinstance(closed, AffineSet):
        return closed.is_empty()
    return isinstance(closed, PointCloud) and closed.is_empty


def _required(radius: float | None) -> float:
    if radius is None or not 0 < radius < inf:
        raise bad_value(
            "radius",
            expected="positive and finite for an unbounded set",
            got=radius,
            cure="Truncate the set to the scale you care about, such as a multiple of ‖Δw‖.",
        )
    return radius


def _given(generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        raise bad_value(
            "generator",
            expected="a torch.Generator where the excess is searched for",
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
            # Coordinates do not interact, so each reaches its own worst end.
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
    starts = torch.randn(_STARTS, len(center), generator=_given(generator), dtype=torch.float64)

    def directions(vector: Tensor) -> Tensor:
        return source.directions(vector.unsqueeze(1)).squeeze(1)

    found = (ascend(center, reach, directions, target, start.to(center)) for start in starts)
    return SetDistance(max(found), is_exact=False)


def _sampled(
    source: ConvexSet, target: ClosedSet, radius: float | None, generator: torch.Generator
) -> SetDistance:
    """The largest distance over points of ``C``: by ascent in a ball, by projected samples elsewhere."""
    like = _sample_dtype(source, target)
    starts = torch.randn(_STARTS, source.size, generator=generator, dtype=torch.float64).to(like)
    if isinstance(source, Ball):
        center = source.center.to(like)
        found = (ascend(center, source.radius, lambda v: v, target, start) for start in starts)
        return SetDistance(max(found), is_exact=False)
    center = source.project(torch.zeros(source.size, dtype=like))
    if isinstance(source, Box) and _is_bounded(source):
        reach = float(torch.linalg.vector_norm(source.upper - source.lower))
    elif isinstance(source, Simplex):
        reach = 2 * source.total
    else:
        reach = _required(radius)
    # Projection does not expand and keeps the centre, so projected points stay within the ball.
    outward = (center + reach * start / torch.linalg.vector_norm(start) for start in starts)
    found = (target.distance(source.project(point)) for point in outward)
    return SetDistance(max(target.distance(center), *found), is_exact=False)


def _is_bounded(box: Box) -> bool:
    return bool((torch.isfinite(box.lower) & torch.isfinite(box.upper)).all())


def _sample_dtype(*sets: ClosedSet) -> torch.dtype:
    """The dtype of the first set that keeps a tensor, float64 if none does."""
    for closed in sets:
        for name in ("center", "lower", "normal", "matrix", "points", "reference"):
            if hasattr(closed, name):
                return getattr(closed, name).dtype
    return torch.float64
