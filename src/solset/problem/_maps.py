"""The optimality maps by name, and the one place where a map is chosen."""

from typing import Literal

from solset.changes import Change
from solset.derivatives import Linearisation, Selection
from solset.errors import bad_value
from solset.operators import InformativeRows
from solset.problem._gauss_newton import GaussNewton
from solset.problem._interpolating import Interpolating
from solset.problem._point import LinearisedMap, TrainedPoint
from solset.problem._proximal import Proximal
from solset.problem._stationary import Stationary
from solset.solvers import Solver

Optimality = LinearisedMap | Literal["auto", "interpolating", "proximal", "gauss_newton", "stationary"]

AUTO = "auto"
MAPS: dict[str, LinearisedMap] = {
    each.name: each for each in (Interpolating(), Proximal(), GaussNewton(), Stationary())
}


def as_map(optimality: Optimality | str) -> LinearisedMap | None:
    """The optimality map that a value or a name stands for; ``None`` for ``"auto"``.

    Args:
        optimality: Optimality map, its name, or ``"auto"``.

    Raises:
        ValueError: If there is no map of that name.

    Example:
        >>> as_map("stationary"), as_map("auto")
        (Stationary(), None)
    """
    if isinstance(optimality, LinearisedMap):
        return optimality
    if optimality not in {AUTO, *MAPS}:
        raise bad_value(
            "optimality",
            expected=f"one of {(AUTO, *MAPS)}",
            got=repr(optimality),
            cure='Leave it out for "auto".',
        )
    return MAPS.get(optimality)


def keeps_outputs(optimality: str) -> bool:
    """Whether solutions of the map of this name are the weights that keep all training outputs.

    Args:
        optimality: Name that a result carries; ``False`` for one that is no map's.

    Example:
        >>> keeps_outputs("interpolating"), keeps_outputs("stationary")
        (True, False)
    """
    return optimality in MAPS and MAPS[optimality].keeps_outputs


def linearise(
    point: TrainedPoint,
    change: Change,
    optimality: Optimality,
    solver: Solver | None,
    rows: InformativeRows | None,
) -> Linearisation | Selection:
    """The pair ``(A, C)`` of the map asked for, or of the one that ``"auto"`` takes, which gives its reason.

    ``"auto"`` takes the interpolating map where the training set is fitted and the rows in use are verified
    to be independent, else the one that :func:`map_unless_fitted` says.

    Args:
        point: Trained point at which the map is linearised.
        change: Change whose coordinates are answered.
        optimality: Optimality map, its name, or ``"auto"``.
        solver: Solver of the map's systems; ``None`` takes the map's default.
        rows: Accuracy to which rows of ``J`` may be left out; ``None`` for the map's own.
    """
    asked = as_map(optimality)
    if asked is not None:
        return (asked if rows is None else asked.with_rows(rows)).linearise(point, change, solver)
    first = Interpolating(rows).linearise_verified(point, change, solver)
    if not isinstance(first, str):
        return first
    used, why = map_unless_fitted(point)
    return point.linearise(used, change, f"{used.name} because {first}{why}", solver=solver)


def map_unless_fitted(point: TrainedPoint) -> tuple[LinearisedMap, str]:
    """The map where outputs are not kept, and what to add to the reason for it.

    It is the stationary map, and the proximal one where the weights are not stationary.

    Args:
        point: Trained point at which the map is linearised.
    """
    if point.is_stationary or Proximal().refusal(point):
        return Stationary(), ""
    size = float(point.sweep.gradient.norm())
    return Proximal(), f", and the weights are not stationary (gradient norm {size:.3g})"
