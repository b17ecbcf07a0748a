"""The trained point and its optimality maps: where the two wings meet."""

from solset.problem._calibration import Calibration, calibrate
from solset.problem._finite import Order
from solset.problem._gauss_newton import GaussNewton
from solset.problem._informative import InformativeSelection
from solset.problem._interpolating import Interpolating
from solset.problem._maps import AUTO, MAPS, Optimality, as_map, keeps_outputs, map_unless_fitted
from solset.problem._point import FIT_TOL, MAX_DENSE, MAX_ROWS, LinearisedMap, TrainedPoint
from solset.problem._premises import lost_classes, premises_of
from solset.problem._problem import Problem
from solset.problem._proximal import DAMPING_PRODUCTS, Proximal
from solset.problem._single import SingleAnswer, single_answer
from solset.problem._stationary import Stationary, preconditioned, smaller_side

__all__ = [
    "AUTO",
    "DAMPING_PRODUCTS",
    "FIT_TOL",
    "MAPS",
    "MAX_DENSE",
    "MAX_ROWS",
    "Calibration",
    "GaussNewton",
    "InformativeSelection",
    "Interpolating",
    "LinearisedMap",
    "Optimality",
    "Order",
    "Problem",
    "Proximal",
    "SingleAnswer",
    "Stationary",
    "TrainedPoint",
    "as_map",
    "calibrate",
    "keeps_outputs",
    "lost_classes",
    "map_unless_fitted",
    "preconditioned",
    "premises_of",
    "single_answer",
    "smaller_side",
]
