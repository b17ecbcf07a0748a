"""Which eigenvalues of a Hessian mean something."""

import torch

from solset.operators import GaussNewton, Hessian
from solset.problem import Problem

LEAST = 1e-10  # relative to the largest eigenvalue, in float64
MARGIN = 10  # times the part of a fitted Hessian that only the leftover residual makes


def resolution(part: Problem) -> float:
    """Relative size up to which an eigenvalue of a dense Hessian counts as zero.

    Where the training set is fitted, ``H`` and its Gauss–Newton form differ by what the leftover residual
    adds. Eigenvalues as small as that are not a property of the solution set: they vanish with further
    training.

    Args:
        part: The trained point, with few enough weights to write ``H`` out.

    Cost: both matrices written out, if the training set is fitted.
    """
    eps = torch.finfo(part.weights().dtype).eps
    least = max(LEAST, 100 * eps)
    if not part.is_fitted:
        return least
    risk = part.risk()
    whole, fitted = Hessian(risk).to_dense(), GaussNewton(risk).to_dense()
    size = float(torch.linalg.matrix_norm(whole, 2))
    leftover = float(torch.linalg.matrix_norm(whole - fitted, 2))
    return min(0.5, max(least, MARGIN * leftover / size)) if size > 0 else least
