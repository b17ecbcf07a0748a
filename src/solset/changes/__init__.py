"""Changes of the training data, as values: what differs, and how the risk and its derivatives answer.

A new kind of change is one subclass of :class:`Change`; problems, estimates and retraining take it as it is.
"""

from solset.changes._addition import Add
from solset.changes._change import Change, Exchange, PointsChange, TrainingChange, require_change
from solset.changes._decay import Decay
from solset.changes._labels import Relabel
from solset.changes._move import Move
from solset.changes._sum import Sum
from solset.changes._weights import Divisor, Remove, Reweight

__all__ = [
    "Add",
    "Change",
    "Decay",
    "Divisor",
    "Exchange",
    "Move",
    "PointsChange",
    "Relabel",
    "Remove",
    "Reweight",
    "Sum",
    "TrainingChange",
    "require_change",
]
