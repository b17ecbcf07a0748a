"""Slices of the loss through the trained weights, with solutions marked in them (Li et al. 2018)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from solset.checks import checked, points_of
from solset.errors import bad_value
from solset.landscapes._plane import (
    Normalise,
    Plane,
    Ranges,
    check_rows,
    check_vector,
    slice_grid,
    slice_plane,
)
from solset.problem import Problem
from solset.results import Result
from solset.risk import EmpiricalRisk, Indices, identity
from solset.storage import Checkpoint, Probe

ALL = "all"


def checked_subsets(subsets: Mapping[str, Indices], risk: EmpiricalRisk) -> dict[str, Tensor]:
    """The indices of each subset in increasing order; no subset may be called ``"all"``."""
    if ALL in subsets:
        cure = 'The subset "all" is always there.'
        raise bad_value("subsets", expected='names other than "all"', got=list(subsets), cure=cure)
    return {
        name: torch.tensor(sorted(points_of(members, len(risk.points), argument=f"subsets[{name!r}]")))
        for name, members in subsets.items()
    }


def subset_losses(risk: EmpiricalRisk, subsets: Mapping[str, Tensor]) -> dict[str, float]:
    """The risk as ``"all"``, and the loss of each subset as a mean or sum over it, in one forward pass."""
    parameters = risk.layout.split(risk.weights)

    def work(start: int, inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = risk.forward(parameters, inputs)
        losses = [float(risk.batch_scale(len(inputs)) * risk.loss(outputs, targets))]
        for members in subsets.values():
            inside = members[(members >= start) & (members < start + len(inputs))] - start
            share = len(inside) / len(members) if risk.reduction == "mean" else 1.0
            members_here = inside.to(outputs.device)
            loss = risk.loss(outputs[members_here], targets[members_here]) if len(inside) else 0.0
            losses.append(float(share * loss))
        return torch.tensor(losses, dtype=torch.float64)

    with torch.no_grad():
        totals = risk.summed(torch.zeros(1 + len(subsets), dtype=torch.float64), work).tolist()
    totals[0] += float(risk.regularisation(parameters))
    return dict(zip([ALL, *subsets], totals, strict=True))


def quantities(risk: EmpiricalRisk, subsets: Mapping[str, Tensor]) -> dict[str, str]:
    """A description of each number of :func:`subset_losses`, with its unit."""
    points, of_all = len(risk.points), "" if len(risk.points) == risk.total else f" of {risk.total}"
    decay = " with weight decay" if risk.has_decay else ""
    per = "mean" if risk.reduction == "mean" else "sum"
    risk_text = {ALL: f"risk{decay}, {per} over {points}{of_all} points"}
    return risk_text | {
        name: f"loss on {name}, {per} over {len(members)} points" for name, members in subsets.items()
    }


Row = dict[str, list[float]]


@dataclass(frozen=True, eq=False, repr=False)
class Mark(Result):
    """Weights that are shown in a landscape.

    Attributes:
        name: Name of the weights in the figure.
        coordinates: Coordinates of the nearest points of the plane, ``(k, axes)``.
        off_plane: Distance from the plane relative to the distance from the centre, ``(k,)``. The landscape
            shows the loss at the projection; ``values`` holds the loss at the weights.
        values: Loss of each subset at the weights, by name of the subset, ``(k,)``.
    """

    name: str
    coordinates: Tensor
    off_plane: Tensor
    values: Mapping[str, Tensor]

    @property
    def headline(self) -> str:
        """The name, the number of weights and their largest distance off the plane."""
        count, off = len(self.off_plane), float(self.off_plane.max())
        return f"{self.name}, {count} vector{'' if count == 1 else 's'} up to {off:.2g} off the plane"


@dataclass(frozen=True, eq=False, repr=False)
class Landscape(Result):
    """The loss on a grid in a plane, or on a line, through the centre.

    Attributes:
        plane: Plane or line, with its centre and axes.
        coordinates: Coordinates of the grid along each axis, in multiples of the axis, ``(r,)`` each.
        values: Loss by name of the subset, ``(r,)`` or ``(r, r)``, float64: entry ``[i, j]`` belongs to
            ``coordinates[0][i]`` and ``coordinates[1][j]``. Infinite losses and NaN stay as they are.
        quantities: Description of the values of each subset, with their unit.
        centre_values: Loss of each subset at the centre.
        marks: Weights that are shown, in the order of the call.
    """

    plane: Plane
    coordinates: tuple[Tensor, ...]
    values: Mapping[str, Tensor]
    quantities: Mapping[str, str]
    centre_values: Mapping[str, float]
    marks: tuple[Mark, ...]

    def project(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates and relative distance off the plane, by :meth:`Plane.project`."""
        return self.plane.project(weights)

    @property
    def headline(self) -> str:
        """The grid, its axes, and the risk at the centre and at the lowest grid point."""
        grid = " × ".join(str(len(axis)) for axis in self.coordinates)
        axes, risk = " and ".join(self.plane.axes), self.values["all"]
        lowest = float(torch.where(risk.isfinite(), risk, torch.inf).min())
        centre = self.centre_values["all"]
        return f"{grid} losses along {axes}, {centre:.4g} at the centre, {lowest:.4g} at the lowest"

    def to_dict(self) -> dict[str, Any]:
        """Every number but the weight vectors, in the types of JSON; the plane by axes and their cosine."""
        record = super().to_dict()
        del record["plane"]
        plane = {"axes": list(self.plane.axes), "normalise": self.plane.normalise}
        marks = {mark.name: mark.to_dict() for mark in self.marks}
        return {**plane, "cosine": self.plane.cosine, **record, "marks": marks}


