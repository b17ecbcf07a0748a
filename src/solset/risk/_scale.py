"""The sizes of a loss's slopes and of a gradient at outputs that tell the points apart by nothing."""

import torch
from torch import Tensor

from solset.risk._empirical import EmpiricalRisk
from solset.risk._heads import fit_at, slopes_at
from solset.risk._layout import flat_rows
from solset.risk._probe import probe_indices

NUDGE = 1e-3  # change of outputs, relative to their size, from which any loss with curvature has a slope


def constant_slopes(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor | None = None) -> Tensor:
    """``α ∇_f L`` at the mean of all outputs, the same for every point, ``(n, c)``.

    If every target is the same, a constant output may fit them all and tells no scale: then at zero outputs.

    Args:
        risk: Empirical risk with the loss.
        outputs: Outputs of all points, ``(n, *out)``.
        targets: Targets of all points; read from the risk by default.

    Cost: one pass through the loss, or two; the network is not run.
    """
    flat = flat_rows(outputs)
    slopes = slopes_at(risk, flat.mean(dim=0).expand_as(flat).contiguous(), targets)
    if bool((slopes == slopes[0]).all()):
        return slopes_at(risk, torch.zeros_like(flat), targets)
    return slopes


def misfit_at(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor | None = None) -> float:
    """The fit of outputs relative to that of a constant output; 0 if every point is fitted.

    Args:
        risk: Empirical risk with the loss.
        outputs: Outputs of all points, ``(n, *out)``.
        targets: Targets of all points; read from the risk by default.

    Cost: a few passes through the loss; the network is not run.
    """
    fit = fit_at(risk, outputs, targets)
    if fit == 0:
        return 0.0
    scale = risk.total if risk.reduction == "mean" else 1.0
    constant = scale * float(constant_slopes(risk, outputs, targets).norm(dim=1).mean())
    return fit / constant if constant > 0 else float("inf")


def flat_points(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor | None = None) -> int:
    """The number of points at which the loss stays as it is when outputs move a little, to either side.

    A hinge loss beyond its margin is flat, and so is one with targets that are ignored.

    Args:
        risk: Empirical risk with the loss.
        outputs: Outputs of all points, ``(n, *out)``.
        targets: Targets of all points; read from the risk by default.

    Cost: two passes through the loss; the network is not run.
    """
    flat = flat_rows(outputs)
    draw = torch.rand(flat.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(flat)
    size = flat.square().mean().sqrt()
    nudge = NUDGE * torch.where(size > 0, size, 1.0) * (0.5 + draw)
    sides = [slopes_at(risk, moved, targets) for moved in (flat + nudge, flat - nudge)]
    return int(((sides[0] == 0) & (sides[1] == 0)).all(dim=1).sum())


def gradient_scale(risk: EmpiricalRisk, outputs: Tensor) -> float:
    """The size of the terms that cancel in a gradient: ``Σ_i ‖α J_iᵀ ∇_f L‖ + ‖λ w‖`` at a constant output.

    The sum is estimated by the points of a probe. It is in the units of the gradient, whatever those of the
    targets and of the loss are.

    Args:
        risk: Empirical risk at the trained weights.
        outputs: Outputs of all points, ``(n, *out)``.

    Cost: the gradients of eight points, one by one, and a pass through the loss.
    """
    slopes = constant_slopes(risk, outputs)
    probe = probe_indices(len(risk.points))
    sizes = []
    for index in probe:
        inputs, _ = risk.points[[index]]
        leaves = risk.leaves()
        with torch.enable_grad():
            out = risk.forward(leaves, inputs)
        slope = slopes[index].reshape(out.shape).to(out)
        parts = torch.autograd.grad(out, leaves, slope, allow_unused=True, materialize_grads=True)
        sizes.append(float(risk.layout.join(parts).norm()))
    decay = float((risk.weight_decay * risk.weights).norm())
    return len(risk.points) * sum(sizes) / len(sizes) + decay
