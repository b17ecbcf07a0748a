"""How the solution set of a trained network moves when its training data is perturbed."""

from solset.analysis import (
    LBFGS,
    GradientDescent,
    LevenbergMarquardt,
    Moved,
    Newton,
    Retrained,
    Reweighted,
    Stability,
    feature_scores,
    influence,
    removal_scores,
    removed,
    retrain,
    tangent_recursion,
    training_stability,
)
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
    "LBFGS",
    "LSMR",
    "MINRES",
    "AffineSet",
    "Coderivative",
    "Dense",
    "Dual",
    "FirstToConverge",
    "GradientDescent",
    "GraphicalDerivative",
    "LevenbergMarquardt",
    "LiSSA",
    "Moved",
    "Newton",
    "Problem",
    "Retrained",
    "Reweighted",
    "Solution",
    "SolsetWarning",
    "SolverError",
    "Stability",
    "Status",
    "feature_scores",
    "filters",
    "influence",
    "removal_scores",
    "removed",
    "retrain",
    "tangent_recursion",
    "training_stability",
]
