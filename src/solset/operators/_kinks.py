"""Whether a network or its loss has one-sided derivatives at the trained point, found at the data themselves.

Units on a kink are seen in one forward pass. A unit that stays on it when data and weights move a little, as
a window of equal constants does, is left out. What remains is tried: second differences of the outputs, or of
the gradient, fall with the square of the step where the map is smooth, and with the step itself at a kink.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from solset import comm
from solset.operators._kink_watch import Tied, watched
from solset.risk import EmpiricalRisk, flat_rows, in_double

STEP = {torch.float64: 1e-7, torch.float32: 1e-3}  # length of a trial step, relative to data and weights
SHORTER = 8  # ratio of the two trial steps
LEAST = 1e-5  # part of a difference over a step from which a second difference counts
UNEVEN = 1e-3  # part of two differences by which that of the sum of the steps may differ
NOISE = 300  # units of rounding of a value that its second difference may be off


@dataclass(frozen=True)
class Kinked:
    """The units of one module that stand on a kink."""

    module: str  # Module in words, or ``"the loss"``
    units: int  # Number of its units on a kink, over all points
    share: float  # Part of all its units that these are, in (0, 1]


@dataclass(frozen=True)
class Kinks:
    """The points at which derivatives are one-sided.

    Attributes:
        points: Indices of these points.
        modules: Modules whose units stand on a kink there, most units first.
    """

    points: tuple[int, ...] = ()
    modules: tuple[Kinked, ...] = ()

    def joined(self, other: "Kinks") -> "Kinks":
        """Both together; a unit that both may have counted is counted once.

        Args:
            other: Kinks of the same network at the same trained point.
        """
        both = {one.module: one for one in self.modules}
        are_apart = not set(self.points) & set(other.points)
        for one in other.modules:
            first = both.get(one.module, Kinked(one.module, 0, 0.0))
            units, share = first.units + one.units, first.share + one.share
            most = first if first.units >= one.units else one
            both[one.module] = Kinked(one.module, units, share) if are_apart else most
        ranked = sorted(both.values(), key=lambda one: -one.units)
        return Kinks(tuple(sorted({*self.points, *other.points})), tuple(ranked))


class KinkFinder:
    """The points with one-sided derivatives at one trained point; each question is answered once.

    Args:
        risk: Empirical risk at the trained point.
    """

    def __init__(self, risk: EmpiricalRisk) -> None:
        self._risk = risk
        self._answers: dict[tuple[tuple[int, ...], bool], Kinks] = {}

    def of(self, moved: Sequence[int], *, of_outputs: bool) -> Kinks:
        """The points at which derivatives are one-sided.

        Args:
            moved: Indices of the points whose features move.
            of_outputs: Whether the outputs are differentiated, and not the gradient of the risk.

        Cost: one forward pass at the first question. Where units stand on a kink, two forward passes and nine
        of outputs, or nine gradients, over their points.
        """
        chosen = torch.zeros(len(self._suspects), dtype=torch.bool, device=self._suspects.device)
        chosen[list(moved)] = True
        kinks = self._at(chosen, of_outputs=of_outputs) if moved else Kinks()
        if bool((self._suspects.any(dim=1) & ~chosen).any()):  # at points that stay, the weights move
            kinks = self._at(torch.zeros_like(chosen), of_outputs=of_outputs).joined(kinks)
        return kinks

    @cached_property
    def _suspects(self) -> Tensor:
        return _points_on_kinks(self._risk)

    def _at(self, chosen: Tensor, *, of_outputs: bool) -> Kinks:
        """The kinks at chosen points as these move; at all points, with their features held, for none."""
        moved = chosen.nonzero().flatten().tolist()
        key = (tuple(moved), of_outputs)
        if key not in self._answers:
            suspects = self._suspects & chosen.unsqueeze(1) if moved else self._suspects
            self._answers[key] = _one_sided(self._risk, suspects, moved, of_outputs=of_outputs)
        return self._answers[key]


def _points_on_kinks(risk: EmpiricalRisk) -> Tensor:
    """Whether the network, and the loss, have units on a kink at each point, ``(n, 2)``.

    Cost: one forward pass with its graph.
    """
    risk, parameters = _at_once(risk), risk.layout.split(risk.weights)

    def work(_: int, inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack(
            [_owners(calls, len(targets)) for calls in watched(risk, parameters, inputs, targets)], dim=1
        ).to(risk.weights.device)

    return risk.joined(work)


def _at_once(risk: EmpiricalRisk) -> EmpiricalRisk:
    """The risk with all points in one batch where its loss is one of all outputs at once."""
    return replace(risk, batch_size=len(risk.points)) if risk.is_whole else risk


def _owners(calls: Sequence[Tied], count: int) -> Tensor:
    owners = torch.zeros(count, dtype=torch.bool)
    for call in calls:
        if bool((call.points < 0).any()):
            return torch.ones(count, dtype=torch.bool)
        owners[call.points] = True
    return owners


def _one_sided(risk: EmpiricalRisk, suspects: Tensor, moved: Sequence[int], *, of_outputs: bool) -> Kinks:
    """The points at which the outputs, or the gradient of the risk, have one-sided derivatives.

    Args:
        risk: Empirical risk at the trained point.
        suspects: Marks of points with units on a kink, from :func:`_points_on_kinks`.
        moved: Indices of the points whose features move; all weights do.
        of_outputs: Whether the derivatives are those of the outputs, in which the loss has no part.

    Cost: two forward passes and nine of outputs, or nine gradients, over the points with units on a kink.
    """
    chosen = (suspects[:, 0] if of_outputs else suspects.any(dim=1)).nonzero().flatten().tolist()
    if not chosen:
        return Kinks()
    if risk.is_whole:
        chosen = list(range(len(risk.points)))
    part, movable = _at_once(risk.select(chosen)), set(moved)
    places = [place for place, point in enumerate(chosen) if point in movable]
    with comm.alone():
        live = _live(_Line.of(part, places, seed=0), of_outputs=of_outputs)
        keep = torch.cat([call.points for call in live]).unique().tolist()
        if not keep:
            return Kinks()
        if risk.is_whole:
            keep = list(range(len(chosen)))
        at = {place: i for i, place in enumerate(keep)}
        moving = [at[place] for place in places if place in at]
        bent = _bent(in_double(part.select(keep)), moving, of_outputs=of_outputs)
    real = [place for place, is_bent in zip(keep, bent.tolist(), strict=True) if is_bent]
    return Kinks(
        tuple(chosen[place] for place in real), _by_module(live, real, len(risk.points) / len(chosen))
    )


@dataclass(frozen=True)
class _Line:
    """A line through data and weights, at whose origin the trained point is."""

    risk: EmpiricalRisk
    places: Sequence[int]
    dx: Tensor | None
    dw: Tensor
    step: float

    @classmethod
    def of(cls, risk: EmpiricalRisk, places: Sequence[int], *, seed: int) -> "_Line":
        """A random direction, of the size of the data and of each parameter."""
        generator = torch.Generator().manual_seed(seed)
        size = float(risk.weights.square().mean().sqrt()) or 1.0
        parts = [_random(part, generator, size) for part in risk.layout.split(risk.weights)]
        features = risk.points.features(list(places)) if places else None
        dx = None if features is None or not features.numel() else _random(features, generator, 1.0)
        return cls(risk, places, dx, risk.layout.join(parts), STEP[risk.weights.dtype])

    def at(self, t: float) -> EmpiricalRisk:
        """The risk at a place of the line."""
        risk = self.risk.at(self.risk.weights + t * self.dw)
        return risk if self.dx is None else risk.move(self.places, t * self.dx)

    def plus(self, other: "_Line") -> "_Line":
        """The line along the sum of two directions."""
        dx = None if self.dx is None or other.dx is None else self.dx + other.dx
        return replace(self, dx=dx, dw=self.dw + other.dw)


def _random(like: Tensor, generator: torch.Generator, default: float) -> Tensor:
    draw = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    size = float(like.square().mean().sqrt()) or default
    return size * draw


def _live(line: _Line, *, of_outputs: bool) -> list[Tied]:
    """The units on a kink that leave it along a line, with points counted over all batches."""
    live: dict[int, list[Tied]] = {}
    far, here = line.at(line.step), line.risk
    near_parts, far_parts = here.layout.split(here.weights), far.layout.split(far.weights)

    def work(start: int, inputs: Tensor, targets: Tensor) -> None:
        indices = range(start, start + len(targets))
        before = watched(here, near_parts, inputs, targets)
        # A square of a small step is smaller still, so that a unit on its way off a kink may be near it.
        after = watched(far, far_parts, *far.points[indices], is_exact=True)
        calls, others = (first if of_outputs else [*first, *second] for first, second in (before, after))
        for number, call in enumerate(calls):
            other = others[number] if len(others) == len(calls) else None
            rest = call.without(other)
            owners = torch.where(rest.points < 0, rest.points, rest.points + start)
            if bool((rest.points < 0).any()):  # any point of the batch may be the one
                owners = torch.arange(start, start + len(targets))
            live.setdefault(number, []).append(replace(rest, points=owners))

    for _ in here.each(work):
        pass
    return [_joined(parts) for parts in live.values()]


def _joined(parts: Sequence[Tied]) -> Tied:
    name = next((part.module for part in parts if part.module), "")
    count = sum(part.count for part in parts)
    columns = zip(*((part.units, part.points, part.ties) for part in parts), strict=True)
    return Tied(name, count, *(torch.cat(column) for column in columns))


def _bent(risk: EmpiricalRisk, places: Sequence[int], *, of_outputs: bool) -> Tensor:
    """Whether the outputs of each point, or else the gradient of all, have one-sided derivatives."""
    first, second = (_Line.of(risk, places, seed=seed) for seed in (0, 1))
    bent = _is_bent(first, second, lambda moved: moved.outputs())
    if of_outputs or bool(bent.any()):
        return bent
    # A kink of the gradient, such as that of the loss, shows in its sum over the points.
    return _is_bent(first, second, lambda moved: moved.gradient().unsqueeze(0)).expand(len(risk.points))


def _is_bent(first: _Line, second: _Line, function: Callable[[EmpiricalRisk], Tensor]) -> Tensor:
    """Whether each row of a function has a one-sided derivative, or jumps, where two lines meet."""
    long, short = first.step, first.step / SHORTER

    def values(line: _Line, t: float) -> tuple[Tensor, Tensor]:
        return function(line.at(t)), function(line.at(-t))

    origin = function(first.risk)
    (far, back), (near, behind) = values(first, long), values(first, short)
    wide, narrow = _norm(far - 2 * origin + back), _norm(near - 2 * origin + behind)
    slopes = [near - behind, *(right - left for right, left in (values(second, short),))]
    right, left = values(first.plus(second), short)
    uneven, change = _norm(right - left - slopes[0] - slopes[1]), _norm(slopes[0]) + _norm(slopes[1])
    noise = NOISE * torch.finfo(origin.dtype).eps * _norm(origin)
    is_one_sided = (narrow > wide / (3 * SHORTER)) & (narrow > noise) & (narrow > LEAST * change)
    is_nonlinear = (uneven > UNEVEN * change) & (uneven > noise)  # as a median is, odd but not linear
    jumps = (_norm(slopes[0]) > _norm(far - back) / 2) & (_norm(slopes[0]) > noise)
    return is_one_sided | is_nonlinear | jumps | ~torch.isfinite(narrow)


def _norm(block: Tensor) -> Tensor:
    return flat_rows(block).norm(dim=1)


def _by_module(live: Sequence[Tied], real: Sequence[int], points: float) -> tuple[Kinked, ...]:
    """The units that matter, by module; ``points`` is the number of all points for each one looked at."""
    units: dict[str, int] = {}
    totals: dict[str, float] = {}
    places = torch.tensor(real)
    for call in live:
        number = int(torch.isin(call.points, places).sum())
        if number:
            units[call.module] = units.get(call.module, 0) + number
            totals[call.module] = totals.get(call.module, 0.0) + call.count * points
    ranked = sorted(units, key=lambda name: -units[name])
    return tuple(Kinked(name, units[name], units[name] / totals[name]) for name in ranked)
