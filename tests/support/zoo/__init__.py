"""Thousands of small trainings, drawn by seed: a layer, a loss, a dtype, a training and a form of weights.

Each is answered by the library and by an oracle that differentiates the module itself by central
differences. The outcome is right, flagged, refused, silently wrong or a raw crash; the last two must not
exist.
"""

from .combinations import Combination, draw
from .judgement import Outcome, Verdict, judge
from .table import print_table, run_many

__all__ = ["Combination", "Outcome", "Verdict", "draw", "judge", "print_table", "run_many"]
