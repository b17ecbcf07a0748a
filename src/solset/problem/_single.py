"""One finite change by itself, with what speaks against its answer as a value and not as a warning."""

import warnings
from dataclasses import dataclass

from solset.changes import Change
from solset.errors import Status
from solset.problem._finite import Order
from solset.problem._maps import AUTO, Optimality
from solset.problem._problem import Problem
from solset.solvers import Prepared, Solution, Solver


@dataclass(frozen=True, eq=False)
class SingleAnswer:
    """The nearest solution after one change of the data.

    Attributes:
        solution: Weights of the nearest solution, with the outcome of the solve.
        system: Matrix that was solved with, prepared.
        note: Sentences on what speaks against the answer; empty where nothing does.
    """

    solution: Solution
    system: Prepared
    note: str

    @property
    def is_answered(self) -> bool:
        """Whether the rest of the data decides the weights where the points that leave did."""
        return self.system.is_decided

    @property
    def is_solved(self) -> bool:
        """Whether the linear system was solved, in the sense of least squares at least."""
        return self.solution.status in {Status.CONVERGED, Status.INCONSISTENT, Status.DOUBTFUL}

    @property
    def leverage(self) -> float:
        """The largest share of the curvature in any direction that the change takes, where it is known."""
        return self.system.leverage


def single_answer(
    problem: Problem,
    change: Change,
    *,
    optimality: Optimality = AUTO,
    solver: Solver | None = None,
    order: Order | None = None,
) -> SingleAnswer:
    """The nearest solution after a change, one of many that are ranked: warnings are collected in its note.

    Args:
        problem: Problem at its trained weights.
        change: Change of the training data.
        optimality: Optimality map, as for :meth:`Problem.estimate`.
        solver: Solver of its systems; by default the map chooses one.
        order: Kind of estimate, as for :meth:`Problem.estimate`.

    Cost: that of an estimate, whose factorisation all changes share.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        estimate = problem.estimate(change, optimality=optimality, solver=solver, order=order)
        solution = estimate.min_norm()
    note = "; ".join(dict.fromkeys(str(one.message) for one in told))
    return SingleAnswer(solution, estimate.system, note)
