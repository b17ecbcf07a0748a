"""Functions of a Problem."""

from solset.analysis.audit import Audit, audit
from solset.analysis.filter_norms import filter_normalised
from solset.analysis.influence import (
    Moved,
    Reweighted,
    feature_scores,
    influence,
    removal_scores,
    removed,
)
from solset.analysis.landscape import Landscape, Mark, landscape
from solset.analysis.lipschitz import (
    Carrier,
    Certainty,
    Certificate,
    LipschitzModulus,
    ModulusChain,
    activation_margin,
    lipschitz_modulus,
    modulus_chain,
    theorem_2,
)
from solset.analysis.plane import Plane
from solset.analysis.retrain import (
    LBFGS,
    GradientDescent,
    LevenbergMarquardt,
    Newton,
    Retrained,
    retrain,
    tangent_recursion,
)
from solset.analysis.stability import Stability, training_stability
from solset.analysis.warm import WithOptimizer

__all__ = [
    "LBFGS",
    "Audit",
    "Carrier",
    "Certainty",
    "Certificate",
    "GradientDescent",
    "Landscape",
    "LevenbergMarquardt",
    "LipschitzModulus",
    "Mark",
    "ModulusChain",
    "Moved",
    "Newton",
    "Plane",
    "Retrained",
    "Reweighted",
    "Stability",
    "WithOptimizer",
    "activation_margin",
    "audit",
    "feature_scores",
    "filter_normalised",
    "influence",
    "landscape",
    "lipschitz_modulus",
    "modulus_chain",
    "removal_scores",
    "removed",
    "retrain",
    "tangent_recursion",
    "theorem_2",
    "training_stability",
]
