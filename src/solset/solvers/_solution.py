"""The result of a solve."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
        start: Trained weights from which the change was made, ``(p,)``; ``None`` where ``value`` is a change.
        moved: Change of the weights as it was solved for, which their sum with the trained ones rounds;
            ``None`` where ``value`` is a change.

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
    start: Tensor | None = field(default=None, repr=False)
    moved: Tensor | None = field(default=None, repr=False)

    @property
    def change(self) -> Tensor:
        """The change of the weights, ``(p,)``, or a block ``(p, k)`` of several."""
        if self.moved is not None:
            return self.moved
        return self.value if self.start is None else self.value - self.start

    @property
    def headline(self) -> str:
        """Status, residual, steps (none for a direct solve), and the length of the longest element.

        Of weights it is the length of their change, and its share of the length of the trained weights.
        """
        lengths = torch.linalg.vector_norm(self.change, dim=0)
        length = float(lengths.max()) if lengths.numel() else 0.0
        steps = {0: "direct", 1: "1 step"}.get(self.steps, f"{self.steps} steps")
        end = f"{self.status}, residual {self.residual:.3g}, {steps}"
        if self.start is None:
            return f"{end}, norm {length:.3g}"
        size = float(torch.linalg.vector_norm(self.start))
        return f"{end}, change {length:.3g}" + (
            f", {100 * length / size:.3g} % of the weights" if size else ""
        )

    @computed
    def message(self) -> str:
        """The end of the solve, where it did not converge, and the notes."""
        is_solved = self.status in {Status.CONVERGED, Status.DOUBTFUL}
        end = "" if is_solved else f"the solve ended with status '{self.status}'"
        return "; ".join(text for text in (end, *self.notes) if text)

    def _named_weights(self) -> tuple[Tensor, Mapping[str, torch.Size] | None]:
        return self.value, self.layout

    def with_value(self, value: Tensor) -> "Solution":
        """The same outcome for another value, such as an image of this one."""
        return replace(self, value=value, moved=None)

    def moved_by(self, start: Tensor, layout: Mapping[str, torch.Size] | None) -> "Solution":
        """The same outcome for ``start`` plus this change: weights, where names and shapes are given."""
        is_known = layout is not None
        weights, moved = (start, self.value) if is_known else (None, None)
        return replace(self, value=start + self.value, layout=layout, start=weights, moved=moved)

    def raise_if_failed(self) -> "Solution":
        """This solution, if it converged.

        Raises:
            SolverError: If the status is anything but ``converged``; the error carries this solution.
        """
        if self.status is not Status.CONVERGED:
            raise SolverError(self)
        return self
