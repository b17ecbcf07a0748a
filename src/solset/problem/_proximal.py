"""The proximal map: how the present weights answer a change, whether or not they are stationary."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from solset import operators
from solset.checks import positive, require
from solset.derivatives import Qualification
from solset.errors import bad_value
from solset.linalg import LinearOperator, krylov
from solset.problem._gauss_newton import GaussNewton
from solset.problem._point import MAX_DENSE, LinearisedMap, TrainedPoint
from solset.problem._stationary import Stationary
from solset.solvers import CG, Prepared, Solver
from solset.solvers.filters import Recipe

UNCALIBRATED = (
    "Its length is not calibrated, since the weights do not tell how long training was: it may be ten times "
    "too long or too short, and more for very short trainings; pass "
    "optimality=Proximal(recipe=filters.Recipe.of(optimizer, model, steps=...)) for the length of yours, or "
    "solset.problem.calibrate(problem, retrain).optimality for one that real reruns measured"
)
HELD = 1e4  # damping of weights that a recipe holds, in the largest damping of the others
FULL_RANK = 1e-15  # relative size of an eigenvalue below which float64 cannot tell it from zero
SHARE = 5e-3  # damping relative to the largest eigenvalue of the Gauss–Newton matrix, where none is given
# Four times the bound of Chebyshev's polynomials for CG at that condition number, so that a plan does not
# count thousands of steps that are never taken
MOST_STEPS = round(2 * (1 + 1 / SHARE) ** 0.5 * math.log(2 / CG().tol))
FEW_ROWS = 1500  # rows up to which a decomposition of their Gram matrix costs less than a few solves by CG
DAMPING_PRODUCTS = 12  # dimension of the Krylov space in which the extreme eigenvalues are looked for


@dataclass(frozen=True)
class Proximal(LinearisedMap):
    """The stationary map of a training that starts at ``w̄``, linearised by ``JᵀΛJ + (λ + δ)I`` and ``B``.

    Weights that training left early are not stationary for the risk. They are stationary for the *proximal
    Bregman objective*, in which the losses of the outputs are replaced by their Bregman divergences from the
    present outputs, and a damping ``δ/2 ‖w - w̄‖²`` is added (Bae et al. 2022, equation 8). Its minimum on the
    changed data is isolated, so that the set of solutions is one point. Short training does not feel
    curvature far below ``1 / (sum of its learning rates)``, and the damping stands for that.

    The weights alone do not tell how long training was, so that the length of an answer is right only where
    damping or recipe are given. With a recipe of duration ``t``, metric ``P`` and decoupled decay ``λ'`` the
    damping is the diagonal matrix ``(1/t + λ') P⁻¹``.

    Attributes:
        damping: Number ``δ`` that is added to every eigenvalue, in units of the Hessian; it is about one over
            the sum of the learning rates of training. By default 0.005 of the largest eigenvalue.
        recipe: Duration and metric of the training, as ``filters.Recipe.of(optimizer, model)`` reads them;
            ``None`` where they are not known. Not together with a damping.
    """

    damping: float | None = None
    recipe: Recipe | None = None
    name: ClassVar[str] = "proximal"
    is_exact: ClassVar[bool] = False
    feels_gradient: ClassVar[bool] = False
    solvers: ClassVar[str] = GaussNewton.solvers

    def __post_init__(self) -> None:
        require("recipe", self.recipe, Recipe | None, cure="Pass filters.Recipe.of(optimizer, model).")
        if self.damping is not None:
            if self.recipe is not None:
                cure = "Leave one of them out."
                raise bad_value("damping", expected="left out beside a recipe", got=self.damping, cure=cure)
            positive("damping", self.damping, cure="Leave it out, or take 1 / the sum of learning rates.")

    def operator(self, point: TrainedPoint) -> LinearOperator:
        """The damped Gauss–Newton matrix; argument as for every map. Cost: twelve products for the rule."""
        if self.recipe is not None:
            decay = point.risk.weight_decay + self._damping_of(self.recipe, point)
            return operators.GaussNewton(
                replace(point.risk, weight_decay=decay), memory_budget=point.memory_budget
            )
        matrix = operators.GaussNewton(point.risk, memory_budget=point.memory_budget)
        matrix.damping += chosen_damping(matrix) if self.damping is None else self.damping
        return matrix

    def _damping_of(self, recipe: Recipe, point: TrainedPoint) -> float | Tensor:
        """``(1/t + λ') P⁻¹``; weights that the recipe holds get a damping that holds them."""
        strength = 1.0 / recipe.length + torch.as_tensor(recipe.decay, dtype=torch.float64)
        if not recipe.is_diagonal:
            return float(strength)
        scale = torch.ones(1) if recipe.scale is None else recipe.scale
        for part in (strength, scale):
            if part.ndim and len(part) not in {1, point.weights}:
                got, cure = f"one of {len(part)}", "Read it from an optimizer of these weights alone."
                raise bad_value("recipe", expected=f"one of {point.weights} weights", got=got, cure=cure)
        damping = (strength.to(scale.device) / scale.double()).expand(point.weights).clone()
        is_held = torch.isinf(damping)
        damping[is_held] = HELD * damping[~is_held].max() if bool((~is_held).any()) else HELD
        return damping.to(point.risk.weights)

    def default_solver(self, point: TrainedPoint) -> Solver:
        """``Dense`` for few weights, ``Dual`` for few rows, else ``CG``, which the damping makes fast.

        Args:
            point: Trained point at which the map is linearised.
        """
        if point.weights <= min(MAX_DENSE, point.rows):
            dense = point.dense_solver()  # nothing is singular, however far the damping of a recipe spreads
            return dense if self.recipe is None else replace(dense, rank_tolerance=FULL_RANK)
        is_even = self.recipe is None or not self.recipe.is_diagonal
        if is_even and point.rows <= FEW_ROWS:
            return GaussNewton().default_solver(point)
        return CG() if self.recipe or self.damping else CG(max_steps=MOST_STEPS)

    def filters_act_on(self, point: TrainedPoint, solver: Solver | None) -> Callable[[], Prepared]:
        """The Hessian, which further training follows, without damping; arguments as usual."""
        hessian = Stationary().operator(point)
        used = Stationary().default_solver(point) if solver is None or not solver.takes(hessian) else solver
        return lambda: used.prepare(hessian)  # whose kernel no filter needs to know

    def refusal(self, point: TrainedPoint) -> str:
        """The lack of a curvature to damp; argument as for every map."""
        if point.risk.is_whole:  # its curvature couples the points: one product tells
            matrix = operators.GaussNewton(point.risk, memory_budget=point.memory_budget)
            start = torch.randn(
                point.weights, generator=torch.Generator().manual_seed(0), dtype=torch.float64
            )
            is_flat = not bool((matrix @ start.to(point.risk.weights)).any())
        else:
            is_flat = point.curvature_fits and not bool(point.curvature.values.any())
        return "a loss without curvature at the present outputs" if is_flat else ""

    @property
    def remark(self) -> str:
        """Which element its solution is, whether its length is known, and how to ask for another one."""
        if self.recipe is not None:
            size = f"damping of a training of length {self.recipe.length:.3g}"
        elif self.damping is not None:
            size = f"damping {self.damping:.3g}"
        else:
            size = "damping 0.005 of the largest curvature"
        which = (
            f"this is the element of the proximal map: the damped Gauss–Newton answer ({size}) of these "
            f'weights, which need not be stationary; pass optimality="stationary" for the set of '
            f"stationary weights"
        )
        has_length = self.damping is not None or self.recipe is not None
        return which if has_length else f"{which}. {UNCALIBRATED}"

    def qualification(self, rank: int, rows: int, left_out: int) -> Qualification:  # noqa: ARG002 - never exact
        """Never verified: the objective is not the risk; arguments as for every map."""
        return Qualification(None, "the proximal objective stands for the risk, and is damped")


def chosen_damping(matrix: LinearOperator) -> float:
    """0.005 of the largest eigenvalue, and twice the most negative one, for a loss that is not convex.

    Args:
        matrix: Gauss–Newton matrix, ``(p, p)``.

    Cost: up to twelve products.
    """
    largest, lift = scale_and_lift(matrix)
    return SHARE * largest + lift


def scale_and_lift(matrix: LinearOperator) -> tuple[float, float]:
    """The largest eigenvalue in size, and twice the most negative one, without its sign.

    Args:
        matrix: Gauss–Newton matrix, ``(p, p)``.

    Cost: up to twelve products.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[0], generator=generator, dtype=torch.float64)
    space = krylov(matrix, start.to(matrix.device, matrix.dtype), DAMPING_PRODUCTS)
    values = torch.linalg.eigvalsh(space.matrix)
    return float(values.abs().max()), 2 * max(0.0, -float(values[0]))
