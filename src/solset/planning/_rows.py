"""What rows of the Jacobian cost where they are kept or computed anew."""

import numpy as np

from solset.operators import Cost
from solset.operators._cost import ROW
from solset.solvers import RowPlan


def whole_point_rows(plan: RowPlan, outputs: int, points: int, *, row: float = ROW) -> Cost:
    """All rows of ``J``, computed as a plan says; a point at the edge of two batches is computed in both.

    Args:
        plan: Of ``m = n·c`` rows.
        outputs: ``c``.
        points: ``n``.
        row: Cost of one.
    """
    read = points_per_block(plan.rows, outputs, plan.at_once)
    # Recomputed, block i meets all blocks before it, each of which is computed anew for it.
    total = float(read.cumsum().sum()) if plan.place == "recomputed" else float(read.sum())
    return Cost(total / points, row * outputs * total / points)


def points_per_block(rows: int, outputs: int, at_once: int) -> np.ndarray:
    """How many points are computed for each block of rows.

    Args:
        rows: ``m``.
        outputs: ``c``.
        at_once: Rows of a block.

    Example:
        >>> points_per_block(12, 3, 4)  # rows 0 to 3 are of points 0 and 1, rows 4 to 7 of 1 and 2
        array([2, 2, 2])
    """
    start = np.arange(0, rows, at_once)
    stop = np.minimum(start + at_once, rows)
    return -(-stop // outputs) - start // outputs


def single_rows(plan: RowPlan, points: int) -> Cost:
    """Rows of chosen output directions, each from its own point.

    Args:
        plan: Of the rows in use.
        points: ``n``.
    """
    return plan.rows * plan.sweeps / points * Cost(1.0, ROW)
