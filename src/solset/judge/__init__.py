"""The judge: how well predictors of what a change of the data does agree with real retraining."""

from solset.judge._compare import compare
from solset.judge._comparison import Comparison, Score
from solset.judge._predictors import (
    ByAttribution,
    ByEstimate,
    ByScores,
    Predictor,
    gradient_products,
    random_scores,
)
from solset.judge._statistics import agreement, agreement_of_halves, interval
from solset.judge._truth import Truth, truth_of

__all__ = [
    "ByAttribution",
    "ByEstimate",
    "ByScores",
    "Comparison",
    "Predictor",
    "Score",
    "Truth",
    "agreement",
    "agreement_of_halves",
    "compare",
    "gradient_products",
    "interval",
    "random_scores",
    "truth_of",
]