@checked
def landscape(
    problem: Problem,
    directions: Mapping[str, Tensor],
    *,
    normalise: Normalise = "length",
    has_biases: bool = False,
    ranges: Ranges | None = None,
    resolution: int = 41,
    risk: EmpiricalRisk | None = None,
    subsets: Mapping[str, Indices] | None = None,
    marks: Mapping[str, Tensor] | None = None,
    centre: Tensor | None = None,
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
) -> Landscape:
    """The loss on a grid along one or two directions through the trained weights.

    The function is ``E(x, c + s a₁ + t a₂)`` (Li et al. 2018, equation 1). The axes ``a`` follow from the
    directions ``d``:

    - ``"length"``: ``a = d / (Σ_f (‖d_f‖/‖w_f‖)²)^½`` over the filters ``f`` of
      :func:`filter_normalised`. Directions stay as they are, so that weights along them lie in the plane.
      Coordinate 1 is a total relative change of 1 of the filters; this unit does not change if a ReLU layer
      and its part of ``d`` are scaled up and the next layer down. Zero filters of ``w`` do not count.
    - ``"none"``: ``a = d``, so that ``w̄ + Δw`` is at coordinate 1 along ``Δw``.
    - ``"filter"``: ``a = filter_normalised(d)``, for random directions. It turns the direction: ``w̄ + Δw``
      is not on the axis of ``Δw``, and each mark has its distance off the plane.

    Args:
        problem: Problem at the trained weights.
        directions: One or two directions by name, ``(p,)`` in the order of ``problem.weights()``; a figure
            shows the names at its axes.
        normalise: Unit of the coordinates, one of the three above; ``"length"`` by default.
        has_biases: Whether parameters of one dimension count as filters; if not, ``"filter"`` sets the
            direction to 0 there, and ``"length"`` leaves them out of the unit.
        ranges: Pairs ``(low, high)`` of coordinates, one per direction. By default they cover the marks with
            a margin, or are -1 to 1 without marks.
        resolution: Number of grid points along each axis; an odd number includes the middle of the range.
        risk: Empirical risk to evaluate, by default ``problem.risk()``; for moved data
            ``problem.risk().move(K, dx)``.
        subsets: Indices of points by name, whose loss is computed beside ``"all"`` in the same passes.
        marks: Weights to show by name, ``(p,)`` or ``(k, p)``.
        centre: Weights ``c`` at the origin, with which filters are compared, ``(p,)``; ``w̄`` by default.
        checkpoint: File to which each finished row is added (replaced in one step). The rows of an existing
            file are not computed again.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        The landscape: for ``"all"`` the risk with its weight decay, for each subset its loss without weight
        decay, a mean or a sum over its points like the loss.

    Raises:
        ValueError: If a direction is zero, not finite or of the wrong shape, two are parallel, grid, subsets
            or marks do not fit, or the checkpoint belongs to other settings.

    Cost: one forward pass over the data for each grid point and each mark; memory for one more weight vector
    besides axes and marks, and one batch.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.tensor([[1.0]]), torch.tensor([[2.0]]))
        >>> direction = {"w": torch.ones(1)}
        >>> slice_ = landscape(problem, direction, normalise="none", ranges=[(-1, 1)], resolution=3)
        >>> slice_.values["all"]  # (2 + s - 2)²
        tensor([1., 0., 1.], dtype=torch.float64)

    Notes:
        Two directions say nothing about the others: a slice may be convex although the loss is not, and a
        minimum of the slice may not be a minimum of the loss.
    """
    start = _risk_at_centre(problem, risk, centre)
    plane = slice_plane(start, directions, normalise=normalise, has_biases=has_biases)
    chosen = checked_subsets(subsets or {}, start)
    shown = {name: check_rows(f"marks[{name!r}]", at, start.weights) for name, at in (marks or {}).items()}
    grid = slice_grid(plane, shown, ranges, resolution)
    at_centre = subset_losses(start, chosen)
    settings = {
        "directions": plane.axes,
        "centre": start.weights,
        "normalise": [normalise, has_biases],
        "ranges": [[float(axis[0]), float(axis[-1])] for axis in grid],
        "resolution": resolution,
        "subsets": {name: members.tolist() for name, members in chosen.items()},
    }
    store = Checkpoint.at(checkpoint, "landscape", lambda: identity(start, settings), _probe_of(at_centre))
    rows = _stored_rows(store, sorted(at_centre), (resolution, len(grid[1]) if len(grid) == 2 else 1))
    placed = tuple(_mark(name, weights, plane, start, chosen) for name, weights in shown.items())
    hidden = None if progress is None else not progress  # None: tqdm looks for a terminal
    for i in tqdm(range(resolution), desc="landscape", unit="row", disable=hidden, leave=False):
        if i not in rows:
            rows[i] = _row(start, plane, grid, i, chosen)
            store.write({"rows": rows})
    values = {name: _stacked([rows[i][name] for i in range(resolution)], len(grid)) for name in at_centre}
    return Landscape(plane, grid, values, quantities(start, chosen), at_centre, placed)


