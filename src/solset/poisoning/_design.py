"""What designs of features and of whole points have in common."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from solset.errors import Status
from solset.results import TableResult, WeightsResult
from solset.risk import Layout

OFF = 0.1  # difference between predicted and real change, relative to it, that passes without a warning


class DesignedChange(WeightsResult, TableResult):
    """A change of the data that was searched for, with the weights that were solved for on the changed data.

    Attributes:
        weights: Weights on the changed data, ``(p,)``.
        solved: Outcome of the solve for them.
        course: Rounds of the search in order.
        layout: Names and shapes of the weights.
    """

    weights: Tensor
    solved: Status
    course: tuple[Any, ...]
    layout: Layout

    def rows(self) -> list[dict[str, Any]]:
        """One dict per round, with its attributes."""
        return [asdict(one) for one in self.course]

    def _named_weights(self) -> tuple[Tensor, Mapping[str, torch.Size]]:
        return self.weights, self.layout.shapes

    def _no_solution(self) -> str:
        """The phrase of a message that the weights are no solution."""
        return f"the weights are no solution: solving for them ended with status '{self.solved}'"


def is_near(predicted: float, real: float, effect: float) -> bool:
    """Whether a prediction of a goal is right to a tenth of an effect."""
    return abs(real - predicted) <= OFF * abs(effect)
