"""The stationary map: solutions are the weights at which the gradient of the risk is zero."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from solset.linalg import LinearOperator
from solset.operators import GaussNewtonInverse, Hessian
from solset.problem._kernel import in_products, settled, without
from solset.problem._point import MAX_DENSE, MAX_ROWS, LinearisedMap, TrainedPoint
from solset.solvers import CG, MINRES, Dense, FirstToConverge, Prepared, Solver


@dataclass(frozen=True)
class Stationary(LinearisedMap):
    """The map ``R(x, w) = ∇_w E``, linearised by the Hessian ``H`` and the mixed derivative ``B``.

    It applies at every trained point. A Hessian of few weights is written out; a large one with weight decay
    is solved by CG preconditioned with the inverse of the Gauss–Newton matrix, any other by MINRES.
    """

    name: ClassVar[str] = "stationary"

    def operator(self, point: TrainedPoint) -> LinearOperator:
        """The Hessian ``H``; argument as for every map."""
        return Hessian(point.risk, memory_budget=point.memory_budget)

    def default_solver(self, point: TrainedPoint) -> Solver:
        """``Dense``, preconditioned ``CG``, or ``MINRES``; argument as for every map."""
        if point.weights <= MAX_DENSE:
            return point.dense_solver()
        return preconditioned(point) if preconditioner_fits(point) else MINRES()

    def settle(self, point: TrainedPoint, solver: Solver) -> Callable[[Prepared], Prepared] | None:
        """The kernel is that of the solution nearby, unless a cut was asked for; arguments as usual.

        Warns:
            SolsetWarning: If rounding hides eigenvalues as large as the weight decay.
        """
        if isinstance(solver, Dense):
            if solver.rank_tolerance is not None:
                return None
            return lambda prepared: settled(point.risk, point.sweep.gradient, prepared, warns=point.warns)

        def settle(prepared: Prepared) -> Prepared:
            symmetries = point.symmetries
            if symmetries is not None and symmetries.hold_for(prepared.operator, symmetries.image):
                prepared = without(symmetries.directions, prepared, solver)
            return in_products(point.risk, prepared)

        return settle


def smaller_side(point: TrainedPoint) -> int:
    """The smaller side of the factor of the Gauss–Newton matrix.

    Args:
        point: Trained point at which the map is linearised.
    """
    return min(point.weights, point.rows)


def preconditioner_fits(point: TrainedPoint) -> bool:
    """Whether the Gauss–Newton matrix has an inverse, and it fits the budget, so that it is the default."""
    side = smaller_side(point)
    if not point.curvature_fits:  # its rows are weighted by the roots of the loss's curvature
        return False
    return point.risk.least_decay > 0 and side <= MAX_ROWS and 16 * side * side <= point.memory_budget


def preconditioned(point: TrainedPoint) -> FirstToConverge:
    """The solvers for a Hessian with weight decay: CG, then MINRES for one that proves indefinite.

    Args:
        point: Trained point at which the map is linearised.
    """
    inverse = GaussNewtonInverse(point.risk, memory_budget=point.memory_budget)
    return FirstToConverge((CG(preconditioner=inverse), MINRES()))
