"""The trained point and its linearisation: the only door between the two wings."""

from solset.problem._defaults import FIT_TOL, MOST_DENSE, Optimality
from solset.problem._problem import Problem

__all__ = ["FIT_TOL", "MOST_DENSE", "Optimality", "Problem"]
