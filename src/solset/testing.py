"""Checks that users can run on their own operators, models and problems."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from solset.checks import checked, positive, within
from solset.errors import Status, bad_value
from solset.linalg import LinearOperator
from solset.modulus import LipschitzModulus
from solset.problem import Problem, keeps_outputs
from solset.results import Result
from solset.retraining import LevenbergMarquardt, Method, Newton
from solset.risk import EmpiricalRisk


def adjoint_gap(operator: LinearOperator, *, generator: torch.Generator) -> float:
    """``|⟨A v, u⟩ - ⟨v, Aᵀ u⟩| / (‖A v‖‖u‖)`` at random ``u`` and ``v``: rounding for a true adjoint.

    Args:
        operator: Linear operator ``A`` to check.
        generator: Source of the random vectors.

    Example:
        >>> from solset.linalg import DenseOperator
        >>> matrix = DenseOperator(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
        >>> adjoint_gap(matrix, generator=torch.Generator().manual_seed(0)) < 1e-15
        True
    """
    m, p = operator.shape
    v = torch.randn(p, generator=generator, dtype=torch.float64).to(operator.device, operator.dtype)
    u = torch.randn(m, generator=generator, dtype=torch.float64).to(operator.device, operator.dtype)
    image = operator @ v
    gap = abs(float(image @ u) - float(v @ (operator.T @ u)))
    size = float(image.norm() * u.norm())
    return gap / size if size > 0 else gap


@checked
def optimality_errors(
    problem: Problem,
    dx: Tensor,
    change: Tensor,
    *,
    points: Sequence[int] | None = None,
    scales: Sequence[float],
) -> list[float]:
    """``‖R(x̄ + tΔx, w̄ + tv) - R(x̄, w̄)‖`` along ``t``, of second order exactly if ``v`` solves for ``Δx``.

    Args:
        problem: Problem at the trained weights.
        dx: Direction ``Δx`` of the data, ``(|K|, *input)``.
        change: Change ``v`` of the weights, ``(p,)``.
        points: Indices ``K`` of the moved points; all by default.
        scales: Values of ``t``, in any order.

    Returns:
        One norm per scale.

    Cost: one gradient per scale.
    """
    chosen = problem.check_points(points)
    space = problem.data_space(chosen)
    step, start = space.unflatten(space.flatten(dx)), problem.gradient()
    errors = []
    for t in scales:
        moved = problem.risk().move(chosen, t * step).at(problem.weights() + t * change)
        errors.append(float((moved.gradient() - start).norm()))
    return errors


def log_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of ``log y`` against ``log x``: the order of an error.

    Args:
        x: Positive numbers, such as step sizes.
        y: Positive numbers, such as errors.

    Example:
        >>> round(log_slope([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]), 6)
        2.0
    """
    return float(np.polyfit(np.log(np.asarray(x)), np.log(np.asarray(y)), 1)[0])


@dataclass(frozen=True, repr=False)
class LipschitzTrials(Result):
    """The ratios of a brute-force test of the Lipschitz-like property.

    Attributes:
        modulus: Lipschitz modulus ``κ`` that was tested.
        largest: Largest ratio ``d(w, S(x')) / ‖x - x'‖`` of all trials.
        along_worst_direction: Larger ratio of the two signs of the worst direction; 0 without a direction.
        ratios: Ratios of the random pairs, in the order of the draw.
        unsettled: Number of trials without a nearest solution; no number above includes them.
    """

    modulus: float
    largest: float
    along_worst_direction: float
    ratios: tuple[float, ...]
    unsettled: int

    @property
    def headline(self) -> str:
        """The largest ratio, the modulus, and the number of trials that say nothing."""
        unsettled = f", {self.unsettled} trials unsettled" if self.unsettled else ""
        return f"largest ratio {self.largest:.4g} for a modulus of {self.modulus:.4g}{unsettled}"

    @property
    def excess(self) -> float:
        """``largest / κ - 1``: at most a multiple of the radius if the modulus is right."""
        if self.modulus > 0:
            return self.largest / self.modulus - 1
        return float("inf") if self.largest > 0 else 0.0


@checked
def verify_lipschitz_like(
    problem: Problem,
    modulus: LipschitzModulus,
    *,
    radius: float,
    trials: int,
    generator: torch.Generator,
    progress: bool | None = None,
) -> LipschitzTrials:
    """The largest ratios in a test of ``S(x) ∩ U ⊂ S(x') + κ‖x - x'‖ 𝔹`` on pairs near ``x̄``.

    Solutions are true nearest ones. Random pairs rarely reach ``κ``, so both signs of the worst direction are
    tried from ``x̄`` as well.

    Args:
        problem: Problem whose modulus was computed.
        modulus: Finite result of :func:`solset.lipschitz_modulus`.
        radius: Largest distance of ``x`` and ``x'`` from ``x̄``, in input units.
        trials: Number of random pairs, 0 or more.
        generator: Source of the random pairs.
        progress: Whether to show a progress bar; by default only on a terminal.

    Raises:
        ValueError: If the modulus is infinite, the radius not positive, or the number of trials negative.

    Cost: two searches for a nearest solution for each pair, each of a few Gram matrices or Newton steps.

    Example:
        >>> from torch import nn
        >>> from solset import lipschitz_modulus
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> problem = Problem(model, nn.MSELoss(), one, 2 * one)  # w = 2 / x
        >>> options = {"radius": 0.01, "trials": 0, "generator": torch.Generator()}
        >>> trials = verify_lipschitz_like(problem, lipschitz_modulus(problem), **options)
        >>> round(trials.modulus, 3), round(trials.largest, 3)  # 2, and 2 / 0.99
        (2.0, 2.02)
    """
    if not modulus.value < float("inf"):
        raise bad_value("modulus", expected="finite", got=modulus.value, cure="There is nothing to verify.")
    positive("radius", radius, cure="Use 1e-3.")
    within("trials", trials, 0, cure="Use 0 to test the worst direction only.")
    points = list(modulus.points)
    part = problem.restrict(points=None if modulus.is_joint else points, parameters=modulus.layer)
    points = points if modulus.is_joint else list(range(len(points)))
    risk = part.risk()
    method: Method = Newton(gradient_tol=1e-13)
    if keeps_outputs(modulus.optimality):
        method = LevenbergMarquardt(output_tol=1e-6 * radius, step_tol=1e-6)
    ratio = _Solutions(risk, points, method).ratio
    shape = part.data_space(points).shape
    here = torch.zeros(shape, dtype=risk.weights.dtype, device=risk.weights.device)
    along = []
    if modulus.worst_direction is not None:
        along = [ratio(here, sign * radius * modulus.worst_direction) for sign in (1.0, -1.0)]
    drawn = []
    for _ in trange(trials, desc="pairs", disable=None if progress is None else not progress, leave=False):
        pair = [_in_ball(here, radius, generator) for _ in range(2)]
        drawn.append(ratio(*pair))
    random, worst = ([r for r in ratios if r is not None] for ratios in (drawn, along))
    return LipschitzTrials(
        modulus=modulus.value,
        largest=max([*random, *worst], default=0.0),
        along_worst_direction=max(worst, default=0.0),
        ratios=tuple(random),
        unsettled=len(drawn) + len(along) - len(random) - len(worst),
    )


@dataclass(frozen=True)
class _Solutions:
    """True solutions on moved data, each the nearest one to others."""

    risk: EmpiricalRisk  # Empirical risk at the trained point
    points: Sequence[int]  # Indices of the points that move
    method: Method  # Search for a solution

    def ratio(self, first: Tensor, second: Tensor) -> float | None:
        """The distance of the nearest solutions over that of two moves; ``None`` where one was not found."""
        trained = self.risk.weights
        start = trained if not bool(first.any()) else self._nearest(trained, first)
        end = None if start is None else self._nearest(start, second)
        if start is None or end is None:
            return None
        return float((end - start).norm() / (second - first).norm())

    def _nearest(self, weights: Tensor, dx: Tensor) -> Tensor | None:
        moved = self.risk.move(self.points, dx).at(weights)
        solution = self.method.run(moved, self.risk.outputs)
        return solution.weights if solution.status is Status.CONVERGED else None


def _in_ball(like: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """A vector in a random direction with a random length up to the radius."""
    draw = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    reach = radius * float(torch.rand((), generator=generator))
    return (reach * draw / draw.norm()).to(like)
