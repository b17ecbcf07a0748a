"""A short training to a minimum: L-BFGS, then Newton's steps on central differences."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .combinations import Training
from .oracle import STEP, Differences


def descend(leaves: Sequence[Tensor], risk: Callable[[], Tensor], **limits: Any) -> None:
    """Lowers a risk in place by L-BFGS with a line search.

    Args:
        leaves: Weights that are changed.
        risk: Function that returns the risk at the weights as they are.
        limits: Limits and tolerances of ``torch.optim.LBFGS``.
    """
    optimiser = torch.optim.LBFGS(leaves, tolerance_change=0, line_search_fn="strong_wolfe", **limits)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = risk()
        value.backward()
        return value

    optimiser.step(closure)


def train(training: Training) -> bool:
    """Trains in place; whether the gradient became small at a point whose curvature is not negative.

    Args:
        training: Training in float64, changed in place.
    """
    leaves = [*training.moving, *training.learned]
    descend(leaves, training.risk, max_iter=120, history_size=30, tolerance_grad=1e-6)
    is_minimum = polish(training)
    for leaf in leaves:
        leaf.grad = None
    return is_minimum


def polish(training: Training, steps: int = 6, tol: float = 1e-10) -> bool:
    """Newton's steps with the curvature from central differences, without its kernel.

    Args:
        training: Training in float64, changed in place.
        steps: Largest number of steps.
        tol: Gradient norm that is reached.
    """
    differences = Differences(training)
    w, eye = differences.start.clone(), torch.eye(len(differences.start), dtype=torch.float64)
    for k in range(steps):
        gradient = differences.gradient(w)
        size = float(gradient.norm())
        if not size < (1e-1 if k < 3 else 1e-5):  # at a kink Newton's steps get nowhere
            return False
        columns = [differences.gradient(w + STEP * e) - differences.gradient(w - STEP * e) for e in eye]
        H = torch.stack(columns, dim=1) / (2 * STEP)
        values, vectors = torch.linalg.eigh((H + H.T) / 2)
        if size <= tol:
            differences._set(w)
            top = float(values.abs().max())  # 0 where a loss without decay drives the weights to infinity
            return float(values[0]) >= -1e-6 * top and top > 1e-5 and float(w.abs().max()) < 30
        inverse = torch.where(values.abs() > 1e-7 * values.abs().max(), 1 / values.abs(), 0.0)
        step, length = vectors @ (inverse * (vectors.T @ gradient)), 1.0
        while not float(differences.gradient(w - length * step).norm()) < size and length > 0.01:
            length /= 2
        w = w - length * step
    return False
