"""A training as a map: where your own recipe goes when its data change."""

from solset.training._advice import Advice, Trial
from solset.training._ensemble import CloudChange, Ensemble, SeedAttribution
from solset.training._rate import LearningRate
from solset.training._recorder import Recorder, record
from solset.training._results import RecipeKinks, Rerun, RunAttribution, RunEstimate, Smoothness
from solset.training._run import Run
from solset.training._training import Training
from solset.training._verdict import GoalCheck

__all__ = [
    "Advice",
    "RunAttribution",
    "CloudChange",
    "Ensemble",
    "GoalCheck",
    "LearningRate",
    "RecipeKinks",
    "Recorder",
    "Rerun",
    "Run",
    "RunEstimate",
    "SeedAttribution",
    "Smoothness",
    "Training",
    "Trial",
    "record",
]
