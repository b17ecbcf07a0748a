"""The stationary map with the Gauss–Newton matrix in place of the Hessian."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from solset import operators
from solset.derivatives import Qualification
from solset.errors import SolsetWarning
from solset.linalg import LinearOperator, default_tolerance
from solset.problem._kernel import hidden_decay, in_products, without
from solset.problem._point import MAX_DENSE, LinearisedMap, TrainedPoint
from solset.solvers import CG, Dense, Prepared, Solver


@dataclass(frozen=True)
class GaussNewton(LinearisedMap):
    """The stationary map, linearised by ``JᵀΛJ + λI`` and ``B``: exact at zero residual.

    It applies at every trained point; it is the Hessian without the curvature of the network, which training
    near a fit does not feel.
    """

    name: ClassVar[str] = "gauss_newton"
    is_exact: ClassVar[bool] = False
    solvers: ClassVar[str] = "Dual (where all weights decay alike, without a penalty), Dense, MINRES or CG"

    def operator(self, point: TrainedPoint) -> LinearOperator:
        """The Gauss–Newton matrix; argument as for every map."""
        return operators.GaussNewton(point.risk, memory_budget=point.memory_budget)

    def of_losses(self, point: TrainedPoint, rows: Tensor) -> LinearOperator:
        """The matrix from the rows alone; arguments as for every map."""
        return operators.gauss_newton_of_rows(point.risk, rows, point.sweep.outputs, point.sweep.targets)

    def default_solver(self, point: TrainedPoint) -> Solver:
        """``Dual`` where all rows fit and weights decay alike, ``Dense`` for few weights, else ``CG``.

        Args:
            point: Trained point at which the map is linearised.
        """
        if point.gram_fits and operators.regularisation_of(point.risk)[1] is None:
            return point.gram_solver()
        return point.dense_solver() if point.weights <= MAX_DENSE else CG()

    def settle(self, point: TrainedPoint, solver: Solver) -> Callable[[Prepared], Prepared] | None:
        """Symmetries are the kernel, which weight decay hides from this matrix; arguments as usual.

        Warns:
            SolsetWarning: If rounding hides eigenvalues as large as the weight decay.
        """
        is_cut = isinstance(solver, Dense) and solver.rank_tolerance is not None
        if is_cut or not point.risk.has_decay:  # without decay they are in the kernel already
            return None

        def settle(prepared: Prepared) -> Prepared:
            _doubt(point, prepared)
            symmetries = point.symmetries
            if symmetries is None:
                return prepared
            decayed = point.risk.weight_decay * symmetries.along  # the outputs do not change
            if not symmetries.hold_for(prepared.operator, decayed):
                return prepared
            return without(symmetries.directions, prepared, solver)

        return settle

    def qualification(self, rank: int, rows: int, left_out: int) -> Qualification:  # noqa: ARG002 - never exact
        """Never verified: the matrix stands for the Hessian; arguments as for every map."""
        return Qualification(None, "exact only at zero residual or for outputs linear in the weights")


def _doubt(point: TrainedPoint, prepared: Prepared) -> None:
    """Marks a matrix of which rounding hides eigenvalues as large as the decay, and warns."""
    factor, side = prepared.factor(), min(point.rows, point.weights)
    if factor is None:
        in_products(point.risk, prepared)
        return
    cut = default_tolerance((side, side), torch.float64) * factor.largest
    doubt = hidden_decay(point.risk, cut) if factor.smallest <= cut else ""
    if not doubt:
        return
    prepared.doubt, prepared.is_blind = doubt, True
    warnings.warn(doubt, SolsetWarning, stacklevel=3)
