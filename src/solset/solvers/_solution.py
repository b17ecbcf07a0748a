"""The result of a solve."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.errors import Status
from solset.results import WeightsResult, computed


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


@dataclass(frozen=True, eq=False, repr=False)
class Solution(WeightsResult):
    """An element of a solution set, or the nearest thing to one, and how far to trust it.

    Attributes:
        value: Flat vector ``(p,)``, or a block ``(p, k)`` of several elements.
        status: The way in which the solve ended.
        residual: Relative residual ``‖Av - b‖ / ‖b‖`` of the linear system, 0 where ``b = 0``; the largest
            over a block.
        steps: Number of iterations; 0 for a direct solve.
        layout: Names and shapes of the parameters when ``value`` holds weights, else ``None``.
        notes: Sentences on premises that do not hold, though the linear system was solved.
        drift: Length of the change that the gradient left by training would make alone, ``‖A⁺R‖``, relative
            to the length of this change; 0 where nothing was asked, or no gradient was left.

    Example:
        >>> Solution(torch.tensor([3.0, 4.0]), Status.CONVERGED, 1e-12, steps=7)
        Solution(converged, residual 1e-12, 7 steps, norm 5)
    """

    value: Tensor
    status: Status
    residual: float
    steps: int
    layout: Mapping[str, torch.Size] | None = None
    notes: tuple[str, ...] = ()
    drift: float = 0.0

    @property
    def headline(self) -> str:
        """Status, residual, steps (none for a direct solve), and the length of the longest element."""
        lengths = torch.linalg.vector_norm(self.value, dim=0)
        length = float(lengths.max()) if lengths.numel() else 0.0
        steps = {0: "direct", 1: "1 step"}.get(self.steps, f"{self.steps} steps")
        return f"{self.status}, residual {self.residual:.3g}, {steps}, norm {length:.3g}"

    @computed
    def message(self) -> str:
        """The end of the solve, where it did not converge, and the notes."""
        end = "" if self.status is Status.CONVERGED else f"the solve ended with status '{self.status}'"
        return "; ".join(text for text in (end, *self.notes) if text)

    def _named_weights(self) -> tuple[Tensor, Mapping[str, torch.Size] | None]:
        return self.value, self.layout

    def with_value(self, value: Tensor, layout: Mapping[str, torch.Size] | None = None) -> "Solution":
        """The same outcome for another value, such as a translate or an image of this one."""
        return replace(self, value=value, layout=layout)

    def with_notes(self, notes: tuple[str, ...], drift: float) -> "Solution":
        """The same solution with more sentences on what speaks against it, and its drift."""
        return replace(self, notes=self.notes + notes, drift=drift)

    def raise_if_failed(self) -> "Solution":
        """This solution, if it converged.

        Raises:
            SolverError: If the status is anything but ``converged``; the error carries this solution.
        """
        if self.status is not Status.CONVERGED:
            raise SolverError(self)
        return self
