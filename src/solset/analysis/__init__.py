"""Functions of a Problem."""

from solset.analysis.filter_norms import filter_normalised
from solset.analysis.influence import (
    Moved,
    Reweighted,
    feature_scores,
    influence,
    removal_scores,
    removed,
)
from solset.analysis.landscape import Landscape, Mark, landscape
from solset.analysis.path import Course, Station, StopReason, follow_path, follow_retraining
from solset.analysis.plane import Plane
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
from solset.analysis.warm import WithOptimizer

__all__ = [
    "LBFGS",
    "Course",
    "GradientDescent",
    "Landscape",
    "LevenbergMarquardt",
    "Mark",
    "Moved",
    "Newton",
    "Plane",
    "Retrained",
    "Reweighted",
    "Stability",
    "Station",
    "StopReason",
    "WithOptimizer",
    "feature_scores",
    "filter_normalised",
    "follow_path",
    "follow_retraining",
    "influence",
    "landscape",
    "removal_scores",
    "removed",
    "retrain",
    "tangent_recursion",
    "training_stability",
]
