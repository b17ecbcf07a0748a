"""Derivatives of the risk and of the outputs as linear operators."""

from solset.operators.curvature import GaussNewton, RowWeights, loss_curvature
from solset.operators.first import InputJacobian, Jacobian
from solset.operators.informative import (
    InformativeRows,
    OutputCurvature,
    OutputDirections,
    OutputRows,
    RowChoice,
    choose_rows,
    rows_to_add,
    weighted_squares,
)
from solset.operators.per_sample import PerSampleGradients
from solset.operators.per_sample_squares import OwnSquares
from solset.operators.preconditioner import GaussNewtonInverse, InformativeInverse
from solset.operators.second import Hessian, Mixed
from solset.operators.switches import Switches, switch_gradients, switch_values

__all__ = [
    "GaussNewton",
    "GaussNewtonInverse",
    "Hessian",
    "InformativeInverse",
    "InformativeRows",
    "InputJacobian",
    "Jacobian",
    "Mixed",
    "OutputCurvature",
    "OutputDirections",
    "OutputRows",
    "OwnSquares",
    "PerSampleGradients",
    "RowChoice",
    "Switches",
    "choose_rows",
    "loss_curvature",
    "RowWeights",
    "rows_to_add",
    "switch_gradients",
    "switch_values",
    "weighted_squares",
]
