"""The cost of the rows of the Jacobian, whether they are stored or computed again at each use."""

import numpy as np

from solset.operators import Cost
from solset.operators._cost import ROW
from solset.solvers import RowPlan


def whole_point_rows(plan: RowPlan, outputs: int, points: int, *, row: float = ROW) -> Cost:
    """The work to compute all rows of ``J`` in the blocks of a plan.

    A point whose rows lie in two blocks is computed for both.

    Args:
        plan: Plan of a solver for the ``m = n·c`` rows.
        outputs: Number of outputs ``c`` of each point.
        points: Number of training points ``n``.
        row: Cost of one row in gradients of a point.
    """
    read = points_per_block(plan.rows, outputs, plan.at_once)
    # Where rows are not stored, block i of the Gram matrix needs all earlier blocks, computed once more.
    total = float(read.cumsum().sum()) if plan.place == "recomputed" else float(read.sum())
    return Cost(total / points, row * outputs * total / points)


def points_per_block(rows: int, outputs: int, at_once: int) -> np.ndarray:
    """The number of points that each block of rows needs.

    Args:
        rows: Number of rows ``m``.
        outputs: Number of outputs ``c`` of each point.
        at_once: Number of rows in a block.

    Example:
        >>> points_per_block(12, 3, 4)  # rows 0 to 3 belong to points 0 and 1, rows 4 to 7 to points 1 and 2
        array([2, 2, 2])
    """
    start = np.arange(0, rows, at_once)
    stop = np.minimum(start + at_once, rows)
    return -(-stop // outputs) - start // outputs


def single_rows(plan: RowPlan, points: int) -> Cost:
    """The work to compute rows of chosen output directions, where each row needs one point.

    Args:
        plan: Plan of a solver for the rows in use.
        points: Number of training points ``n``.
    """
    return plan.rows * plan.sweeps / points * Cost(1.0, ROW)
