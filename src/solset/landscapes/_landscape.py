"""Slices of the loss through the trained weights (Li et al. 2018): where the solutions lie in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from solset.checks import checked
from solset.errors import bad_value
from solset.landscapes._filter_norms import check_rows, check_vector
from solset.landscapes._plane import Normalise, Plane, Ranges, slice_grid, slice_plane
from solset.landscapes._row_file import Row, RowFile
from solset.landscapes._subset_losses import checked_subsets, quantities, subset_losses
from solset.problem import Problem
from solset.risk import EmpiricalRisk, Indices, identity
from solset.storage import Checkpoint, Probe


@dataclass(frozen=True, eq=False)
class Mark:
    """Weights that are shown in a landscape.

    Attributes:
        name: What they are.
        coordinates: Where they are nearest to the plane, ``(k, axes)``.
        off_plane: How far they are off it, relative to their distance from the centre, ``(k,)``. The
            landscape shows the loss at their projection; ``values`` is the loss at the weights themselves.
        values: Per subset, ``(k,)``.
    """

    name: str
    coordinates: Tensor
    off_plane: Tensor
    values: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Landscape:
    """The loss on a grid in a plane, or on a line, through the centre.

    Attributes:
        plane: Centre and axes.
        coordinates: Of the grid along each axis, in axes, ``(r,)`` each.
        values: Per subset ``(r,)`` or ``(r, r)``, float64: entry ``[i, j]`` belongs to
            ``coordinates[0][i]`` and ``coordinates[1][j]``. What is not finite is kept.
        quantities: Per subset what the values are, with their unit.
        centre_values: Per subset the value at the centre.
        marks: In the order given.
    """

    plane: Plane
    coordinates: tuple[Tensor, ...]
    values: Mapping[str, Tensor]
    quantities: Mapping[str, str]
    centre_values: Mapping[str, float]
    marks: tuple[Mark, ...]

    def project(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates and relative distance off the plane, as :meth:`Plane.project`."""
        return self.plane.project(weights)

    def as_record(self) -> dict[str, Any]:
        """All but the weight vectors, as numbers, strings, lists and dicts; what is not finite stays so."""
        return {
            "axes": list(self.plane.axes),
            "normalise": self.plane.normalise,
            "cosine": self.plane.cosine,
            "coordinates": [axis.tolist() for axis in self.coordinates],
            "values": {name: grid.tolist() for name, grid in self.values.items()},
            "quantities": dict(self.quantities),
            "centre_values": dict(self.centre_values),
            "marks": {
                mark.name: {
                    "coordinates": mark.coordinates.tolist(),
                    "off_plane": mark.off_plane.tolist(),
                    "values": {name: losses.tolist() for name, losses in mark.values.items()},
                }
                for mark in self.marks
            },
        }


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

    ``E(x, c + s a₁ + t a₂)`` (Li et al. 2018, equation 1). The axes ``a`` follow from the directions ``d``:

    - ``"length"``: ``a = d / (Σ_f (‖d_f‖/‖w_f‖)²)^½`` over the filters ``f`` of
      :func:`filter_normalised`. The directions are kept, so weights that they reach lie in the plane;
      coordinate 1 is a total relative change of the filters of 1, a unit that does not change when a ReLU
      layer and ``d`` in it are scaled up and the next one down. Filters that are zero in ``w`` do not count.
    - ``"none"``: ``a = d``; ``w̄ + Δw`` is at 1 along ``Δw``.
    - ``"filter"``: ``a = filter_normalised(d)``, for random directions. It turns the direction: ``w̄ + Δw``
      leaves the axis of ``Δw``, and the marks say how far off the plane they are.

    Args:
        problem: The trained point.
        directions: One or two, ``(p,)`` in the order of ``problem.weights()``, by the names that stand on
            the axes.
        normalise: What coordinates count, as above.
        has_biases: Whether parameters of one dimension count as filters; if not, ``"filter"`` sets the
            direction to 0 there and ``"length"`` only leaves them out of the unit.
        ranges: Of the coordinates, one pair per direction. By default they cover the marks with a margin,
            or are -1 to 1 without marks.
        resolution: Grid points along each axis; an odd number has the middle of the range among them.
        risk: What is evaluated, by default ``problem.risk()``; on moved data ``problem.risk().move(K, dx)``.
        subsets: By name the points whose loss is kept besides ``"all"``, from the same forward passes.
        marks: By name the weights to show, ``(p,)`` or ``(k, p)``.
        centre: ``c``, ``(p,)``, the weights that filters are compared with; ``w̄`` by default.
        checkpoint: A file to which each finished row is added (replaced in one step). If it exists,
            its rows are taken over and the rest is computed.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        Values of ``"all"``, the risk with its weight decay, and of each subset: its loss without weight
        decay, a mean over its points or their sum as the loss is.

    Raises:
        ValueError: If a direction is zero, not finite or of the wrong shape, two are parallel, grid, subsets
            or marks do not fit, or the checkpoint is of other settings.

    Cost: grid points plus marks, each a forward pass over the data; memory for one more weight vector
    besides axes and marks, and one batch.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.tensor([[1.0]]), torch.tensor([[2.0]]))
        >>> direction = {"w": torch.ones(1)}
        >>> found = landscape(problem, direction, normalise="none", ranges=[(-1, 1)], resolution=3)
        >>> found.values["all"]  # (2 + s - 2)²
        tensor([1., 0., 1.], dtype=torch.float64)

    Notes:
        Two directions say nothing of the others: a slice can look convex where the loss is not, and a
        minimum of the slice need not be one of the loss.
    """
    start = _risk_at_centre(problem, risk, centre)
    plane = slice_plane(start, directions, normalise=normalise, has_biases=has_biases)
    chosen = checked_subsets(subsets or {}, start)
    shown = {
        name: check_rows(f"marks[{name!r}]", rows, start.weights) for name, rows in (marks or {}).items()
    }
    grid = slice_grid(plane, shown, ranges, resolution)
    at_centre = subset_losses(start, chosen)
    names = sorted(at_centre)
    settings = {
        "directions": plane.axes,
        "centre": start.weights,
        "normalise": [normalise, has_biases],
        "ranges": [[float(axis[0]), float(axis[-1])] for axis in grid],
        "resolution": resolution,
        "subsets": {name: members.tolist() for name, members in chosen.items()},
    }
    losses = torch.tensor([at_centre[name] for name in names], dtype=torch.float64)
    probe = Probe("the loss at the centre", losses, rtol=1e-3)
    store = Checkpoint.at(checkpoint, "landscape", lambda: identity(start, settings), probe)
    file = RowFile(store, names, (resolution, len(grid[1]) if len(grid) == 2 else 1))
    rows = file.read()
    found = tuple(_mark(name, weights, plane, start, chosen) for name, weights in shown.items())
    hidden = None if progress is None else not progress  # None: tqdm looks for a terminal
    for i in tqdm(range(resolution), desc="landscape", unit="row", disable=hidden, leave=False):
        if i not in rows:
            rows[i] = _row(start, plane, grid, i, chosen)
            file.write(rows)
    values = {name: _stacked([rows[i][name] for i in range(resolution)], len(grid)) for name in at_centre}
    return Landscape(plane, grid, values, quantities(start, chosen), at_centre, found)


def _risk_at_centre(problem: Problem, risk: EmpiricalRisk | None, centre: Tensor | None) -> EmpiricalRisk:
    own = problem.risk()
    if risk is not None and dict(risk.layout.shapes) != dict(own.layout.shapes):
        raise bad_value(
            "risk",
            expected="of the problem's own weights",
            got=f"one of {', '.join(risk.layout.shapes)}",
            cure="Build it from `problem.risk()`.",
        )
    middle = problem.weights() if centre is None else check_vector("centre", centre, problem.weights())
    return (risk or own).at(middle)


def _mark(name: str, rows: Tensor, plane: Plane, risk: EmpiricalRisk, subsets: Mapping[str, Tensor]) -> Mark:
    coordinates, off_plane = plane.project(rows)
    losses = [subset_losses(risk.at(weights), subsets) for weights in rows]
    values = {
        subset: torch.tensor([found[subset] for found in losses], dtype=torch.float64) for subset in losses[0]
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
    return {name: [found[name] for found in losses] for name in losses[0]}


def _stacked(rows: list[list[float]], axes: int) -> Tensor:
    found = torch.tensor(rows, dtype=torch.float64)
    return found if axes == 2 else found.squeeze(1)
