"""How the solution set of a trained network moves when its training data is perturbed."""

from solset.derivatives import Coderivative, GraphicalDerivative
from solset.errors import SolsetWarning, Status
from solset.problem import Problem
from solset.sets import AffineSet
from solset.solvers import (
    CG,
    LSMR,
    MINRES,
    Dense,
    Dual,
    FirstToConverge,
    LiSSA,
    Solution,
    SolverError,
    filters,
)

__all__ = [
    "CG",
    "LSMR",
    "MINRES",
    "AffineSet",
    "Coderivative",
    "Dense",
    "Dual",
    "FirstToConverge",
    "GraphicalDerivative",
    "LiSSA",
    "Problem",
    "Solution",
    "SolsetWarning",
    "SolverError",
    "Status",
    "filters",
]
