"""Derivatives by autograd against central differences, and the features along which outputs jump."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import torch
from torch import Tensor

from solset.operators._passes import pull_back
from solset.risk import flat_rows, is_out_of_memory

Called = tuple[Tensor, Sequence[Tensor]]
Call = Callable[[Sequence[Tensor]], Called]
MOST_TRIED = 64


class Verdict(StrEnum):
    """What differences say of a derivative."""

    RIGHT = "right"
    WRONG = "wrong"
    MISSING = "missing"
    JUMPS = "jumps"
    UNKNOWN = "unknown"  # a kink lies inside every step


@dataclass(frozen=True)
class Accuracy:
    """The step of the differences, in sizes of the tensors, and the error up to which they agree.

    A first derivative is one number along a direction, in which a fault may be small by chance: its error
    ``slope_tol`` is as small as the differences allow.
    """

    step: float
    tol: float
    slope_tol: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> "Accuracy":
        """In float64 a step so small that hardly any rectifier switches inside; coarse in float32."""
        return cls(1e-7, 1e-3, 1e-5) if dtype == torch.float64 else cls(4e-3, 0.1, 0.1)


@dataclass(frozen=True, eq=False)
class Probe:
    """A function of some tensors, for autograd as solset calls it, and as its owner does.

    Attributes:
        values: Values of the tensors at which derivatives are compared, weights first.
        graph: Function that computes outputs from leaves of these shapes, differentiably.
        call: Function that computes outputs at other values, and returns them with the tensors in which they
            can be differentiated.
        weights: Number of tensors, from the first, that count as weights; the others are inputs, whose second
            derivative is of no interest.
    """

    values: Sequence[Tensor]
    graph: Callable[[Sequence[Tensor]], Tensor]
    call: Call
    weights: int

    @property
    def outputs(self) -> Tensor:
        """The outputs at the values."""
        return self._graph[1].detach()

    @cached_property
    def sizes(self) -> list[float]:
        """The root mean square of each tensor, by which directions and gradients are scaled."""
        return [max(float(v.norm()) / max(v.numel(), 1) ** 0.5, 1e-2) for v in self.values]

    def direction(self, seed: int) -> list[Tensor]:
        """A random direction in which every entry changes in proportion to the size of its tensor."""
        g = torch.Generator().manual_seed(seed)
        draws = [torch.randn(v.shape, generator=g, dtype=torch.float64).to(v) for v in self.values]
        return [size * draw for size, draw in zip(self.sizes, draws, strict=True)]

    @cached_property
    def functional(self) -> Tensor:
        """A random cotangent ``c`` of the outputs; ``⟨c, f⟩`` is differentiated twice."""
        g = torch.Generator().manual_seed(1)
        return torch.randn(self._graph[1].shape, generator=g, dtype=torch.float64).to(self._graph[1])

    @cached_property
    def _graph(self) -> tuple[list[Tensor], Tensor]:
        leaves = [value.detach().clone().requires_grad_() for value in self.values]
        with torch.enable_grad():
            return leaves, self.graph(leaves)

    @cached_property
    def slopes(self) -> Sequence[Tensor]:
        """The gradient of ``⟨c, f⟩`` by autograd, with a graph."""
        leaves, outputs = self._graph
        if not outputs.requires_grad:
            return [torch.zeros_like(leaf) for leaf in leaves]
        return torch.autograd.grad(
            outputs, leaves, self.functional, create_graph=True, allow_unused=True, materialize_grads=True
        )

    def second(self, direction: Sequence[Tensor]) -> list[Tensor]:
        """The derivative of the gradient of ``⟨c, f⟩`` along a direction by autograd, in every tensor."""
        leaves, _ = self._graph
        return [part[0] for part in pull_back(self.slopes, leaves, [part.unsqueeze(0) for part in direction])]

    def at(self, direction: Sequence[Tensor], step: float) -> Called:
        """Outputs a step away, and the gradient of ``⟨c, f⟩`` there."""
        moved = [value + step * part for value, part in zip(self.values, direction, strict=True)]
        with torch.enable_grad():
            outputs, sources = self.call(moved)
            for source in sources:
                source.grad = None
            if outputs.requires_grad:
                outputs.backward(self.functional)  # a reentrant checkpoint takes no torch.autograd.grad
        slopes = [torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in sources]
        return outputs.detach().clone(), slopes  # they may be a view of weights that the next call changes


def on_leaves(graph: Callable[[Sequence[Tensor]], Tensor]) -> Call:
    """A call for a function that only autograd's leaves tell from one for autograd.

    Args:
        graph: Function that computes outputs from leaves, differentiably.
    """

    def call(values: Sequence[Tensor]) -> Called:
        leaves = [value.detach().clone().requires_grad_() for value in values]
        return graph(leaves), leaves

    return call


class Comparison:
    """Derivatives of a function along one direction, by autograd and by differences.

    Args:
        probe: Function whose derivatives are compared.
        direction: Direction in all its tensors.
    """

    def __init__(self, probe: Probe, direction: Sequence[Tensor]) -> None:
        self._probe, self._direction = probe, direction
        self._accuracy = Accuracy.of(probe.values[0].dtype)
        self._at: dict[float, Called] = {}

    def _called(self, step: float) -> Called:
        if step not in self._at:
            self._at[step] = self._probe.at(self._direction, step)
        return self._at[step]

    def _change(self, first: float, second: float) -> float:
        """The change of ``⟨c, f⟩`` from the second step to the first."""
        return float((self._probe.functional * (self._called(first)[0] - self._called(second)[0])).sum())

    @property
    def first(self) -> Verdict:
        """What differences of the outputs say of the first derivative."""
        h, tol = self._accuracy.step, self._accuracy.slope_tol
        terms = [
            float((a.detach() * b).sum()) for a, b in zip(self._probe.slopes, self._direction, strict=True)
        ]
        slope, outputs = sum(terms), self._called(h)[0]
        size = float((self._probe.functional * outputs).norm())
        noise = 1e3 * torch.finfo(outputs.dtype).eps * max(size, 1e-3 * max(self._probe.sizes)) / h
        allowed = tol * sum(map(abs, terms)) + noise
        middle = self._change(h, -h) / (2 * h)
        if abs(middle - slope) <= max(allowed, tol * abs(middle)):
            return Verdict.RIGHT
        quarter = h / 4
        changes = {step: self._change(step, 0.0) for step in (h, -h, quarter, -quarter)}
        slopes = [change / step for step, change in changes.items()]
        if any(abs(changes[s * quarter]) > 0.6 * abs(changes[s * h]) > 10 * h * noise for s in (1, -1)):
            return Verdict.JUMPS
        if max(slopes) - min(slopes) > 0.1 * abs(middle - slope) + 10 * noise:
            return Verdict.UNKNOWN  # the derivatives to the two sides differ
        return Verdict.WRONG

    @cached_property
    def second(self) -> Verdict:
        """What differences of the gradient say of ``H``, ``B`` and ``Bᵀ``."""
        count, weights = len(self._direction), self._probe.weights
        verdict = self._second(count)
        if verdict is Verdict.RIGHT or weights == count:
            return verdict
        # The fault may lie in the second derivative in the inputs, which no product needs.
        alone = [*self._direction[:weights], *(torch.zeros_like(u) for u in self._direction[weights:])]
        moved = [*(torch.zeros_like(v) for v in self._direction[:weights]), *self._direction[weights:]]
        parts = [
            Comparison(self._probe, alone)._second(count),  # noqa: SLF001 - of this class
            Comparison(self._probe, moved)._second(weights),  # noqa: SLF001
        ]
        order = [Verdict.MISSING, Verdict.WRONG, Verdict.UNKNOWN, Verdict.RIGHT]
        return min(parts, key=order.index)

    def _second(self, count: int) -> Verdict:
        """The verdict on the derivative of the gradient in the first tensors, along the direction."""
        try:
            auto = self._probe.second(self._direction)[:count]
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error):
                raise
            return Verdict.MISSING
        h = self._accuracy.step
        coarse = self._slope_change(h, count)
        if self._distance(auto, coarse, h) <= 1:
            return Verdict.RIGHT
        for _ in range(2):  # a rectifier that switches inside the longer step hardly does in the shorter one
            h = h / 4
            fine = self._slope_change(h, count)
            error = self._distance(auto, fine, h)
            if error <= 1:
                return Verdict.RIGHT
            if self._distance(coarse, fine, h) <= max(1.0, 0.1 * error):
                return Verdict.WRONG
            coarse = fine
        return Verdict.UNKNOWN

    def _slope_change(self, h: float, count: int) -> list[Tensor]:
        ahead, behind = self._called(h)[1], self._called(-h)[1]
        return [(a - b) / (2 * h) for a, b in zip(ahead[:count], behind[:count], strict=True)]

    def _distance(self, first: Sequence[Tensor], second: Sequence[Tensor], h: float) -> float:
        """The largest difference of any tensor, in units of what is allowed."""
        tol, eps = self._accuracy.tol, torch.finfo(first[0].dtype).eps
        sizes = self._probe.sizes
        scaled = [
            (size * float((a - b).norm()), size * float(a.norm() + b.norm()))
            for size, a, b in zip(sizes, first, second, strict=False)
        ]
        slopes = [
            size * float(slope.norm())
            for size, slope in zip(sizes, self._called(self._accuracy.step)[1], strict=False)
        ]
        floor = 1e-3 * tol * max(norm for _, norm in scaled) + 1e3 * eps * max(slopes) / h + 1e-300
        ratios = [error / (tol * norm + floor) for error, norm in scaled]
        return max(ratio if ratio == ratio else float("inf") for ratio in ratios)  # noqa: PLR0124 - not a number


def stepping_features(probe: Probe) -> list[int]:
    """The flat features with whole numbers and derivative 0, of which the outputs are a step function.

    Args:
        probe: Function of weights and inputs; the inputs are its last tensor.

    Cost: none where no feature holds whole numbers with derivative 0, else some forward passes.
    """
    inputs, slopes = flat_rows(probe.values[-1]), flat_rows(probe.slopes[-1])
    is_whole = (inputs == inputs.round()).all(dim=0) & (slopes == 0).all(dim=0)
    candidates = is_whole.nonzero().flatten().tolist()
    if not candidates or not _is_step(probe, candidates):
        return []
    if len(candidates) > MOST_TRIED:
        return candidates
    return [feature for feature in candidates if _is_step(probe, [feature])]


def _is_step(probe: Probe, features: Sequence[int]) -> bool:
    """Whether outputs stay the same up to some fraction of 1, and are those of the next number beyond it."""
    column = flat_rows(probe.values[-1])[:, list(features)]
    inwards = torch.where(column > column.mean(dim=0), -1.0, 1.0).to(column)  # there are ids between ids
    for sign in (inwards, -inwards):
        try:
            here, *between, there = [
                _moved(probe, features, step * sign) for step in (0.0, 0.26, 0.51, 0.99, 1.0)
            ]
        except (IndexError, RuntimeError):  # there is no such id
            continue
        if not torch.equal(here, there) and all(
            torch.equal(one, here) or torch.equal(one, there) for one in between
        ):
            return True
    return False


def _moved(probe: Probe, features: Sequence[int], step: Tensor) -> Tensor:
    inputs = flat_rows(probe.values[-1]).clone()
    inputs[:, list(features)] += step
    moved = [*probe.values[:-1], inputs.reshape(probe.values[-1].shape)]
    with torch.no_grad():
        return probe.call(moved)[0].detach()


def jumping_features(probe: Probe, direction: Tensor) -> list[int]:
    """The flat features along which the outputs jump at once, by halving.

    Args:
        probe: Function of weights and inputs; the inputs are its last tensor.
        direction: Direction in the inputs along which outputs jump.

    Cost: some ten gradients of the points for each feature that is found; at most eight are.
    """
    flat = flat_rows(direction)
    waiting, jumping = [list(range(flat.shape[1]))], []
    while waiting and len(jumping) < 8:
        part = waiting.pop()
        only = torch.zeros_like(flat)
        only[:, part] = flat[:, part]
        still = [torch.zeros_like(value) for value in probe.values[:-1]]
        comparison = Comparison(probe, [*still, only.reshape(direction.shape)])
        if comparison.first is not Verdict.JUMPS:
            continue
        if len(part) == 1:
            jumping += part
        else:
            waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
    return jumping
