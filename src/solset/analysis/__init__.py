"""Functions of a Problem."""

from solset.analysis.adjoint import AdjointGradient, adjoint_gradient
from solset.analysis.ascent import Ascent
from solset.analysis.budget import Budget, FeasibleSet
from solset.analysis.filter_norms import filter_normalised
from solset.analysis.followers import Corrected, Follower, FromTrained, Nearest, Station
from solset.analysis.goals import Goal, HeldOutLoss, TargetWeights, WeightFunction
from solset.analysis.influence import Moved, Reweighted, feature_scores, influence, removal_scores, removed
from solset.analysis.judgement import Judgement, Verdict, judge_poisoning
from solset.analysis.landscape import Landscape, Mark, landscape
from solset.analysis.plane import Plane
from solset.analysis.poisoning import Poisoning, design_poisoning
from solset.analysis.poisoning_file import Round
from solset.analysis.prediction_margin import PredictionMargin, stability_margin
from solset.analysis.retrain import (
    LBFGS,
    GradientDescent,
    LevenbergMarquardt,
    Newton,
    Retrained,
    retrain,
    tangent_recursion,
)
from solset.analysis.rounds import Reason
from solset.analysis.stability import Stability, training_stability
from solset.analysis.warm import WithOptimizer

__all__ = [
    "AdjointGradient",
    "Ascent",
    "Budget",
    "Corrected",
    "FeasibleSet",
    "Follower",
    "FromTrained",
    "Goal",
    "GradientDescent",
    "HeldOutLoss",
    "Judgement",
    "LBFGS",
    "Landscape",
    "LevenbergMarquardt",
    "Mark",
    "Moved",
    "Nearest",
    "Newton",
    "Plane",
    "Poisoning",
    "PredictionMargin",
    "Reason",
    "Retrained",
    "Reweighted",
    "Round",
    "Stability",
    "Station",
    "TargetWeights",
    "Verdict",
    "WeightFunction",
    "WithOptimizer",
    "adjoint_gradient",
    "design_poisoning",
    "feature_scores",
    "filter_normalised",
    "influence",
    "judge_poisoning",
    "landscape",
    "removal_scores",
    "removed",
    "retrain",
    "stability_margin",
    "tangent_recursion",
    "training_stability",
]
