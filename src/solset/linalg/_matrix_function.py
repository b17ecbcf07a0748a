"""A function of a symmetric matrix times a vector, by Lanczos' method with an estimate of its error."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from solset.linalg._operator import LinearOperator

LAG = 5  # number of steps over which the answer has to stand still
AGREE = 1e-10  # relative change of the answer over these steps at which the iteration stops


@dataclass(frozen=True, eq=False)
class MatrixFunction:
    """The answer of Lanczos' method.

    Attributes:
        value: Approximation of ``f(M) b``, shaped like ``b``.
        steps: Number of products with ``M``.
        error: Change of the answer over the last five steps, relative to its length; 0 where it is exact.
        has_converged: Whether this change is as small as was asked for.
    """

    value: Tensor
    steps: int
    error: float
    has_converged: bool


def function_times_vector(
    matrix: LinearOperator, rhs: Tensor, function: Callable[[Tensor], Tensor], *, max_steps: int
) -> MatrixFunction:
    """``f(M) b`` for a symmetric ``M``, with full orthogonalisation.

    Args:
        matrix: Symmetric matrix ``M``, ``(p, p)``.
        rhs: Vector ``b`` that is multiplied, ``(p,)``.
        function: Function from the projected matrix ``(k, k)`` in float64 to the first column of ``f`` of it.
        max_steps: Limit of the products.

    Cost: one product a step, and as many vectors of length ``p``.
    """
    size = torch.linalg.vector_norm(rhs)
    if not bool(size > 0):
        return MatrixFunction(torch.zeros_like(rhs), 0, 0.0, has_converged=True)
    most = min(max_steps, len(rhs))
    basis, projected = [rhs / size], torch.zeros(most, most, dtype=torch.float64)
    answers: list[Tensor] = []
    smallest = max(AGREE, 20 * torch.finfo(rhs.dtype).eps)
    error = 1.0
    for k in range(most):
        spanned = torch.stack(basis, dim=1)
        image = matrix @ basis[-1]
        along = spanned.T @ image
        projected[: k + 1, k] = projected[k, : k + 1] = along.to("cpu", torch.float64)
        rest = image - spanned @ along
        rest = rest - spanned @ (spanned.T @ rest)  # one pass leaves them orthogonal to half of the digits
        answers.append(function(projected[: k + 1, : k + 1]))
        length = torch.linalg.vector_norm(rest)
        if not bool(length > 10 * torch.finfo(rhs.dtype).eps * torch.linalg.vector_norm(image)):
            error = 0.0
            break
        if k >= LAG:
            error = _difference(answers[-1 - LAG], answers[-1])
            if error <= smallest:
                break
        basis.append(rest / length)
    else:
        error = 0.0 if most == len(rhs) else error
    value = size * (torch.stack(basis[: len(answers)], dim=1) @ answers[-1].to(rhs))
    return MatrixFunction(value, len(answers), error, has_converged=error <= smallest)


def _difference(before: Tensor, now: Tensor) -> float:
    change = now.clone()
    change[: len(before)] -= before
    size = float(torch.linalg.vector_norm(now))
    return float(torch.linalg.vector_norm(change)) / size if size > 0 else 0.0
