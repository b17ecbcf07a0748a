"""The announcement of a solve that will take long, before it starts."""

import logging

from solset import comm
from solset.linalg import LinearOperator
from solset.risk import Sweep
from solset.solvers import Solver

MANY = 100  # gradients below which nothing is said
LONG = 30.0  # seconds below which nothing is said

logger = logging.getLogger("solset")


def announce(operator: LinearOperator, solver: Solver, sweep: Sweep, outputs: int) -> None:
    """Logs a warning where the first answer takes many gradients and long, by the solver's own statement.

    Args:
        operator: Matrix whose systems are solved.
        solver: Solver that takes them.
        sweep: Pass over all points that was timed; one gradient.
        outputs: Number of outputs of a point, which are as many rows.
    """
    cost = getattr(operator, "cost", None)
    if cost is None:  # a matrix of the user's own does not say what a product takes
        return
    needs, each = solver.plan(operator), cost.each.gradients
    certain = (needs.preparation + needs.products) * each + needs.sweeps * outputs
    most = certain + needs.products_per_step * needs.max_steps * each
    seconds = most * sweep.seconds
    if most < MANY or seconds < LONG or not comm.is_first():
        return
    least = f"{certain:.0f} to " if certain < most else ""
    logger.warning(
        "the first answer of %s takes %s%.0f gradients, at most about %.0f s here; "
        "solset.plan(problem) lists cheaper routes",
        type(solver).__name__,
        least,
        most,
        seconds,
    )
