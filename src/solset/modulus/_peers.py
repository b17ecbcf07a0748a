"""The numbers by which other methods rank training points, to stand beside the modulus."""

import torch
from torch import Tensor

from solset.errors import Status
from solset.operators import Mixed, loss_curvature
from solset.problem import Problem, map_unless_fitted
from solset.risk import EmpiricalRisk, slopes_at


def gradient_norms(slopes: Tensor, squares: Tensor) -> Tensor:
    """``‖∇_w L_k‖`` from ``∇_f L_k``, ``(b, c)``, and ``J_k J_kᵀ``, ``(b, c, c)``: no further pass."""
    return torch.einsum("bi,bij,bj->b", slopes, squares, slopes).clamp_min(0).sqrt()


def point_slopes(risk: EmpiricalRisk) -> Tensor:
    """``∇_f L`` of each point by itself in float64, ``(n, c)``. Cost: one forward pass."""
    scale = risk.total if risk.reduction == "mean" else 1.0
    return scale * slopes_at(risk, risk.outputs()).to(torch.float64)


def feature_influence(problem: Problem, gradient: Tensor, points: list[int]) -> tuple[Tensor, Status]:
    """``‖B_kᵀ H⁺ ∇ℓ‖``: the change of a test loss per unit of each point's features, ``(|K|,)``.

    Koh & Liang 2017, equation 5, with the pseudo-inverse where ``H`` is singular. On a fitted problem whose
    Gram matrix fits, ``H`` is taken in its Gauss–Newton form, to which it is equal at zero residual.

    Args:
        problem: Problem at its trained weights.
        gradient: Gradient ``∇ℓ`` of the test loss, ``(p,)``.
        points: Indices of the points to score.

    Cost: one solve with ``H`` and one product with ``Bᵀ``.
    """
    if problem.is_fitted and problem.gram_fits:
        line = problem.derivative(points=points, optimality="interpolating").linearisation
        adjoint = line.constraint.flow.curvature().solve(gradient)
    else:
        used, _ = map_unless_fitted(problem.point)
        line = problem.derivative(points=points, optimality=used).linearisation
        adjoint = line.solve(gradient)
    slopes = Mixed(problem.risk(), points, memory_budget=0).T @ adjoint.value
    return slopes.reshape(len(points), -1).norm(dim=1).to(torch.float64), adjoint.status


def memory_perturbation(
    problem: Problem, gram: Tensor, slopes: Tensor, prior_precision: float
) -> Tensor | None:
    """``‖J_k Σ J_kᵀ ∇_f L_k‖``: predictive covariance times prediction error of each point, ``(n,)``.

    The change of a point's outputs when the point is left out, to first order, by the memory-perturbation
    equation (Nickl et al. 2023, arXiv 2310.19273) with the Laplace covariance
    ``Σ = (Σ_i J_iᵀ Λ_i J_i + δ)⁻¹``. Computed as ``JΣJᵀ = G^½ (δ + G^½ΛG^½)⁻¹ G^½`` with the Gram matrix
    ``G``.

    Args:
        problem: Problem at its trained weights.
        gram: Gram matrix ``G = JJᵀ``, ``(m, m)``.
        slopes: Loss gradients ``∇_f L_k``, ``(n, c)``.
        prior_precision: Precision ``δ`` of the weights' prior.

    Returns:
        The scores; ``None`` if the covariance is singular to rounding.

    Cost: a decomposition and a linear system of ``m`` unknowns.
    """
    risk = problem.risk()
    scale = risk.total if risk.reduction == "mean" else 1.0
    curvature = scale * loss_curvature(risk).to(torch.float64)
    n, c = slopes.shape
    values, vectors = torch.linalg.eigh(gram)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    weighed = torch.einsum("mnc,ncd->mnd", root.reshape(-1, n, c), curvature).reshape(n * c, n * c) @ root
    weighed = (weighed + weighed.T) / 2
    weighed.diagonal().add_(prior_precision)
    factor, failed = torch.linalg.cholesky_ex(weighed)
    if int(failed):
        return None
    covariance = (root @ torch.cholesky_solve(root, factor)).reshape(n, c, n, c)
    of_points = covariance[torch.arange(n), :, torch.arange(n)]
    return torch.einsum("nij,nj->ni", of_points, slopes).norm(dim=1)
