"""The base of every goal: a function of the weights, with its derivative in them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from solset.errors import bad_type, bad_value
from solset.risk import EmpiricalRisk


@dataclass(frozen=True, eq=False)
class Slopes:
    """The values of a goal at some weights, with their derivatives.

    Attributes:
        values: Values of the goal, ``(k,)``.
        gradients: Derivative of each value in the weights as a column, ``(p, k)``.
        is_block: Whether the goal has several values, such as one for each test point; otherwise ``k`` is 1.
        held: Derivative in each held tensor that was asked for, ``(k, *shape)``, by name.
    """

    values: Tensor
    gradients: Tensor
    is_block: bool
    held: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def joined(parts: "Sequence[Slopes]") -> "Slopes":
        """The values of several goals as one block.

        Args:
            parts: Values and derivatives of each goal.
        """
        values, gradients = [part.values for part in parts], [part.gradients for part in parts]
        held = {name: torch.cat([part.held[name] for part in parts]) for name in parts[0].held}
        return Slopes(torch.cat(values), torch.cat(gradients, dim=1), is_block=True, held=held)


class Goal(ABC):
    """A smooth function ``φ`` of the weights and the direction in which it is to change.

    Attributes:
        is_raised: Whether ``φ`` is to grow.
    """

    is_raised: bool = True

    @abstractmethod
    def describe(self) -> str:
        """What ``φ`` is, in a phrase."""

    def __repr__(self) -> str:
        """The kind of the goal and what it is, without its tensors."""
        return f"{type(self).__name__}({self.describe()})"

    @property
    def sign(self) -> float:
        """1 if ``φ`` is to grow, -1 if it is to shrink."""
        return 1.0 if self.is_raised else -1.0

    @abstractmethod
    def quantity(self, risk: EmpiricalRisk, weights: Tensor) -> Tensor:
        """``φ(w)``, a scalar or a vector ``(k,)`` of several values, which autograd can differentiate.

        Args:
            risk: Empirical risk with the network, the data and the names of its weights.
            weights: Weights ``w``, flat ``(p,)``.
        """

    @abstractmethod
    def check(self, risk: EmpiricalRisk) -> None:
        """Refuses a goal whose shapes do not fit the problem.

        Args:
            risk: Empirical risk whose shapes count.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells this goal from another, in the types of JSON."""

    def value(self, risk: EmpiricalRisk, weights: Tensor) -> float:
        """``φ(w)`` as a number. Cost: one forward pass over whatever the goal looks at."""
        with torch.no_grad():
            return float(_one_number(self._values(risk, weights)))

    def slope(self, risk: EmpiricalRisk, weights: Tensor) -> tuple[float, Tensor]:
        """``φ(w)`` and ``∇φ(w)``, ``(p,)``, by autograd.

        Args:
            risk: Empirical risk with the network, the data and the names of its weights.
            weights: Weights ``w``, flat ``(p,)``.

        Raises:
            TypeError: If the goal returns anything but a tensor.
            ValueError: If it is not a scalar, or autograd finds no way from it to the weights.

        Cost: one backward pass over whatever the goal looks at.
        """
        leaf = weights.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = _one_number(self._values(risk, leaf))
        return float(value.detach()), _differentiated(value, [leaf])[0]

    def slopes(self, risk: EmpiricalRisk, weights: Tensor, held: Sequence[str] = ()) -> Slopes:
        """All values of the goal with their derivatives.

        Args:
            risk: Empirical risk with the network, the data and the names of its weights.
            weights: Weights ``w``, flat ``(p,)``.
            held: Names of held tensors, such as running statistics, in which derivatives are computed too.

        Raises:
            TypeError: If the goal returns anything but a tensor.
            ValueError: If it has more than one dimension, or autograd finds no way from it to the weights.

        Cost: one backward pass for each value.
        """
        leaf = weights.detach().clone().requires_grad_()
        others = {name: risk.fixed[name].detach().clone().requires_grad_() for name in held}
        with torch.enable_grad():
            values = self._values(replace(risk, fixed={**risk.fixed, **others}), leaf)
            single = list(values.reshape(-1))
        if values.ndim > 1 or values.numel() == 0:
            got = f"shape {tuple(values.shape)}"
            raise bad_value("goal", expected="one number, or a vector of them", got=got, cure=_CURE)
        each = [_differentiated(value, [leaf, *others.values()]) for value in single]
        gradients, *rest = (torch.stack(parts) for parts in zip(*each, strict=True))
        of_held = dict(zip(others, rest, strict=True))
        return Slopes(values.detach().reshape(-1), gradients.T.contiguous(), values.ndim == 1, of_held)

    def _values(self, risk: EmpiricalRisk, weights: Tensor) -> Tensor:
        values = self.quantity(risk, weights)
        if not isinstance(values, Tensor):
            raise bad_type("goal", expected="a tensor as its value", got=type(values).__name__, cure=_CURE)
        return values


_CURE = "Return a scalar tensor computed from the weights with torch operations."


def _one_number(value: Tensor) -> Tensor:
    if value.numel() != 1:
        raise bad_value("goal", expected="one number", got=f"shape {tuple(value.shape)}", cure=_CURE)
    return value.reshape(())


def _differentiated(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The derivative in the weights, the first of the leaves, and in other leaves, 0 where there is none."""
    got = "a value that does not depend on the weights through differentiable operations"
    parts: Sequence[Tensor | None] = [None]
    if value.requires_grad:
        try:
            parts = torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True)
        except RuntimeError as error:
            got = str(error).splitlines()[0]
    if parts[0] is None:
        raise bad_value("goal", expected="differentiable in the weights", got=got, cure=_CURE)
    return [
        torch.zeros_like(leaf) if part is None else part for part, leaf in zip(parts, leaves, strict=True)
    ]


def as_scalar(value: Any) -> Tensor:
    """A tensor of one entry as a scalar; another tensor as it is.

    Raises:
        TypeError: If it is no tensor.
    """
    if not isinstance(value, Tensor):
        raise bad_type("goal", expected="a tensor as its value", got=type(value).__name__, cure=_CURE)
    return value.reshape(()) if value.numel() == 1 else value
