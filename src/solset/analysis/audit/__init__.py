"""An audit of the training data: which points, and which of their features, move the model most."""

from solset.analysis.audit.audit import audit
from solset.analysis.audit.result import Audit, spearman

__all__ = ["Audit", "audit", "spearman"]
