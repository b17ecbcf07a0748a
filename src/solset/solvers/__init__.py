"""Solvers as values: each turns a linear operator and a right-hand side into a :class:`Solution`."""

from solset.solvers import filters
from solset.solvers._base import Factor, Prepared, Solution, Solver, SolverError, attainable, judge
from solset.solvers._decomposed import DualPrepared, GramPrepared
from solset.solvers._deflated import DeflatedPrepared
from solset.solvers._direct import Dense, SymmetricPrepared
from solset.solvers._dual import Dual
from solset.solvers._element import element_of, recipe_element, refuse_divergence
from solset.solvers._krylov import CG, LSMR, MINRES, FirstToConverge
from solset.solvers._lissa import LiSSA, largest_eigenvalue
from solset.solvers._needs import Needs
from solset.solvers._row_plan import AT_ONCE, RowPlan, RowSizes, computed_rows, size_text
from solset.solvers._updated import Decomposed, Update, Updated

__all__ = [
    "AT_ONCE",
    "CG",
    "DeflatedPrepared",
    "Dense",
    "Dual",
    "Decomposed",
    "DualPrepared",
    "Factor",
    "FirstToConverge",
    "GramPrepared",
    "LSMR",
    "LiSSA",
    "MINRES",
    "Needs",
    "Prepared",
    "RowPlan",
    "RowSizes",
    "Solution",
    "Solver",
    "SolverError",
    "SymmetricPrepared",
    "attainable",
    "Update",
    "Updated",
    "computed_rows",
    "element_of",
    "filters",
    "judge",
    "largest_eigenvalue",
    "recipe_element",
    "refuse_divergence",
    "size_text",
]
