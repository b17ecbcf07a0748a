"""Points that leave a fitted training set: their rows are dropped, and trained weights stay a solution."""

import torch
from torch import Tensor

from solset.changes import Change
from solset.derivatives import Linearisation, Selection
from solset.operators import Jacobian
from solset.problem._informative import InformativeSelection
from solset.problem._point import TrainedPoint
from solset.sets import AffineSet
from solset.solvers import Prepared


def remaining(point: TrainedPoint, source: Linearisation | Selection, change: Change) -> AffineSet | None:
    """The changes of the weights that keep the outputs of the points that stay; ``None`` if none leave.

    The set contains zero: the trained weights fit what is left. Its dimension is larger by the rank of the
    rows that leave, beside those that stay.

    Args:
        point: Trained point before the change.
        source: Linearisation of a map that keeps the outputs, on all rows or on some.
        change: Change of the data, checked.

    Cost: nothing where the rows are kept: those that stay are taken from them, with their Gram matrix.
    """
    leaving = change.leaving(point.risk)
    if not leaving:
        return None
    line = source.linearisation if isinstance(source, Selection) else source
    count = len(point.risk.points)
    stays = torch.ones(count, dtype=torch.bool)
    stays[leaving] = False
    rows = stays[_points_of_rows(point, source)]

    def system() -> Prepared:
        kept_rows = line.system.keeping(rows)
        if kept_rows is not None:
            return kept_rows
        rest = point.risk.select(stays.nonzero().flatten().tolist())
        return line.constraint.solver.prepare(Jacobian(rest, memory_budget=point.memory_budget))

    zero = torch.zeros_like(point.sweep.gradient)
    dropped = int((~rows).sum())
    note = (
        f"without these points the trained weights stay a solution, at distance 0, and the set grows by the "
        f"rank of the {dropped} rows that leave ({_growth(line, dropped)}); gradient flow from the trained "
        f"weights stays there, and training from scratch ends elsewhere in the larger set (solset.Training)"
    )
    return AffineSet(system, zero.new_zeros(int(rows.sum())), zero, notes=(*line.premises.failures, note))


def _growth(line: Linearisation, dropped: int) -> str:
    is_known = line.system.gram is not None and line.rank == line.rows
    return f"{dropped} dimensions" if is_known else f"at most {dropped} dimensions"


def _points_of_rows(point: TrainedPoint, source: Linearisation | Selection) -> Tensor:
    """The index of the point that each row belongs to."""
    if isinstance(source, InformativeSelection):
        return source.choice.directions.points.cpu()
    return torch.arange(len(point.risk.points)).repeat_interleave(point.outputs)
