"""Points that leave a fitted training set: their rows are dropped, and trained weights stay a solution."""

import warnings

import torch
from torch import Tensor

from solset.changes import Change
from solset.derivatives import Linearisation, Selection
from solset.errors import SolsetWarning
from solset.operators import Jacobian
from solset.problem._informative import InformativeSelection
from solset.problem._point import TrainedPoint
from solset.sets import AffineSet
from solset.solvers import Prepared


def remaining(point: TrainedPoint, source: Linearisation | Selection, change: Change) -> AffineSet | None:
    """The changes of the weights that answer for the points that stay or join; ``None`` if none leave.

    The rows of points that leave are dropped, so that the dimension is larger by their rank beside those that
    stay. If nothing else changes, the set contains zero: the trained weights fit what is left.

    Args:
        point: Trained point before the change.
        source: Linearisation of a map that keeps the outputs, on all rows or on some.
        change: Change of the data, checked.

    Cost: nothing where the rows are kept: those that stay are taken from them, with their Gram matrix.
    """
    leaving = change.leaving(point.risk)
    if not leaving:
        return None
    direction, risk = change.direction(point.risk), change.joining(point.risk) or point.risk
    line = source.linearisation
    if isinstance(source, Selection) and bool(line.push(direction).any()):
        source.verify(direction)
        line = source.linearisation
    stays = torch.ones(len(risk.points), dtype=torch.bool)
    stays[leaving] = False
    rows = stays[_points_of_rows(len(risk.points), point.outputs, source)]
    rhs = -line.push(direction)[rows.to(line.gradient.device)]

    def system() -> Prepared:
        kept_rows = line.system.keeping(rows)
        if kept_rows is not None:
            return kept_rows
        rest = risk.select(stays.nonzero().flatten().tolist())
        return line.constraint.solver.prepare(Jacobian(rest, memory_budget=point.memory_budget))

    zero = torch.zeros_like(point.sweep.gradient)
    dropped = int((~rows).sum())
    grows = f"the set grows by the rank of the {dropped} rows that leave ({_growth(line, dropped)})"
    note = (
        f"without these points the trained weights stay a solution, at distance 0, and {grows}; gradient "
        f"flow from the trained weights stays there, and training from scratch ends elsewhere in the larger "
        f"set (solset.Training)"
    )
    if bool(rhs.any()):
        note = f"the points that leave hold nothing any more: {grows}"
        for failure in line.premises.failures:
            warnings.warn(failure, SolsetWarning, stacklevel=4)
    return AffineSet(system, rhs, zero, notes=(*line.premises.failures, note), name=line.map.name)


def _growth(line: Linearisation, dropped: int) -> str:
    is_known = line.system.gram is not None and line.rank == line.rows
    return f"{dropped} dimensions" if is_known else f"at most {dropped} dimensions"


def _points_of_rows(count: int, outputs: int, source: Linearisation | Selection) -> Tensor:
    """The index of the point that each row belongs to."""
    if isinstance(source, InformativeSelection):
        return source.choice.directions.points.cpu()
    return torch.arange(count).repeat_interleave(outputs)
