"""The gradient-flow element through an inverse: Lanczos on ``(G + σI)⁻¹``."""

import torch
from torch import Tensor

from solset.linalg import LinearOperator
from solset.solvers.filters import Filter

MOST_STEPS = 120
AGREE = 1e-10  # relative change of the answer over the last steps at which it counts as found
LAG = 5


def by_inverse(
    inverse: LinearOperator, shift: float, phi: Filter, rhs: Tensor, *, steps: int = MOST_STEPS
) -> tuple[Tensor, int, bool]:
    """``φ(G) b`` by shift-and-invert Lanczos (van den Eshof & Hochbruck 2006).

    It finds small eigenvalues first, which are what long training is slow in: for a ``φ`` that decays like
    ``1 / (s + shift)`` the steps do not grow with the condition of ``G``.

    Args:
        inverse: ``(G + shift·I)⁻¹``, float64, ``(m, m)``.
        shift: Positive.
        phi: Of the eigenvalues of ``G``.
        rhs: ``b``, ``(m,)``, float64.
        steps: At most.

    Returns:
        The answer, the steps taken, and whether it came to rest.

    Cost: a solve a step, and as many vectors of length ``m``.
    """
    size = torch.linalg.vector_norm(rhs)
    if not bool(size > 0):
        return torch.zeros_like(rhs), 0, True
    basis = torch.zeros(len(rhs), 0, dtype=rhs.dtype, device=rhs.device)
    projected = torch.zeros(steps, steps, dtype=rhs.dtype, device=rhs.device)
    vector, answers = rhs / size, []
    for k in range(min(steps, len(rhs))):
        basis = torch.cat([basis, vector.unsqueeze(1)], dim=1)
        image = inverse @ vector
        along = basis.T @ image
        projected[: k + 1, k] = along
        projected[k, : k + 1] = along
        for _ in range(2):  # twice is enough (Parlett)
            image = image - basis @ (basis.T @ image)
        answers.append(size * _of_projected(projected[: k + 1, : k + 1], shift, phi))
        rest = torch.linalg.vector_norm(image)
        if not bool(rest > torch.finfo(rhs.dtype).eps * torch.linalg.vector_norm(along)):
            return basis @ answers[-1], k + 1, True
        if k >= LAG and _agree(answers[-1 - LAG], answers[-1]):
            return basis @ answers[-1], k + 1, True
        vector = image / rest
    return basis @ answers[-1], len(answers), len(answers) == len(rhs)


def _of_projected(projected: Tensor, shift: float, phi: Filter) -> Tensor:
    """``φ`` of the projected ``G``, its first column."""
    values, vectors = torch.linalg.eigh(projected)
    eigenvalues = (1 / values.clamp(min=torch.finfo(values.dtype).tiny) - shift).clamp(min=0)
    return vectors @ (phi(eigenvalues, eigenvalues > 0) * vectors[0])


def _agree(before: Tensor, now: Tensor) -> bool:
    change = now.clone()
    change[: len(before)] -= before
    return bool(torch.linalg.vector_norm(change) <= AGREE * torch.linalg.vector_norm(now))
