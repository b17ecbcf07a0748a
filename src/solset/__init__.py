"""How the solution set of a trained network moves when its training data is perturbed."""

from importlib import import_module
from types import ModuleType

from solset._stability import training_stability
from solset.changes import Add, Decay, Move, Relabel, Remove, Reweight
from solset.errors import SolsetWarning
from solset.judge import compare
from solset.modulus import audit, lipschitz_modulus
from solset.paths import follow_path
from solset.planning import plan
from solset.poisoning import design_poisoning
from solset.problem import Problem
from solset.retraining import retrain
from solset.risk import WholeBatch, embedding_of
from solset.sets import AffineSet
from solset.solvers import Solution, SolverError, filters
from solset.training import Training

__version__ = "0.1.0"

_LATE = frozenset({"landscapes", "paper", "plotting", "removal", "reports", "testing", "zoo"})

__all__ = [
    "__version__",
    "training_stability",
    "SolsetWarning",
    "audit",
    "compare",
    "lipschitz_modulus",
    "follow_path",
    "plan",
    "design_poisoning",
    "embedding_of",
    "Problem",
    "Training",
    "retrain",
    "AffineSet",
    "Add",
    "Decay",
    "Move",
    "Relabel",
    "Remove",
    "Reweight",
    "Solution",
    "SolverError",
    "WholeBatch",
    "filters",
]


def __getattr__(name: str) -> ModuleType:
    """A room that is imported where it is first named, as ``solset.removal``."""
    if name in _LATE:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
