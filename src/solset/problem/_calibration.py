"""The damping of the proximal map, measured by a few real reruns of the training."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from solset.changes import Change, Remove
from solset.checks import checked, within
from solset.errors import SolsetWarning, bad_type, bad_value
from solset.linalg import krylov
from solset.operators import CurvatureRoot, GaussNewton
from solset.problem._problem import Problem
from solset.problem._proximal import SHARE, Proximal, scale_and_lift
from solset.results import Result, computed, copy_of

STEPS = 80  # dimension of the Krylov space of each removal
LEAST, MOST = 1e-4, 1e2  # smallest and largest damping that is compared, in the largest eigenvalue
GRID, ROUNDS = 25, 4  # dampings in a round; each round looks between the neighbours of the best one
LOW = 0.2  # correlation up to which predictions and reruns have little in common


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Result):
    """The damping at which the proximal map predicts real reruns best, and how well it does.

    Attributes:
        damping: Damping ``δ`` of the map, in units of the Hessian.
        correlation: Cosine of the angle between predicted and real changes of the training outputs, in the
            curvature of the loss, over all reruns. It is measured on the removals that chose the damping.
        size: Length of the predicted changes relative to the real ones, in the same norm.
        default_size: The same for the damping that the map takes by itself.
        reruns: Number of trainings that were run again.
        is_inside: Whether the damping lies inside the range that was searched.
    """

    damping: float
    correlation: float
    size: float
    default_size: float
    reruns: int
    is_inside: bool

    @property
    def optimality(self) -> Proximal:
        """The map with this damping, to be passed as ``optimality=``."""
        return Proximal(damping=self.damping)

    @property
    def headline(self) -> str:
        """The damping, and what it was measured by."""
        return (
            f"damping {self.damping:.3g} from {self.reruns} reruns, correlation {self.correlation:.2g}, "
            f"predicted sizes {self.size:.2g} of the real ones"
        )

    @computed
    def message(self) -> str:
        """What speaks against the calibration; empty where nothing does."""
        if self.correlation <= LOW:
            return (
                f"predicted and real changes of the outputs have a correlation of {self.correlation:.2g}: "
                f"training is chaotic at this scale, or was run again from another seed or by another recipe"
            )
        if self.is_inside:
            return ""
        end = f"the best damping, {self.damping:.3g}, lies at the end of the range"
        return f"{end}: the reruns do not determine it"


@checked
def calibrate(
    problem: Problem,
    retrain: Callable[[Change], nn.Module],
    *,
    reruns: int = 3,
    share: float = 0.1,
    seed: int = 0,
) -> Calibration:
    """The damping of the proximal map at which it predicts a few real reruns best.

    The weights alone do not tell how long training was, and so not the damping ``δ``. Here the recipe is run
    again without random parts of the points. With ``r_j`` the real changes of the training outputs,
    ``b_j`` the change of the gradient at the present weights and ``Λ`` the curvature of the loss, ``δ``
    minimises ``Σ_j ‖r_j + J (G + δI)⁻¹ b_j‖²_Λ``. What chance adds to ``r_j`` is not correlated with
    ``J (G + δI)⁻¹ b_j``, and does not bias the sum of squares in ``δ``.

    Args:
        problem: Weights at the end of the training, with its loss and data.
        retrain: Function that runs the same recipe from the same seed on the data without some points, and
            returns the module: ``lambda change: run.retrain(change).model`` for a run, for example.
        reruns: Number of trainings that are run again.
        share: Share of the points that each rerun leaves out.
        seed: Seed of the choice of these points.

    Raises:
        TypeError: If the function returns no module.
        ValueError: If a rerun changes no output or diverges, its module is another one, the loss has no
            curvature, or points that are left out have no gradient.

    Warns:
        SolsetWarning: If predictions and reruns have little in common, or the range has no best damping.

    Cost: a training, two gradients and about 160 products with ``J`` or its transpose for each rerun, and the
    memory of 80 vectors of outputs and of weights.

    Example:
        >>> from solset import Training
        >>> x, y = torch.randn(2, 60, 1, generator=torch.Generator().manual_seed(0))
        >>> sgd = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.05), "epochs": 10}
        >>> run = Training(lambda: nn.Linear(1, 1), nn.MSELoss(), x, y, **sgd).run()
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # the weights are not stationary
        ...     problem = Problem(run.model, nn.MSELoss(), x, y)
        >>> calibration = calibrate(problem, lambda change: run.retrain(change).model)
        >>> 0.9 < calibration.size < 1.1
        True
    """
    count = problem.point_count
    within("reruns", reruns, 1, cure="Take 3, for example.")
    within("share", share, 1 / count, 0.5, cure="Take 0.1, for example.")
    if refusal := Proximal().refusal(problem.point):
        cure = "Calibrate where the proximal map applies."
        raise bad_value("problem", expected="a loss with curvature", got=refusal, cure=cure)
    matrix = GaussNewton(problem.risk(), memory_budget=problem.memory_budget)
    largest, lift = scale_and_lift(matrix)
    generator = torch.Generator().manual_seed(seed)
    trials = []
    for _ in range(reruns):
        points = torch.randperm(count, generator=generator)[: max(1, round(share * count))]
        trials.append(_trial(problem, matrix, Remove(sorted(points.tolist())), retrain))
    low, high = math.log(LEAST * largest + lift), math.log(MOST * largest + lift)
    damping, is_inside = _best(trials, low, high)
    cosine, size = _measured(trials, damping)
    _, default_size = _measured(trials, SHARE * largest + lift)
    result = Calibration(damping, cosine, size, default_size, reruns, is_inside)
    if result.message:
        warnings.warn(result.message, SolsetWarning, stacklevel=2)
    return result


@dataclass(frozen=True, eq=False)
class _Trial:
    """Real and predicted changes of the outputs for one removal, in the curvature of the loss."""

    real: Tensor  # Real change ``Λ^{1/2} r``, ``(m,)``
    rows: Tensor  # Products ``Λ^{1/2} J V`` with the basis of the Krylov space, ``(m, k)``
    matrix: Tensor  # Matrix ``Vᵀ G V``, ``(k, k)``
    length: float  # Length of the right-hand side, which is the first vector of the basis

    def predicted(self, damping: float) -> Tensor:
        """``-Λ^{1/2} J (G + δI)⁻¹ b``: every damping has the same Krylov space."""
        first = torch.zeros(len(self.matrix), dtype=torch.float64)
        first[0] = self.length
        return -self.rows @ torch.linalg.solve(self.matrix + damping * torch.eye(len(first)), first)

    def error(self, damping: float) -> float:
        """The squared distance of prediction and rerun."""
        return float((self.predicted(damping) - self.real).square().sum())


def _trial(
    problem: Problem, matrix: GaussNewton, change: Remove, retrain: Callable[[Change], nn.Module]
) -> _Trial:
    """One rerun beside the Krylov space in which every damping has its prediction."""
    force = change.applied_to(problem.risk()).gradient() - problem.gradient()
    space = krylov(matrix, force, STEPS)
    if not space.vectors.shape[1]:
        cure = "Nothing has to be estimated there: the weights fit the points that are left out."
        got = f"no change of the gradient by {change!r}"
        raise bad_value("problem", expected="one whose gradient the points change", got=got, cure=cure)
    model = retrain(change)
    if not isinstance(model, nn.Module):
        cure = "Return the trained module, such as run.retrain(change).model."
        raise bad_type("retrain", expected="a function that returns a module", got=model, cure=cure)
    moved = problem.with_model(copy_of(model).eval()).point.sweep.outputs - problem.point.sweep.outputs
    root = CurvatureRoot(problem.risk(), memory_budget=problem.memory_budget)
    real = (root @ moved.flatten()).to("cpu", torch.float64)
    if not bool(torch.isfinite(real).all() & real.any()):
        expected = "a module with other outputs, all finite"
        got = "the same outputs" if bool(torch.isfinite(real).all()) else "outputs that are not finite"
        cure = "Run the whole training again without the points, and return its module."
        raise bad_value("retrain", expected=expected, got=got, cure=cure)
    rows = (matrix.factor @ space.vectors).to("cpu", torch.float64)
    return _Trial(real, rows, space.matrix, float(force.norm()))


def _best(trials: list[_Trial], low: float, high: float) -> tuple[float, bool]:
    """The damping with the smallest error, and whether it lies inside the range; bounds are logarithms."""
    first, last = low, high
    for _ in range(ROUNDS):
        grid = torch.linspace(first, last, GRID, dtype=torch.float64)
        errors = [sum(t.error(math.exp(at)) for t in trials) for at in grid.tolist()]
        place = errors.index(min(errors))
        first, last = float(grid[max(place - 1, 0)]), float(grid[min(place + 1, GRID - 1)])
    best = (first + last) / 2
    return math.exp(best), bool(low + 1e-3 < best < high - 1e-3)


def _measured(trials: list[_Trial], damping: float) -> tuple[float, float]:
    """Cosine of the angle between predictions and reruns, and the length of the predictions."""
    predicted, real = (
        torch.cat(parts) for parts in ([t.predicted(damping) for t in trials], [t.real for t in trials])
    )
    length = float(predicted.norm() / real.norm())
    return float(predicted @ real) / float(predicted.norm() * real.norm()), length
