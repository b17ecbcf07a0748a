"""Functions of the weights to raise, to lower or to explain, as values."""

from solset.goals._asked import Goals, as_goals, require_finite, slopes_of
from solset.goals._goal import Goal, Slopes
from solset.goals._held_out import HeldOutLoss, held_out
from solset.goals._of_outputs import Margin, PointGoal, PointLosses, Prediction, SmoothedAUROC
from solset.goals._of_weights import ModelFunction, TargetWeights, WeightFunction

__all__ = [
    "Goal",
    "Goals",
    "HeldOutLoss",
    "Margin",
    "ModelFunction",
    "PointGoal",
    "PointLosses",
    "Prediction",
    "Slopes",
    "SmoothedAUROC",
    "TargetWeights",
    "WeightFunction",
    "as_goals",
    "held_out",
    "require_finite",
    "slopes_of",
]
