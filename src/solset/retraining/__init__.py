"""Real retraining: the truth that every estimate is judged by."""

from solset.retraining._retrain import (
    LBFGS,
    GradientDescent,
    LevenbergMarquardt,
    Method,
    Newton,
    Retrained,
    retrain,
    tangent_recursion,
)
from solset.retraining._warm import WithOptimizer

__all__ = [
    "GradientDescent",
    "LBFGS",
    "LevenbergMarquardt",
    "Method",
    "Newton",
    "Retrained",
    "WithOptimizer",
    "retrain",
    "tangent_recursion",
]
