"""How the solution set of a trained network moves when its training data is perturbed."""

from solset._stability import training_stability
from solset.changes import Add, Decay, Move, Relabel, Remove, Reweight
from solset.errors import SolsetWarning
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

__all__ = [
    "__version__",
    "training_stability",
    "SolsetWarning",
    "audit",
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
