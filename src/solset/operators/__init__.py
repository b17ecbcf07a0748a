"""Derivatives of the risk and of the network's outputs, as linear operators."""

from solset.operators._culprit import culprit
from solset.operators._curvature import CurvatureRoot, GaussNewton, gauss_newton_of_rows, loss_curvature
from solset.operators._differences import take_differences
from solset.operators._first import InputJacobian, Jacobian
from solset.operators._graphs import (
    FACTOR_ROW,
    FORWARD,
    HESSIAN_PRODUCT,
    INPUT_JACOBIAN,
    INPUT_ROW,
    JACOBIAN_PRODUCT,
    ROW,
    Cost,
    Graphs,
    ProductCost,
)
from solset.operators._inverses import GaussNewtonInverse, InformativeInverse, rows_at_once
from solset.operators._kinks import KinkFinder, Kinks
from solset.operators._output_directions import (
    DirectionalJacobian,
    DirectionChoice,
    DirectionSelector,
    InformativeRows,
    OutputCurvature,
    OutputDirections,
    choose_directions,
    directions_to_add,
    weighted_squares,
)
from solset.operators._per_sample import PerSampleGradients
from solset.operators._point_gradients import PointGradients
from solset.operators._point_grams import PointGrams
from solset.operators._regularisation import Regularisation, regularisation_of
from solset.operators._second import Hessian, Mixed
from solset.operators._switches import Switches, switch_gradients, switch_values
from solset.operators._symmetries import Symmetries, find_symmetries
from solset.operators._targets import TargetSlopes, fitted_outputs, output_answer
from solset.operators._verify import (
    Call,
    Comparison,
    Probe,
    Verdict,
    jumping_features,
    on_leaves,
    stepping_features,
)

__all__ = [
    "FACTOR_ROW",
    "FORWARD",
    "HESSIAN_PRODUCT",
    "INPUT_JACOBIAN",
    "INPUT_ROW",
    "JACOBIAN_PRODUCT",
    "ROW",
    "Call",
    "Comparison",
    "Cost",
    "CurvatureRoot",
    "DirectionChoice",
    "DirectionSelector",
    "DirectionalJacobian",
    "GaussNewton",
    "GaussNewtonInverse",
    "Graphs",
    "Hessian",
    "InformativeInverse",
    "InformativeRows",
    "InputJacobian",
    "Jacobian",
    "KinkFinder",
    "Kinks",
    "Mixed",
    "OutputCurvature",
    "OutputDirections",
    "PerSampleGradients",
    "PointGradients",
    "PointGrams",
    "Probe",
    "ProductCost",
    "Regularisation",
    "Switches",
    "Symmetries",
    "TargetSlopes",
    "Verdict",
    "choose_directions",
    "culprit",
    "directions_to_add",
    "find_symmetries",
    "fitted_outputs",
    "gauss_newton_of_rows",
    "jumping_features",
    "loss_curvature",
    "on_leaves",
    "output_answer",
    "regularisation_of",
    "rows_at_once",
    "stepping_features",
    "switch_gradients",
    "switch_values",
    "take_differences",
    "weighted_squares",
]
