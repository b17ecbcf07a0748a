"""How far the activations of the network are from their kinks, along a path."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from solset.operators import switch_gradients, switch_values
from solset.operators._cost import FORWARD, ROW
from solset.paths._fitted import KeptOutputs
from solset.risk import EmpiricalRisk, flat_rows


class ActivationSwitches:
    """Arguments of piecewise linear activations, relative to their kinks, one for every point and unit.

    An activation is named by its place among these values.

    Args:
        constraint: Constraint that the path keeps, with its data and cost meter.
    """

    def __init__(self, constraint: KeptOutputs) -> None:
        self._constraint = constraint

    @cached_property
    def count(self) -> int:
        """Number of activations, 0 if none are seen. Cost: a forward pass of one point."""
        risk = self._constraint.risk(0.0)
        values = switch_values(risk.select([0]))
        return 0 if values is None else len(values) * len(risk.points)

    @property
    def _units(self) -> int:
        """Number of activations of each point."""
        return self.count // len(self._constraint.risk(0.0).points)

    def values(self, tau: float, weights: Tensor) -> Tensor:
        """Distances to the kinks with their signs, ``(n · units,)``; empty if none are seen."""
        self._constraint.meter.add(FORWARD)
        values = switch_values(self._constraint.risk(tau, weights))
        return weights.new_empty(0) if values is None else values

    def gradients(self, risk: EmpiricalRisk, switches: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Gradients of activations' arguments in the weights, ``(k, p)``, and their rates along ``Δx``."""
        if not switches:
            none = risk.weights.new_empty(0)
            return none.reshape(0, risk.layout.size), none
        self._constraint.meter.add_points(ROW, len(switches))
        owners = [switch // self._units for switch in switches]
        rows, by_inputs = switch_gradients(risk, owners, [switch % self._units for switch in switches])
        change = torch.zeros_like(by_inputs)
        for k, owner in enumerate(owners):
            if owner in self._constraint.points:
                change[k] = self._constraint.dx[self._constraint.points.index(owner)]
        return rows, flat_rows(by_inputs * change).sum(dim=1)

    def bend(self, tau: float, three: Sequence[Tensor], switch: int, cotangent: Tensor) -> float:
        """The second difference of ``uᵀf`` over three weight vectors on a line, for the point of a switch.

        ``cotangent`` holds ``u`` for the outputs of all points, ``(n·c,)``.
        """
        point, count = switch // self._units, len(self._constraint.risk(0.0).points)
        self._constraint.meter.add_points(FORWARD, 3)
        risk = self._constraint.risk(tau).select([point])
        low, middle, high = (risk.at(weights).outputs().flatten() for weights in three)
        return float((low - 2 * middle + high) @ cotangent.reshape(count, -1)[point])
