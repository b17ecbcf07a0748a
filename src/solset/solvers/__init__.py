"""Solvers as values: each turns a linear operator and a right-hand side into a :class:`Solution`."""

from solset.solvers import filters
from solset.solvers.base import Prepared, Solver
from solset.solvers.direct import Dense, Dual
from solset.solvers.krylov import CG, LSMR, MINRES, FirstToConverge
from solset.solvers.lissa import LiSSA
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
    "Solution",
    "Solver",
    "SolverError",
    "filters",
]
