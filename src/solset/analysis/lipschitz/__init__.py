"""The Lipschitz modulus of the solution map, with a certificate."""

from solset.analysis.lipschitz.chain import ModulusChain, modulus_chain
from solset.analysis.lipschitz.closed_form import theorem_2
from solset.analysis.lipschitz.kinks import activation_margin
from solset.analysis.lipschitz.modulus import lipschitz_modulus
from solset.analysis.lipschitz.result import Carrier, Certainty, Certificate, LipschitzModulus

__all__ = [
    "Carrier",
    "Certainty",
    "Certificate",
    "LipschitzModulus",
    "ModulusChain",
    "activation_margin",
    "lipschitz_modulus",
    "modulus_chain",
    "theorem_2",
]
