"""The derivatives at all steps of a run, summed point by point."""

from collections.abc import Sequence

import torch
from torch import Tensor

from solset.goals import Slopes
from solset.training._step import BatchSlope, RuleSlope


class Totals:
    """Sums of what each batch contributes, point by point, and of what each step does."""

    def __init__(self, count: int, *, with_features: bool) -> None:
        self._count, self._with_features = count, with_features
        self.parts: list[Tensor | None] = [None, None, None]
        self.decay = self.rate = 0.0

    def add(self, points: Sequence[int], batch: BatchSlope, rule: RuleSlope) -> None:
        """Adds the derivatives at one step to those of its points and of the recipe."""
        self.decay += rule.decay
        self.rate += rule.rate
        for place, part in enumerate(batch.parts[:3]):
            if part is None or (place == 0 and not self._with_features):
                continue
            total = self.parts[place]
            if total is None:
                total = self.parts[place] = part.new_zeros(self._count, *part.shape[1:])
            total.index_add_(0, torch.as_tensor(points, device=part.device), part)


def block(parts: Sequence[Tensor | None], *, is_block: bool) -> Tensor | None:
    """The parts of several goals with an axis in front; that of one goal as it is.

    Args:
        parts: Part of each goal; ``None`` where there is none.
        is_block: Whether the goals are a block.
    """
    present = [part for part in parts if part is not None]
    if not present:
        return None
    return torch.stack(present) if is_block else present[0]


def numbers(values: Sequence[float], measured: Slopes) -> float | Tensor:
    """One number for one goal, and a tensor of them for a block."""
    return torch.tensor(values).to(measured.values) if measured.is_block else values[0]