def _probe_of(at_centre: Mapping[str, float]) -> Probe:
    losses = torch.tensor([at_centre[name] for name in sorted(at_centre)], dtype=torch.float64)
    return Probe("the loss at the centre", losses, rtol=1e-3)


def _stored_rows(checkpoint: Checkpoint, names: Sequence[str], shape: tuple[int, int]) -> dict[int, Row]:
    """The rows by number that an earlier run stored with these quantities; ``shape`` is rows times values."""

    def restored(records: Mapping[str, Any], _arrays: dict[str, Tensor]) -> dict[int, Row]:
        rows = {
            int(number): {name: [float(value) for value in row[name]] for name in names}
            for number, row in records["rows"].items()
        }
        if not set(rows) <= set(range(shape[0])):
            raise ValueError(f"rows {sorted(rows)} of {shape[0]}")
        if any(len(values) != shape[1] for row in rows.values() for values in row.values()):
            raise ValueError(f"rows of other lengths than {shape[1]}")
        return rows

    return checkpoint.resume(restored) or {}


def _risk_at_centre(problem: Problem, risk: EmpiricalRisk | None, centre: Tensor | None) -> EmpiricalRisk:
    at_weights = problem.risk()
    if risk is not None and dict(risk.layout.shapes) != dict(at_weights.layout.shapes):
        raise bad_value(
            "risk",
            expected="a risk with the weights of the problem",
            got=f"a risk with {', '.join(risk.layout.shapes)}",
            cure="Build it from `problem.risk()`.",
        )
    middle = problem.weights() if centre is None else check_vector("centre", centre, problem.weights())
    return (risk or at_weights).at(middle)


def _mark(name: str, rows: Tensor, plane: Plane, risk: EmpiricalRisk, subsets: Mapping[str, Tensor]) -> Mark:
    coordinates, off_plane = plane.project(rows)
    losses = [subset_losses(risk.at(weights), subsets) for weights in rows]
    values = {
        subset: torch.tensor([loss[subset] for loss in losses], dtype=torch.float64) for subset in losses[0]
    }
    return Mark(name, coordinates, off_plane, values)


def _row(
    risk: EmpiricalRisk, plane: Plane, grid: Sequence[Tensor], i: int, subsets: Mapping[str, Tensor]
) -> Row:
    """The losses at ``c + s_i a₁ + t a₂`` for all ``t``; on a line a row is one point."""
    first, *rest = plane.axes.values()
    start = plane.centre + float(grid[0][i]) * first
    steps = [0.0] if not rest else grid[1].tolist()
    losses = [subset_losses(risk.at(start + t * rest[0] if rest else start), subsets) for t in steps]
    return {name: [loss[name] for loss in losses] for name in losses[0]}


def _stacked(rows: list[list[float]], axes: int) -> Tensor:
    values = torch.tensor(rows, dtype=torch.float64)
    return values if axes == 2 else values.squeeze(1)
