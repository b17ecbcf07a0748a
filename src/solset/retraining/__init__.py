"""Real retraining, the truth that every estimate is judged by, and a fast estimate of where it would end."""

from solset.courses import Course, Retrained, Station, StopReason
from solset.retraining._follow_retraining import follow_retraining
from solset.retraining._methods import (
    LBFGS,
    GradientDescent,
    LevenbergMarquardt,
    Newton,
    Target,
    WithOptimizer,
)
from solset.retraining._retrain import Method, retrain, tangent_recursion

__all__ = [
    "Course",
    "GradientDescent",
    "LBFGS",
    "LevenbergMarquardt",
    "Method",
    "Newton",
    "Retrained",
    "Station",
    "StopReason",
    "Target",
    "WithOptimizer",
    "follow_retraining",
    "retrain",
    "tangent_recursion",
]
