"""A linearisation on some rows of its constraint, and the check of the rows that are left out."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from solset.derivatives._linearisation import Linearisation
from solset.errors import Status
from solset.results import Result, computed


@dataclass(frozen=True, repr=False)
class RowCheck(Result):
    """The error that comes from rows of the constraint that are left out, by one product with all rows.

    Let ``v`` be the minimum-norm solution on the rows in use and ``e = J v + J_x Δx`` the error over all
    points. Where the constraint is consistent and no rank is cut, ``v`` is never longer than the solution on
    all rows.

    Attributes:
        residual: Relative residual ``‖W e‖ / ‖J_x Δx‖``. The weight ``W`` is 1 on every output of a moved
            point, and ``(λ / λ_max)^{1/2}`` on an output direction of another point, where ``λ`` is the
            curvature of the loss in this direction.
        moved_residual: Relative residual ``‖e‖ / ‖J_x Δx‖`` over the moved points alone.
        unit_residual: Relative residual ``‖e‖ / ‖J_x Δx‖`` over all points; it also counts changes of the
            outputs that do not change the loss.
        risk_rise: Second-order term ``½ Σ αλ (uᵀe)²`` of the change of the risk that ``e`` causes, in loss
            units. The first-order term is not included; it is zero only at zero residual.
        rows: Number of rows in use.
        all_rows: Number ``m`` of all rows.
        discarded: Share of the trace of the loss's curvature that the omitted rows carry.
        tol: Largest ``residual`` that counts as accurate, as it was asked for.
    """

    residual: float
    moved_residual: float
    unit_residual: float
    risk_rise: float
    rows: int
    all_rows: int
    discarded: float
    tol: float

    @property
    def is_accurate(self) -> bool:
        """Whether ``residual`` is at most ``tol``."""
        return self.residual <= self.tol

    @property
    def headline(self) -> str:
        """The residual over all rows beside the one that was asked for, and the number of rows in use."""
        place = "within" if self.is_accurate else "above"
        return f"residual {self.residual:.3g} {place} {self.tol:.3g} on {self.rows} of {self.all_rows} rows"

    @computed
    def status(self) -> Status:
        """``converged`` where the residual is small enough, else what went wrong.

        ``inconsistent`` says that the rows in use contradict each other, as rows of duplicate points do;
        ``max_steps`` says that more rows are needed than are allowed; ``nonfinite`` explains itself.
        """
        if not math.isfinite(self.residual):
            return Status.NONFINITE
        if self.is_accurate:
            return Status.CONVERGED
        is_stuck = self.rows == self.all_rows or self.moved_residual > self.tol
        return Status.INCONSISTENT if is_stuck else Status.MAX_STEPS

    @computed
    def message(self) -> str:
        """One sentence where the residual is too large; empty where it is small enough."""
        return "" if self.is_accurate else f"the residual over all rows is above {self.tol:.3g}"


class Selection(ABC):
    """A linearisation on some rows of its constraint, to which rows are added until they suffice.

    Attributes:
        linearisation: Pair ``(A, C)`` on the rows in use.
    """

    linearisation: Linearisation

    @property
    @abstractmethod
    def plan(self) -> str:
        """One sentence with the number of rows, their bytes and the expected gradients."""

    @abstractmethod
    def verify(self, dx: Tensor) -> RowCheck:
        """Solves for a data direction, checks all rows, and adds rows until the residual is small enough.

        Args:
            dx: Change of the moved points, flat ``(|K|·d,)``.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the rows in use and all that was computed from them.

        Args:
            folder: Path of a folder that does not exist yet.
        """
