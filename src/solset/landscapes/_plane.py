"""Planes in weight space: directions normalised by filters (Li et al. 2018, section 4), and projections."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from solset.checks import checked, one_of, require, within
from solset.errors import bad_value
from solset.linalg import Space
from solset.problem import Problem
from solset.risk import EmpiricalRisk


@checked
def filter_normalised(
    problem: Problem | EmpiricalRisk, direction: Tensor, *, has_biases: bool = False
) -> Tensor:
    """The direction rescaled so that each filter has the norm of the same filter of the weights, ``(p,)``.

    ``d_f ← d_f ‖w_f‖ / ‖d_f‖`` (Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", section 4).
    A filter is one index of the first dimension of a parameter of two dimensions or more: an output channel,
    or a neuron. As in the paper's code, parameters of one dimension (biases, normalisation) are left out.
    Departs from that code in two ways: there is no 1e-10 in the denominator, so that norms are equal up to
    rounding; and ``has_biases`` rescales such a parameter as one filter, where the code copies the parameter.

    Args:
        problem: Trained problem, or a risk at the weights to compare with.
        direction: Direction ``d``, ``(p,)``, in the order of ``problem.weights()``.
        has_biases: Whether parameters of one dimension keep their part, which is else 0.

    Returns:
        The rescaled direction; a filter that is zero in the weights or in ``direction`` is zero.

    Raises:
        ValueError: If the shape does not fit, entries are not finite, or nothing is left of the direction.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.ones(1, 2), torch.full((1, 1), 4.0))
        >>> filter_normalised(problem, torch.tensor([0.0, 0.1]))  # one filter of norm √8
        tensor([0.0000, 2.8284])
    """
    risk = problem.risk() if isinstance(problem, Problem) else problem
    parts = []
    for weight, part in _pairs(risk, check_vector("direction", direction, risk.weights)):
        wanted, sizes = _filter_norms(weight), _filter_norms(part)
        scale = torch.where(sizes > 0, wanted / sizes, torch.zeros_like(sizes))
        is_left_out = weight.ndim < 2 and not has_biases
        parts.append(torch.zeros_like(part) if is_left_out else _filters(part) * scale.unsqueeze(1))
    return not_zero("direction", risk.layout.join(parts))


def filter_length(risk: EmpiricalRisk, flat: Tensor, *, has_biases: bool) -> float:
    """``(Σ_f (‖d_f‖/‖w_f‖)²)^½`` over the filters that are not zero in the weights; refused if it is 0."""
    total = 0.0
    for weight, part in _pairs(risk, flat):
        if weight.ndim >= 2 or has_biases:
            sizes, wanted = _filter_norms(part).double(), _filter_norms(weight).double()
            total += float((sizes[wanted > 0] / wanted[wanted > 0]).square().sum())
    if total == 0:
        raise bad_value(
            "directions",
            expected="to move filters that are not zero",
            got="one that moves none, whose length relative to them is 0",
            cure='Use has_biases=True if it moves biases only, or normalise="none".',
        )
    return total**0.5


def check_vector(name: str, value: Tensor, like: Tensor) -> Tensor:
    """The vector, refused unless it is finite and has the shape, dtype and device of the weights ``like``."""
    cure = "Pass a flat vector in the order of `problem.weights()`."
    return Space(name, tuple(like.shape), like.dtype, like.device, cure).flatten(value)


def check_rows(name: str, value: Tensor, like: Tensor) -> Tensor:
    """One or more vectors of weights as rows, ``(k, p)``, each checked by :func:`check_vector`."""
    if isinstance(value, Tensor) and value.ndim == 2 and len(value):
        return torch.stack([check_vector(name, row, like) for row in value])
    return check_vector(name, value, like).unsqueeze(0)


def not_zero(name: str, flat: Tensor) -> Tensor:
    """The direction, refused if it is zero."""
    if not bool((flat != 0).any()):
        raise bad_value(
            name,
            expected="not zero",
            got="a zero vector, or zero on every filter that counts",
            cure="Choose another direction, or has_biases=True if it moves biases only.",
        )
    return flat


def _pairs(risk: EmpiricalRisk, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each parameter with its part of a flat vector."""
    return list(zip(risk.layout.split(risk.weights), risk.layout.split(flat), strict=True))


def _filters(part: Tensor) -> Tensor:
    """A parameter as a matrix with a row for each filter."""
    return part.reshape(len(part), -1) if part.ndim >= 2 else part.reshape(1, -1)


def _filter_norms(part: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_filters(part), dim=1)


Normalise = Literal["length", "filter", "none"]
Ranges = Sequence[tuple[int | float, int | float]]


