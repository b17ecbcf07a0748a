"""Solvers as values: each turns a linear operator and a right-hand side into a :class:`Solution`."""

from solset.solvers import filters
from solset.solvers._base import Prepared, Solver
from solset.solvers._direct import Dense
from solset.solvers._dual import Dual
from solset.solvers._krylov import CG, LSMR, MINRES, FirstToConverge
from solset.solvers._lissa import LiSSA
from solset.solvers._row_plan import RowPlan
from solset.solvers._solution import Solution, SolverError

__all__ = [
    "CG",
    "Dense",
    "Dual",
    "FirstToConverge",
    "LSMR",
    "LiSSA",
    "MINRES",
    "Prepared",
    "RowPlan",
    "Solution",
    "Solver",
    "SolverError",
    "filters",
]
