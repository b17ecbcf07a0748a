"""Changes of the state and of a batch, or derivatives of a goal in them, and the graph of a step."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from solset.training._state import State


@dataclass(frozen=True, eq=False)
class Slope:
    """A change of the state (tangent), or the derivative of a goal in the state (cotangent)."""

    parameters: list[Tensor]  # One tensor for each block of trained parameters
    # Tensors of the optimizer's state, by place of the block and name; a missing one is zero
    slots: Mapping[tuple[int, str], Tensor]
    buffers: Mapping[str, Tensor]  # Tensors of the running statistics, by name; a missing one is zero


@dataclass(frozen=True, eq=False)
class BatchSlope:
    """A change of a batch, or the derivative of a goal in it; ``None`` where there is none."""

    features: Tensor | None  # Tensor like the inputs, ``(b, *input)``; only for inputs of floating numbers
    targets: Tensor | None  # Tensor like the targets, ``(b, ...)``; only for targets of floating numbers
    # Tensor with one number per point, ``(b,)``; only for a loss that comes from those of points
    factors: Tensor | None
    # Tensor with one number per point, ``(b,)``, for points on their way to new labels
    shares: Tensor | None = None

    @property
    def parts(self) -> tuple[Tensor | None, ...]:
        """Features, targets, factors and shares, in this order."""
        return self.features, self.targets, self.factors, self.shares


@dataclass(frozen=True, eq=False)
class RuleSlope:
    """The derivative of a goal in the settings of the optimizer's rule at one step."""

    decay: float  # Derivative in the weight decay of all groups that decay
    rate: float  # Derivative in a relative change of the learning rate


@dataclass(frozen=True, eq=False)
class Graph:
    """The gradient of a batch with the graph that leads to it."""

    parameters: list[Tensor]
    statistics: dict[str, Tensor]
    batch: list[Tensor | None]
    loss: Tensor
    gradients: list[Tensor]
    clipped: list[Tensor]
    used: list[bool]  # Whether each trained parameter has a gradient; PyTorch skips the others
    buffers: dict[str, Tensor]
    end: State | None  # State after the step in training; ``None`` where it is not known

    @property
    def leaves(self) -> list[Tensor]:
        """Blocks of parameters, and the parts of the batch that have a derivative."""
        return [*self.parameters, *(leaf for leaf in self.batch if leaf is not None)]
