"""Ways to retrain from the trained weights by first derivatives: gradient descent and L-BFGS."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from tqdm import trange

from solset.checks import checked, within
from solset.courses import Retrained
from solset.errors import Status, bad_value
from solset.retraining._ends import finish
from solset.risk import EmpiricalRisk


@checked
@dataclass(frozen=True)
class GradientDescent:
    """Full-batch gradient descent from ``w̄`` for a stated number of steps.

    Attributes:
        steps: Number ``k`` of steps; each costs one gradient.
        learning_rate: Learning rate ``η`` for the loss as reduced.
        record_at: Steps after which to keep the weights, from 1 to ``steps``.
        progress: Whether to show a progress bar; by default only on a terminal.

    Raises:
        ValueError: If the number of steps is negative, or a step to record is not taken.
    """

    steps: int
    learning_rate: float
    record_at: tuple[int, ...] = ()
    progress: bool | None = None

    def __post_init__(self) -> None:
        within("steps", self.steps, 0, cure="Count the steps taken.")
        check_recorded(self.record_at, self.steps)

    def run(self, start: EmpiricalRisk, target: Tensor) -> Retrained:  # noqa: ARG002 - part of the interface
        """Where descent from the changed risk at ``w̄`` ends; ``target`` is not used."""
        risk, course = start, {}
        hidden = None if self.progress is None else not self.progress
        for step in trange(1, self.steps + 1, desc="retraining", disable=hidden, leave=False):
            risk = risk.at(risk.weights - self.learning_rate * risk.gradient())
            if step in self.record_at:
                course[step] = risk.weights
        return finish(start, risk, self.steps, Status.CONVERGED, course)


@checked
@dataclass(frozen=True)
class LBFGS:
    """L-BFGS from ``w̄`` (SciPy's L-BFGS-B without bounds): what warm retraining means in practice.

    Attributes:
        gradient_tol: Largest entry of the gradient at which to stop.
        max_gradients: Limit of evaluations of the risk with its gradient.
        memory: Number of pairs from which the curvature is estimated.
    """

    gradient_tol: float = 1e-10
    max_gradients: int = 500
    memory: int = 20

    def run(self, start: EmpiricalRisk, target: Tensor) -> Retrained:  # noqa: ARG002 - part of the interface
        """Where the minimisation of the changed risk from ``w̄`` ends; ``target`` is not used."""
        course: dict[int, Tensor] = {}
        count = 0

        def as_weights(x: np.ndarray) -> Tensor:
            return torch.from_numpy(x.copy()).to(start.weights)

        def both(x: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal count
            count += 1
            value, gradient = start.at(as_weights(x)).value_and_gradient()
            return value, _as_array(gradient)

        def keep(x: np.ndarray) -> None:
            course[count] = as_weights(x)

        limits = {"maxfun": self.max_gradients, "maxiter": self.max_gradients, "maxcor": self.memory}
        out = minimize(
            both,
            _as_array(start.weights),
            jac=True,
            method="L-BFGS-B",
            callback=keep,
            options={**limits, "gtol": self.gradient_tol, "ftol": 0.0},
        )
        end = start.at(as_weights(out.x))
        is_met = float(end.gradient().abs().max()) <= self.gradient_tol
        return finish(start, end, count, Status.CONVERGED if is_met else Status.MAX_STEPS, course)


def _as_array(vector: Tensor) -> np.ndarray:
    return vector.to("cpu", torch.float64).numpy()


def check_recorded(record_at: Sequence[int], steps: int) -> None:
    """Refuses steps to record that are not taken."""
    if not all(1 <= step <= steps for step in record_at):
        raise bad_value("record_at", expected=f"in 1..{steps}", got=tuple(record_at), cure="Take more steps.")
