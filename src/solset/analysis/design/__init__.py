"""Perturbations by design: goals, budgets, the adjoint that joins them, and the judge that retrains."""
