"""What a solve returns."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from solset.errors import Status, bad_value


class SolverError(RuntimeError):
    """A solve that did not converge, raised only when the caller asked for it.

    Attributes:
        solution: The partial solution, with its status and residual.
    """

    def __init__(self, solution: "Solution") -> None:
        super().__init__(
            f"the solver ended with status '{solution.status}' at relative residual "
            f"{solution.residual:.3g} after {solution.steps} steps"
        )
        self.solution = solution


@dataclass(frozen=True)
class Solution:
    """An element of a solution set, or the nearest thing to one, and how far to trust it.

    Attributes:
        value: The flat vector ``(p,)``, or a block ``(p, k)`` of several elements.
        status: How the solve ended.
        residual: ``‖Av - b‖ / ‖b‖`` of the linear system, 0 where ``b = 0``; the largest over a block.
        steps: Iterations taken; 0 for a direct solve.
        layout: Names and shapes of the parameters when ``value`` holds weights, else ``None``.
    """

    value: Tensor
    status: Status
    residual: float
    steps: int
    layout: Mapping[str, torch.Size] | None = None

    def with_value(self, value: Tensor, layout: Mapping[str, torch.Size] | None = None) -> "Solution":
        """The same outcome for another value (a translate or an image of this one)."""
        return replace(self, value=value, layout=layout)

    def raise_if_failed(self) -> "Solution":
        """This solution, if it converged.

        Raises:
            SolverError: If the status is anything but ``converged``; it carries this solution.
        """
        if self.status is not Status.CONVERGED:
            raise SolverError(self)
        return self

    def as_parameters(self) -> dict[str, Tensor]:
        """The weights by name, each in its own shape.

        Raises:
            ValueError: If this is a change of weights and not weights: ask `problem.estimate`.
        """
        if self.layout is None or self.value.ndim != 1:
            raise bad_value(
                "solution",
                expected="one vector of weights",
                got="a change of weights or a block of several elements",
                cure="Take it from `problem.estimate(change)`, whose elements are weights.",
            )
        sizes = [prod(shape) for shape in self.layout.values()]
        parts = torch.split(self.value, sizes)
        return {
            name: part.reshape(shape) for (name, shape), part in zip(self.layout.items(), parts, strict=True)
        }

    def apply_to(self, model: nn.Module) -> nn.Module:
        """A deep copy of ``model`` with these weights; the model itself is not touched.

        Args:
            model: The module whose parameter names the solution carries.

        Raises:
            ValueError: If a parameter is missing in the model or has another shape.
        """
        changed = copy.deepcopy(model)
        own = dict(changed.named_parameters())
        for name, value in self.as_parameters().items():
            if name not in own or own[name].shape != value.shape:
                raise bad_value(
                    "model",
                    expected=f"a module with parameter '{name}' of shape {tuple(value.shape)}",
                    got=f"{tuple(own[name].shape)}" if name in own else "no such parameter",
                    cure="Pass the module that the problem was built with.",
                )
            with torch.no_grad():
                own[name].copy_(value)
        return changed
