"""The proximal map: how the present weights answer a change, whether or not they are stationary."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from solset import operators
from solset.checks import positive
from solset.derivatives import Qualification
from solset.linalg import LinearOperator, krylov
from solset.problem._gauss_newton import GaussNewton
from solset.problem._point import MAX_DENSE, LinearisedMap, TrainedPoint
from solset.problem._stationary import Stationary
from solset.solvers import CG, Prepared, Solver

SHARE = 5e-3  # damping relative to the largest eigenvalue of the Gauss–Newton matrix, where none is given
FEW_ROWS = 1500  # rows up to which a decomposition of their Gram matrix costs less than a few solves by CG
PRODUCTS = 12  # dimension of the Krylov space in which the extreme eigenvalues are looked for


@dataclass(frozen=True)
class Proximal(LinearisedMap):
    """The stationary map of a training that starts at ``w̄``, linearised by ``JᵀΛJ + (λ + δ)I`` and ``B``.

    Weights that training left early are not stationary for the risk. They are stationary for the *proximal
    Bregman objective*, in which the losses of the outputs are replaced by their Bregman divergences from the
    present outputs, and a damping ``δ/2 ‖w - w̄‖²`` is added (Bae et al. 2022, equation 8). Its minimum on the
    changed data is isolated, so that the set of solutions is one point. Short training does not feel
    curvature far below ``1 / (sum of its learning rates)``, and the damping stands for that.

    Attributes:
        damping: Number ``δ`` that is added to every eigenvalue, in units of the Hessian; it is about one over
            the sum of the learning rates of training. By default 0.005 of the largest eigenvalue.
    """

    damping: float | None = None
    name: ClassVar[str] = "proximal"
    is_exact: ClassVar[bool] = False
    feels_gradient: ClassVar[bool] = False
    solvers: ClassVar[str] = GaussNewton.solvers

    def __post_init__(self) -> None:
        if self.damping is not None:
            positive("damping", self.damping, cure="Leave it out, or take 1 / the sum of learning rates.")

    def operator(self, point: TrainedPoint) -> LinearOperator:
        """The damped Gauss–Newton matrix; argument as for every map. Cost: twelve products for the rule."""
        matrix = operators.GaussNewton(point.risk, memory_budget=point.memory_budget)
        matrix.damping += chosen_damping(matrix) if self.damping is None else self.damping
        return matrix

    def default_solver(self, point: TrainedPoint) -> Solver:
        """``Dense`` for few weights, ``Dual`` for few rows, else ``CG``, which the damping makes fast.

        Args:
            point: Trained point at which the map is linearised.
        """
        if point.weights <= min(MAX_DENSE, point.rows):
            return point.dense_solver()
        return GaussNewton().default_solver(point) if point.rows <= FEW_ROWS else CG()

    def filters_act_on(self, point: TrainedPoint, solver: Solver | None) -> Callable[[], Prepared]:
        """The Hessian, which further training follows, without damping; arguments as usual."""
        hessian = Stationary().operator(point)
        used = Stationary().default_solver(point) if solver is None or not solver.takes(hessian) else solver
        return lambda: used.prepare(hessian)  # whose kernel no filter needs to know

    def refusal(self, point: TrainedPoint) -> str:
        """The lack of a curvature to damp; argument as for every map."""
        curvature = point.curvature_fits and not bool(point.curvature.values.any())
        return "a loss without curvature at the present outputs" if curvature else ""

    @property
    def remark(self) -> str:
        """Which element its solution is, and how to ask for another one."""
        size = "0.005 of the largest curvature" if self.damping is None else f"{self.damping:.3g}"
        return (
            f"this is the element of the proximal map: the damped Gauss–Newton answer (damping {size}) of "
            f'these weights, which need not be stationary; pass optimality="stationary" for the set of '
            f"stationary weights, or a filter of your training's length to element(...)"
        )

    def qualification(self, rank: int, rows: int, left_out: int) -> Qualification:  # noqa: ARG002 - never exact
        """Never verified: the objective is not the risk; arguments as for every map."""
        return Qualification(None, "the proximal objective stands for the risk, and is damped")


def chosen_damping(matrix: LinearOperator) -> float:
    """0.005 of the largest eigenvalue, and twice the most negative one, for a loss that is not convex.

    Args:
        matrix: Gauss–Newton matrix, ``(p, p)``.

    Cost: up to twelve products.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[0], generator=generator, dtype=torch.float64)
    space = krylov(matrix, start.to(matrix.device, matrix.dtype), PRODUCTS)
    values = torch.linalg.eigvalsh(space.matrix)
    return SHARE * float(values.abs().max()) + 2 * max(0.0, -float(values[0]))
