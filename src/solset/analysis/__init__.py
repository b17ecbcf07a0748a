"""Functions of a Problem."""

from solset.analysis.audit import Audit, audit
from solset.analysis.design.adjoint import AdjointGradient, adjoint_gradient
from solset.analysis.design.ascent import Ascent
from solset.analysis.design.budget import Budget, FeasibleSet
from solset.analysis.design.followers import BasePoint, Corrected, Follower, FromTrained, Nearest
from solset.analysis.design.goals import Goal, HeldOutLoss, TargetWeights, WeightFunction
from solset.analysis.design.judgement import Judgement, Verdict, judge_poisoning
from solset.analysis.design.poisoning import Poisoning, design_poisoning
from solset.analysis.design.poisoning_file import Reason, Round
from solset.analysis.design.prediction_margin import MarginReason, PredictionMargin, stability_margin
from solset.analysis.filter_norms import filter_normalised
from solset.analysis.influence import Moved, Reweighted, feature_scores, influence, removal_scores, removed
from solset.analysis.landscape import Landscape, Mark, landscape
from solset.analysis.lipschitz import (
    Carrier,
    Certainty,
    Certificate,
    LipschitzModulus,
    ModulusChain,
    activation_margin,
    lipschitz_modulus,
    modulus_chain,
    theorem_2,
)
from solset.analysis.path import Course, Station, StopReason, follow_path, follow_retraining
from solset.analysis.plan import Cost, Kept, Memory, Plan, Route, plan
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
    "Audit",
    "Carrier",
    "Certainty",
    "Certificate",
    "AdjointGradient",
    "Ascent",
    "Budget",
    "Corrected",
    "FeasibleSet",
    "Follower",
    "FromTrained",
    "Goal",
    "Course",
    "GradientDescent",
    "HeldOutLoss",
    "Judgement",
    "LBFGS",
    "Landscape",
    "LevenbergMarquardt",
    "LipschitzModulus",
    "MarginReason",
    "Mark",
    "ModulusChain",
    "Moved",
    "Nearest",
    "Newton",
    "Cost",
    "Kept",
    "Memory",
    "Plan",
    "Plane",
    "Poisoning",
    "PredictionMargin",
    "Reason",
    "Retrained",
    "Reweighted",
    "Round",
    "Route",
    "Stability",
    "Station",
    "TargetWeights",
    "Verdict",
    "WeightFunction",
    "StopReason",
    "WithOptimizer",
    "activation_margin",
    "audit",
    "adjoint_gradient",
    "design_poisoning",
    "feature_scores",
    "filter_normalised",
    "follow_path",
    "follow_retraining",
    "influence",
    "judge_poisoning",
    "landscape",
    "lipschitz_modulus",
    "modulus_chain",
    "plan",
    "removal_scores",
    "removed",
    "retrain",
    "stability_margin",
    "tangent_recursion",
    "theorem_2",
    "training_stability",
    "BasePoint",
]
