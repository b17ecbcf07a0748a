"""The trained point and its linearisation: the only door between the two wings."""

from solset.problem.defaults import FIT_TOL, MOST_DENSE, Optimality
from solset.problem.trained_point import Problem

__all__ = ["FIT_TOL", "MOST_DENSE", "Optimality", "Problem"]