@dataclass(frozen=True, eq=False, repr=False)
class Plane:
    """The weights ``{c + s a₁ + t a₂}``, or the line ``{c + s a₁}``.

    Attributes:
        centre: Weights ``c`` at the origin, ``(p,)``.
        axes: Axes ``a₁`` and ``a₂`` by the names of their directions, ``(p,)`` each.
        normalise: Rule that makes axes of directions, see :func:`~solset.landscapes.landscape`.

    Example:
        >>> line = Plane(torch.zeros(2), {"first": torch.tensor([2.0, 0.0])}, "none")
        >>> line.project(torch.tensor([3.0, 4.0]))  # 1.5 axes along the line; 4 of 5 units off it
        (tensor([[1.5000]], dtype=torch.float64), tensor([0.8000], dtype=torch.float64))
    """

    centre: Tensor
    axes: Mapping[str, Tensor]
    normalise: Normalise

    def project(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Least-squares coordinates of weights in the plane, and their distance off the plane.

        Args:
            weights: One vector ``w``, ``(p,)``, or one per row, ``(k, p)``.

        Returns:
            Coordinates ``(k, axes)``, and the distance of ``w`` from its projection relative to ``‖w - c‖``,
            ``(k,)``, 0 at the centre; both float64.

        Raises:
            ValueError: If the shape does not fit or entries are not finite.
        """
        rows = check_rows("weights", weights, self.centre).double() - self.centre.double()
        basis, triangle = torch.linalg.qr(self._matrix())
        inside = basis.T @ rows.T
        coordinates = torch.linalg.solve_triangular(triangle, inside, upper=True)
        size = torch.linalg.vector_norm(rows, dim=1)
        off = torch.linalg.vector_norm(rows - (basis @ inside).T, dim=1)
        return coordinates.T.cpu() + 0.0, torch.where(size > 0, off / size, torch.zeros_like(off)).cpu()

    @property
    def cosine(self) -> float:
        """The cosine of the angle between the two axes; 0 for a line."""
        axes = self._matrix()
        axes = axes / torch.linalg.vector_norm(axes, dim=0)
        return float(axes[:, 0] @ axes[:, 1]) if axes.shape[1] == 2 else 0.0

    def _matrix(self) -> Tensor:
        return torch.stack([axis.double() for axis in self.axes.values()], dim=1)


def slice_plane(
    risk: EmpiricalRisk, directions: Mapping[str, Tensor], *, normalise: Normalise, has_biases: bool
) -> Plane:
    """The plane through the weights of a risk along one or two directions, which must span it."""
    one_of("normalise", normalise, get_args(Normalise))
    require("directions", directions, Mapping, cure='Write {"Δw": change}, from names to flat directions.')
    if len(directions) not in {1, 2}:
        cure = "Choose a line or a plane."
        raise bad_value("directions", expected="one or two", got=len(directions), cure=cure)
    axes = {}
    for name, given in directions.items():
        label = f"directions[{name!r}]"
        flat = not_zero(label, check_vector(label, given, risk.weights))
        if normalise == "filter":
            flat = filter_normalised(risk, flat, has_biases=has_biases)
        elif normalise == "length":
            flat = flat / filter_length(risk, flat, has_biases=has_biases)
        axes[name] = flat
    plane = Plane(risk.weights, axes, normalise)
    if 1.0 - abs(plane.cosine) <= torch.finfo(risk.weights.dtype).eps ** 0.5:
        raise bad_value(
            "directions",
            expected="two directions that span a plane",
            got=f"parallel directions (cosine {plane.cosine:.6g})",
            cure="Pass one of them for a line.",
        )
    return plane


def slice_grid(
    plane: Plane, marks: Mapping[str, Tensor], ranges: Ranges | None, resolution: int
) -> tuple[Tensor, ...]:
    """The coordinates along each axis, ``(resolution,)`` each; by default they cover the marks ``(k, p)``."""
    require("resolution", resolution, int, cure="Leave it out.")
    within("resolution", resolution, 2, cure="Leave it out.")
    pairs = _covering(plane, marks) if ranges is None else [tuple(pair) for pair in ranges]
    if len(pairs) != len(plane.axes):
        raise bad_value(
            "ranges",
            expected=f"one pair for each of {len(plane.axes)} directions",
            got=f"{len(pairs)} of them",
            cure="Write [(-1, 1), (-1, 1)] for two directions.",
        )
    for pair in pairs:
        if len(pair) != 2 or not all(map(math.isfinite, pair)) or not pair[0] < pair[1]:
            expected = "finite pairs (low, high), low < high"
            raise bad_value("ranges", expected=expected, got=pair, cure="Swap or widen them.")
    return tuple(torch.linspace(low, high, resolution, dtype=torch.float64) for low, high in pairs)


def _covering(plane: Plane, marks: Mapping[str, Tensor]) -> list[tuple[float, float]]:
    """Ranges that contain the centre and all marks, with a margin of a third on either side."""
    places = torch.cat([plane.project(rows)[0] for rows in marks.values()]) if marks else torch.zeros(1, 1)
    low, high = places.min(dim=0).values.clamp(max=0.0), places.max(dim=0).values.clamp(min=0.0)
    widest = float((high - low).max())
    if widest == 0:
        return [(-1.0, 1.0)] * len(plane.axes)
    ranges = []
    for a, b in zip(low.tolist(), high.tolist(), strict=True):
        is_flat = b - a <= 1e-6 * widest  # no mark lies off the centre along this axis
        margin = 0.5 * widest if is_flat else (b - a) / 3
        ranges.append((a - margin, b + margin))
    return ranges
