"""Where a real training ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from solset.errors import Status
from solset.results import WeightsResult, computed
from solset.risk import Layout


@dataclass(frozen=True, eq=False, repr=False)
class Retrained(WeightsResult):
    """Where real training on the changed data ended.

    Attributes:
        weights: Weights at the end, ``(p,)``.
        change: Difference to the trained weights, ``weights - w̄``, ``(p,)``.
        gradient_norm: Norm of the gradient of the changed risk at the end.
        risk: Changed risk at the end.
        gradients: Number of full-batch gradients taken, or their equivalent in passes over the data.
        status: Outcome: ``converged`` if the method's own target was met, else ``max_steps``,
            ``indefinite`` (at a saddle) or ``nonfinite``. A training of a stated duration meets its target
            by taking all its steps.
        layout: Names and shapes of the weights.
        smallest: Smallest eigenvalue of the Hessian at the end that was met, where the method looked for one;
            ``nan`` elsewhere. It is negative at a saddle.
        left: Description of what is left to the method's target, where that is no gradient.
        is_solution: Whether the weights count as a solution where steps ran out. They do not off a minimum
            that Newton's method looks for, nor off the set on which the nearest point is looked for; a
            training of a limited duration ends where its steps end.
        course: Weights at the recorded steps of gradient descent, or after each iteration of L-BFGS by its
            number of gradients.
    """

    weights: Tensor
    change: Tensor
    gradient_norm: float
    risk: float
    gradients: int
    status: Status
    layout: Layout = field(repr=False)
    smallest: float = float("nan")
    left: str = ""
    is_solution: bool = True
    course: dict[int, Tensor] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """Outcome, cost, distance from the trained weights, and what is left of the gradient."""
        return (
            f"{self.status} after {self.gradients} gradients, ‖w - w̄‖ = {float(self.change.norm()):.4g}, "
            f"gradient norm {self.gradient_norm:.3g}"
        )

    @computed
    def message(self) -> str:
        """How the training ended short of its target, with what is left; empty where it met it."""
        if self.status is Status.CONVERGED:
            return ""
        left = self.left or f"gradient norm {self.gradient_norm:.3g}"
        text = f"training ended with status '{self.status}' at {left}"
        if self.status is Status.INDEFINITE:
            return f"{text}, at a saddle: the Hessian has an eigenvalue of {self.smallest:.3g}"
        return f"{text} after {self.gradients} gradients: these weights are not where it would end"

    def _named_weights(self) -> tuple[Tensor, Mapping[str, torch.Size]]:
        return self.weights, self.layout.shapes
