"""Directions along which the weights of a training move without changing what it minimises.

A product of two weight matrices does not change as ``(W₁, W₂)`` becomes ``(T W₁, W₂ T⁻¹)``; under weight
decay this is so for rotations ``T``. The generator ``G`` of such a group acts on axes of the weights. Whether
it leaves the outputs as they are is a linear condition, which one backward pass states for all generators.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from solset.linalg import LinearOperator
from solset.risk import EmpiricalRisk, in_double, probe_indices

MOST_AXES = 16  # axes of one length, above which the network is too deep to look for combinations of them
MOST_PARTS = 4  # matrices that a module packs along one axis, as the gates of an LSTM are
MOST_LENGTH = 256  # length of an axis up to which all pairs of its entries are looked at
ZERO = 1e-11  # relative size of a derivative that is nothing but rounding of float64
SHORT = 1e-4  # length of a tangent, relative to the longest, below which an orbit has shrunk to a point
AGREES = 1e-6  # relative difference up to which a product with the Hessian is what a symmetry says
OFF = 0.3  # distance from the trained weights, relative to their length, at which probes are taken
PLACES = 2  # weights at which probes are taken: one alone would show what only holds there
SPARE = 4  # probes more than there are axes
ROUNDED = 1000  # units of rounding up to which it is so in float32
SHARE = 8  # part of the memory budget that the directions may take


@dataclass(frozen=True)
class _Axis:
    """One axis of one parameter, or one of its equal parts where modules pack several matrices along it."""

    place: int  # Index of the parameter in the layout
    dim: int  # Number of the axis
    start: int  # First entry of the part
    length: int  # Number of its entries

    def of(self, parts: Sequence[Tensor]) -> Tensor:
        """The parameter as a matrix whose rows belong to the entries of the axis."""
        part = parts[self.place].narrow(self.dim, self.start, self.length).movedim(self.dim, 0)
        return part.reshape(self.length, -1)

    def entry(self, parts: Sequence[Tensor], number: int) -> Tensor:
        """The slice of the parameter that belongs to one entry of the axis."""
        return parts[self.place].select(self.dim, self.start + number)


@dataclass(frozen=True)
class _Group:
    """All axes of one length, and the generators that act on pairs of their entries."""

    axes: tuple[_Axis, ...]  # Axes that a generator may act on together
    length: int  # Number of entries of each axis
    rotates: bool  # Whether only rotations are looked for, as they keep weight decay

    @cached_property
    def pairs(self) -> Tensor:
        """The pairs of entries ``(i, j)`` that generators act on, ``(2, m)``."""
        return torch.triu_indices(self.length, self.length, offset=1 if self.rotates else 0)

    def slopes(self, weights: Sequence[Tensor], gradient: Sequence[Tensor]) -> Tensor:
        """The derivative of a function along each action, relative to its size, ``(m, actions)``."""
        i, j = self.pairs
        columns = []
        for axis in self.axes:
            square = axis.of(gradient) @ axis.of(weights).T
            forth, back = square[i, j], square[j, i]
            columns += [forth - back] if self.rotates else [forth, back]
        size = max(float(axis.of(gradient).norm() * axis.of(weights).norm()) for axis in self.axes)
        slopes = torch.stack(columns, dim=1) / (size or 1.0)
        if not self.rotates:
            slopes[i == j, 1::2] = 1.0  # an entry on itself is one action and not two
        return slopes

    def moved(
        self, parts: Sequence[Tensor], pair: int, actions: Tensor, *, transposed: bool = False
    ) -> Tensor:
        """The image ``G v`` or ``Gᵀ v`` of a vector under a generator, flat.

        Args:
            parts: Vector ``v``, each part in the shape of its parameter.
            pair: Number of the pair of entries.
            actions: Coefficients of the actions.
            transposed: Whether to multiply by ``Gᵀ``.
        """
        i, j = self.pairs[:, pair].tolist()
        image = [torch.zeros_like(part) for part in parts]
        each = actions.reshape(len(self.axes), -1).tolist()
        for axis, (forth, *rest) in zip(self.axes, each, strict=True):
            back = -forth if self.rotates else rest[0] * (i != j)
            first, second = (back, forth) if transposed and i != j else (forth, back)
            axis.entry(image, i).add_(axis.entry(parts, j), alpha=first)
            axis.entry(image, j).add_(axis.entry(parts, i), alpha=second)
        return torch.cat([part.reshape(-1) for part in image])


@dataclass(frozen=True)
class _Generator:
    """One generator ``G``: a combination of actions on a pair of entries."""

    group: _Group
    pair: int
    actions: Tensor

    def times(self, parts: Sequence[Tensor], *, transposed: bool = False) -> Tensor:
        """``G v`` or ``Gᵀ v``."""
        return self.group.moved(parts, self.pair, self.actions, transposed=transposed)


@dataclass(frozen=True, eq=False)
class Symmetries:
    """Directions in which symmetries of the training move its weights, as backward passes show them.

    Attributes:
        directions: Orthonormal directions, ``(p, k)``.
        along: One direction of unit length that takes a part of every generator, ``(p,)``.
        image: Product of the Hessian with it, if the symmetries hold: ``H G w = -Gᵀ R``.
    """

    directions: Tensor
    along: Tensor
    image: Tensor

    def hold_for(self, operator: LinearOperator, image: Tensor) -> bool:
        """Whether a product is what the symmetries say; it is over all points, and the search was not.

        Args:
            operator: Hessian, or an approximation of it, ``(p, p)``.
            image: Product of the operator with :attr:`along` under the symmetries, ``(p,)``.

        Cost: a product with two columns.
        """
        source = torch.Generator().manual_seed(1)
        other = torch.randn(len(self.along), generator=source, dtype=torch.float64).to(self.along)
        product = operator @ torch.stack([self.along, other / other.norm()], dim=1)
        slack = max(AGREES, ROUNDED * torch.finfo(operator.dtype).eps)
        return bool((product[:, 0] - image).norm() <= slack * product[:, 1].norm())


def find_symmetries(risk: EmpiricalRisk, gradient: Tensor, memory_budget: int) -> Symmetries | None:
    """The symmetries of a training; ``None`` where there are none of this kind, or too many for the budget.

    Args:
        risk: Empirical risk at the trained weights, which need not be a solution.
        gradient: Gradient of the risk there, ``(p,)``.
        memory_budget: Bytes of which an eighth is open to the directions.

    Cost: some tens of backward passes over eight points, and memory for ``k`` vectors of weights in float64.
    """
    double = in_double(risk)
    groups = list(_groups(double))
    if double.weights.dtype != torch.float64 or not groups:
        return None
    most = memory_budget // (SHARE * 8 * len(risk.weights))
    few = double.select(probe_indices(len(double.points)))
    probed = replace(few, weight_decay=double.weight_decay, penalty=double.penalty)
    generators = list(islice(_generators(probed, groups), most + 1))
    if not 0 < len(generators) <= most:
        return None
    weights, slopes = (double.layout.split(part.double()) for part in (double.weights, gradient))
    columns = torch.stack([generator.times(weights) for generator in generators], dim=1)
    left, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    source = torch.Generator().manual_seed(0)
    draw = torch.randn(len(generators), generator=source, dtype=torch.float64).to(columns)
    along = columns @ draw
    size = along.norm()
    if not bool(size > SHORT**2 * double.weights.norm()):
        return None
    image = -sum(
        float(share) * generator.times(slopes, transposed=True)
        for share, generator in zip(draw, generators, strict=True)
    )
    directions = left[:, sizes > SHORT * sizes.max()]
    return Symmetries(
        directions.to(risk.weights), (along / size).to(risk.weights), (image / size).to(risk.weights)
    )


def _groups(risk: EmpiricalRisk) -> Iterator[_Group]:
    """The axes by their length, where there are at least two of one length.

    An axis of two to four times another length is taken in parts too, as attention packs its projections.
    """
    by_length: dict[int, list[_Axis]] = defaultdict(list)
    whole = [
        _Axis(place, dim, 0, shape[dim])
        for place, shape in enumerate(risk.layout.shapes.values())
        for dim in range(min(len(shape), 2))
    ]
    lengths = {axis.length for axis in whole}
    for axis in whole:
        for count in range(1, MOST_PARTS + 1):
            length, rest = divmod(axis.length, count)
            if length in lengths and not rest:
                by_length[length] += [replace(axis, start=i * length, length=length) for i in range(count)]
    rotates = risk.has_decay or risk.penalty is not None
    for length, parts in sorted(by_length.items()):
        axes = parts if len(parts) <= MOST_AXES else [axis for axis in whole if axis.length == length]
        if 2 <= len(axes) <= MOST_AXES and 1 + rotates <= length <= MOST_LENGTH:
            yield _Group(tuple(axes), length, rotates)


def _generators(risk: EmpiricalRisk, groups: list[_Group]) -> Iterator[_Generator]:
    """The generators along which no probe changes, each on one pair of entries.

    Probes are taken at other weights, where nothing that only holds at the trained ones is mistaken for a
    symmetry.
    """
    most_axes = max(len(group.axes) for group in groups)
    probed = [probe for seed in range(PLACES) for probe in _probes(_nearby(risk, seed), most_axes + SPARE)]
    for group in groups:
        slopes = torch.stack([group.slopes(weights, gradient) for weights, gradient in probed], dim=1)
        _, sizes, right = torch.linalg.svd(slopes)  # of each pair: probes by actions
        for pair, action in (sizes <= ZERO).nonzero().tolist():
            yield _Generator(group, pair, right[pair, action])


def _nearby(risk: EmpiricalRisk, seed: int) -> EmpiricalRisk:
    """The risk at random weights around the trained ones."""
    source = torch.Generator().manual_seed(seed)
    draw = torch.randn(risk.weights.shape, generator=source, dtype=torch.float64).to(risk.weights)
    return risk.at(risk.weights + OFF * risk.weights.norm() / draw.norm() * draw)


def _probes(risk: EmpiricalRisk, count: int) -> Iterator[tuple[Sequence[Tensor], Sequence[Tensor]]]:
    """The weights, with gradients of the regularisation, of a loss and of random combinations of outputs."""
    inputs, targets = risk.points[list(range(len(risk.points)))]
    leaves, weights = risk.leaves(), risk.layout.split(risk.weights)
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        outputs = risk.forward(leaves, inputs)
        # A loss of all outputs at once has no value on a few points; it follows their outputs all the same.
        value = outputs.sum() if risk.is_whole else risk.batch_value(leaves, inputs, targets)

    def slope(of: Tensor, along: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(
            of, leaves, along, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    yield weights, risk.layout.split(risk.regularisation_gradient())
    yield weights, slope(value, torch.ones_like(value))
    for _ in range(count):
        draw = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
        yield weights, slope(outputs, draw)
