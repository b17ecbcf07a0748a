"""Functions of a Problem."""

from solset.analysis.influence import (
    Moved,
    Reweighted,
    feature_scores,
    influence,
    removal_scores,
    removed,
)
from solset.analysis.retrain import (
    LBFGS,
    GradientDescent,
    LevenbergMarquardt,
    Newton,
    Retrained,
    retrain,
    tangent_recursion,
)
from solset.analysis.stability import Stability, training_stability

__all__ = [
    "LBFGS",
    "GradientDescent",
    "LevenbergMarquardt",
    "Moved",
    "Newton",
    "Retrained",
    "Reweighted",
    "Stability",
    "feature_scores",
    "influence",
    "removal_scores",
    "removed",
    "retrain",
    "tangent_recursion",
    "training_stability",
]
