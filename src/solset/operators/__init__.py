"""Derivatives of the risk and of the outputs as linear operators."""

from solset.operators.curvature import GaussNewton, loss_curvature, row_weights
from solset.operators.first import InputJacobian, Jacobian
from solset.operators.preconditioner import GaussNewtonInverse
from solset.operators.second import Hessian, Mixed

__all__ = [
    "GaussNewton",
    "GaussNewtonInverse",
    "Hessian",
    "InputJacobian",
    "Jacobian",
    "Mixed",
    "loss_curvature",
    "row_weights",
]
