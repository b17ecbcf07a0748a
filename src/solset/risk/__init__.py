"""The empirical risk: parameters, points, loss, gradient. The network wing's ground floor."""

from solset.risk.empirical import EmpiricalRisk, Loss, Reduction
from solset.risk.layout import Layout, choose_parameters
from solset.risk.points import Points, as_points
from solset.risk.probe import probe_model, reduction_of, refuse_training_mode

__all__ = [
    "EmpiricalRisk",
    "Layout",
    "Loss",
    "Points",
    "Reduction",
    "as_points",
    "choose_parameters",
    "probe_model",
    "reduction_of",
    "refuse_training_mode",
]
