"""The reverse question: which change of the data moves the solution where a goal says."""

from solset.poisoning._adjoint import AdjointGradient, adjoint_gradient
from solset.poisoning._ascent import Ascent
from solset.poisoning._budget import Budget, FeasibleSet
from solset.poisoning._followers import BasePoint, Corrected, Follower, FromTrained, Nearest
from solset.poisoning._judgement import Judgement, Trainer, Verdict, judge_poisoning
from solset.poisoning._point_budget import Drops, Flips, PointBudget
from solset.poisoning._points import PointPoisoning, PointRound
from solset.poisoning._poisoning import DRIFT, Poisoning, design_poisoning
from solset.poisoning._poisoning_file import Reason, Round
from solset.poisoning._prediction_margin import MarginReason, PredictionMargin, stability_margin
from solset.poisoning._recipe import RecipeGoal, RecipePoisoning, RecipeRound, poison_training

__all__ = [
    "DRIFT",
    "AdjointGradient",
    "Ascent",
    "BasePoint",
    "Budget",
    "Corrected",
    "Drops",
    "FeasibleSet",
    "Flips",
    "Follower",
    "FromTrained",
    "Judgement",
    "MarginReason",
    "Nearest",
    "PointBudget",
    "PointPoisoning",
    "PointRound",
    "Poisoning",
    "PredictionMargin",
    "Reason",
    "RecipeGoal",
    "RecipePoisoning",
    "RecipeRound",
    "Round",
    "Trainer",
    "Verdict",
    "adjoint_gradient",
    "design_poisoning",
    "judge_poisoning",
    "poison_training",
    "stability_margin",
]
