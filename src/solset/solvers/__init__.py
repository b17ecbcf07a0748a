"""Solvers as values: each turns a linear operator and a right-hand side into a :class:`Solution`."""

from solset.solvers import filters
from solset.solvers.base import Prepared, Solver
from solset.solvers.direct import Dense
from solset.solvers.dual import Dual
from solset.solvers.krylov import CG, LSMR, MINRES, FirstToConverge
from solset.solvers.lissa import LiSSA
from solset.solvers.row_plan import RowPlan
from solset.solvers.solution import Solution, SolverError

__all__ = [
    "CG",
    "LSMR",
    "MINRES",
    "Dense",
    "Dual",
    "FirstToConverge",
    "LiSSA",
    "Prepared",
    "RowPlan",
    "Solution",
    "Solver",
    "SolverError",
    "filters",
]
