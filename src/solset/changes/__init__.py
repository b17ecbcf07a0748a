"""Changes of the training data, as values: what differs, and how the risk and its derivatives answer.

A new kind of change is one subclass of :class:`Change`; problems, estimates and retraining take it as it is.
"""

from solset.changes._change import Change, PointChange, require_change
from solset.changes._exchange import Exchange
from solset.changes._move import Move
from solset.changes._weights import Remove

__all__ = ["Change", "Exchange", "Move", "PointChange", "Remove", "require_change"]
