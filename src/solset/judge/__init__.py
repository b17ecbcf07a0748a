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
from solset.judge._statistics import (
    agreement_of_halves,
    bootstrap_interval,
    lead_interval,
    noise_ceiling,
    rank_agreement,
)
from solset.judge._truth import Truth, truth_of

__all__ = [
    "ByAttribution",
    "ByEstimate",
    "ByScores",
    "Comparison",
    "Predictor",
    "Score",
    "Truth",
    "agreement_of_halves",
    "bootstrap_interval",
    "compare",
    "gradient_products",
    "lead_interval",
    "noise_ceiling",
    "random_scores",
    "rank_agreement",
    "truth_of",
]
