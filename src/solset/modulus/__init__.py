"""The Lipschitz modulus of the solution map, with a certificate, and the audit of the training data by it."""

from solset.modulus._audit import audit
from solset.modulus._audit_result import Audit, spearman
from solset.modulus._chain import ModulusChain, modulus_chain
from solset.modulus._kinks import activation_margin
from solset.modulus._lipschitz import lipschitz_modulus
from solset.modulus._result import Carrier, Certainty, Certificate, LipschitzModulus

__all__ = [
    "Audit",
    "Carrier",
    "Certainty",
    "Certificate",
    "LipschitzModulus",
    "ModulusChain",
    "activation_margin",
    "audit",
    "lipschitz_modulus",
    "modulus_chain",
    "spearman",
]
