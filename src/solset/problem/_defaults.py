"""What is taken where nothing was asked for: one set of rules, for calls and for plans of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from solset.operators import GaussNewtonInverse, InformativeRows
from solset.outofcore import gram_solver
from solset.risk import EmpiricalRisk
from solset.solvers import CG, LSMR, MINRES, Dense, Dual, FirstToConverge, Solver

Optimality = Literal["auto", "interpolating", "gauss_newton", "stationary"]

FIT_TOL = 1e-2  # mean norm of the loss gradient in the outputs up to which a training set counts as fitted
MOST_ROWS = 6000  # rows of J up to which a Gram matrix is built without being asked for
MOST_DENSE = 1000  # weights up to which a Hessian is written out without being asked for


@dataclass(frozen=True, eq=False)
class Defaults:
    """Maps and solvers by the sizes of a trained point; nothing here computes more than a comparison.

    Attributes:
        risk: At the trained point.
        fit: Mean norm of the loss gradient in the outputs.
        outputs: ``c``.
        memory_budget: Bytes for graphs, and again for rows and Gram matrix.
        spill_folder: Where rows that do not fit it are kept on the disk.
    """

    risk: EmpiricalRisk
    fit: float
    outputs: int
    memory_budget: int
    spill_folder: Path | None = None

    @property
    def rows(self) -> int:
        """``m``, all rows of ``J``."""
        return len(self.risk.points) * self.outputs

    @property
    def weights(self) -> int:
        """``p``."""
        return self.risk.layout.size

    @property
    def obstacle(self) -> str:
        """Why the problem is not a fitted one, or nothing."""
        if self.risk.weight_decay > 0:
            return f"weight decay {self.risk.weight_decay:g}, under which the training outputs are not kept"
        if not self.fit <= FIT_TOL:
            return (
                f"a training set that is not fitted (mean loss gradient in the outputs {self.fit:.3g} > "
                f"{FIT_TOL:g})"
            )
        return ""

    @property
    def gram_fits(self) -> bool:
        """Whether all rows of J and their Gram matrix fit, without being asked for."""
        return self.rows <= MOST_ROWS and self.gram_bytes <= self.memory_budget

    @property
    def gram_bytes(self) -> int:
        """Of all rows of J and their Gram matrix, each with a copy in float64."""
        return 8 * self.rows * (2 * self.rows + 2 * self.weights)

    @property
    def curvature_bytes(self) -> int:
        """Of the loss's curvature at every point, with its eigenvectors."""
        return 3 * 8 * self.rows * self.outputs

    @property
    def curvature_fits(self) -> bool:
        """Whether that fits."""
        return self.curvature_bytes <= self.memory_budget

    def selects(self, solver: Solver | None, rows: InformativeRows | None) -> bool:
        """Whether to work on some rows of J: where asked to, or where a Gram matrix of all does not fit.

        Args:
            solver: As given, or ``None``.
            rows: As given, or ``None``.
        """
        if not isinstance(solver, Dual | None):
            return False
        return rows is not None or (self.curvature_fits and not self.gram_fits)

    @property
    def dual(self) -> Dual:
        """For all rows of J."""
        return gram_solver(self.memory_budget, self.spill_folder)

    @property
    def selecting(self) -> Dual:
        """For some rows of J, among which short ones count as the long ones do."""
        return gram_solver(self.memory_budget, self.spill_folder, is_equilibrated=True)

    @property
    def dense(self) -> Dense:
        """For a matrix written out."""
        return Dense(memory_budget=self.memory_budget)

    def solver(self, optimality: str) -> Solver:
        """The one that a map takes on its whole constraint.

        Args:
            optimality: Any but ``"auto"``.
        """
        if optimality == "interpolating":
            return self.dual if self.gram_fits else LSMR()
        if optimality == "gauss_newton" and self.gram_fits:
            return self.dual
        if self.weights <= MOST_DENSE:
            return self.dense
        if optimality == "gauss_newton":
            return CG()
        return self.preconditioned if self.preconditioner_fits else MINRES()

    @property
    def side(self) -> int:
        """The smaller side of the Gauss–Newton matrix's factor."""
        return min(self.weights, self.rows)

    @property
    def preconditioner_fits(self) -> bool:
        """Whether there is an inverse of the Gauss–Newton matrix, and it fits without being asked for."""
        return (
            self.risk.weight_decay > 0
            and self.side <= MOST_ROWS
            and 16 * self.side * self.side <= self.memory_budget
        )

    @property
    def preconditioned(self) -> FirstToConverge:
        """For a Hessian with weight decay; the second is for one that proves indefinite."""
        inverse = GaussNewtonInverse(self.risk, memory_budget=self.memory_budget)
        return FirstToConverge((CG(preconditioner=inverse), MINRES()))
