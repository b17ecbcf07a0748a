"""Derivatives of the risk and of the outputs as linear operators."""

from solset.operators._curvature import GaussNewton, RowWeights, loss_curvature
from solset.operators._first import InputJacobian, Jacobian
from solset.operators._informative import (
    InformativeRows,
    OutputCurvature,
    OutputDirections,
    OutputRows,
    RowChoice,
    choose_rows,
    rows_to_add,
    weighted_squares,
)
from solset.operators._per_sample import PerSampleGradients
from solset.operators._per_sample_squares import OwnSquares
from solset.operators._preconditioner import GaussNewtonInverse, InformativeInverse
from solset.operators._second import Hessian, Mixed
from solset.operators._switches import Switches, switch_gradients, switch_values

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
    "RowWeights",
    "Switches",
    "choose_rows",
    "loss_curvature",
    "rows_to_add",
    "switch_gradients",
    "switch_values",
    "weighted_squares",
]
