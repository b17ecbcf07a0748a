"""The graphical derivative and the coderivative of a solution map (Theorem 1)."""

from solset.derivatives._derivatives import Coderivative, GraphicalDerivative, Response
from solset.derivatives._linearisation import (
    Constraint,
    Linearisation,
    OptimalityMap,
    Premise,
    Premises,
    Qualification,
    Verdict,
)
from solset.derivatives._selection import RowCheck, Selection

__all__ = [
    "Coderivative",
    "Constraint",
    "GraphicalDerivative",
    "Linearisation",
    "OptimalityMap",
    "Premise",
    "Premises",
    "Qualification",
    "Response",
    "RowCheck",
    "Selection",
    "Verdict",
]
