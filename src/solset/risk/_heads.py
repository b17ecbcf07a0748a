"""The loss as a function of outputs in hand, without a pass through the network, and its slopes."""

from collections.abc import Callable

import torch
from torch import Tensor

from solset import comm
from solset.errors import bad_value
from solset.risk._batching import in_batches
from solset.risk._called import require_derivatives
from solset.risk._empirical import EmpiricalRisk
from solset.risk._layout import flat_rows
from solset.risk._losses import pointwise
from solset.risk._probe import probe_indices


def output_shape(risk: EmpiricalRisk) -> tuple[int, ...]:
    """The shape of one point's outputs. Cost: a forward pass of one point, once for all copies of a risk.

    Raises:
        ValueError: If the call is inside ``torch.inference_mode()``, where nothing has a derivative.
    """
    require_derivatives()
    inputs, _ = risk.points[[0]]
    shapes, key = risk.routes.shapes, (id(risk.model), id(risk.door), tuple(inputs.shape[1:]))
    if key not in shapes:
        with torch.no_grad():
            outputs = risk.forward(risk.layout.split(risk.weights), inputs)
        # Model and door stay with it, so that no other object gets their identities.
        shapes[key] = risk.model, risk.door, tuple(outputs.shape[1:])
    return shapes[key][2]


def require_logits(risk: EmpiricalRisk) -> None:
    """Refuses a network whose outputs are several tensors where all outputs of a point count as classes.

    Raises:
        ValueError: If there are several, the weights of a learned loss included.
    """
    if risk.door.outputs is not None:
        raise bad_value(
            "problem",
            expected="one whose outputs are one tensor of logits",
            got=f"several tensors, {[leaf.name for leaf in risk.door.outputs.leaves]}",
            cure="Use a ModelFunction that picks the logits.",
        )


def through_loss(
    risk: EmpiricalRisk,
    outputs: Tensor,
    work: Callable[[Tensor, Tensor], Tensor],
    *,
    targets: Tensor | None = None,
) -> Tensor:
    """The results of ``work`` on outputs and targets, for all points, ``(n, ...)``.

    Args:
        risk: Empirical risk with the loss and the batch size.
        outputs: Outputs of all points, ``(n, c)`` or ``(n, *out)``.
        work: Function of a batch's outputs ``(b, *out)`` and targets, with a row per point.
        targets: Targets of all points; read from the risk by default.
    """
    shaped = outputs.reshape(len(outputs), *output_shape(risk))
    if targets is None:
        return risk.joined(lambda start, _, y: work(shaped[start : start + len(y)], y))

    def batch(places: range) -> Tensor:
        chunk = slice(places.start, places.stop)
        return work(shaped[chunk], targets[chunk])

    parts = list(in_batches(risk.share, risk.batch_size, risk.room, batch))
    return comm.join(torch.cat(parts) if parts else None, device=risk.weights.device)


def losses_at(risk: EmpiricalRisk, outputs: Tensor) -> Tensor:
    """Loss of each point by itself, ``(n,)``, without weight decay.

    Args:
        risk: Empirical risk with the loss and the targets.
        outputs: Outputs of all points, ``(n, c)``, from :meth:`EmpiricalRisk.outputs`.
    """
    return through_loss(risk, outputs, lambda out, y: pointwise(risk.loss, out, y).detach())


def slopes_at(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor | None = None) -> Tensor:
    """``α ∇_f L``, the slope of the risk in each output, ``(n, c)``.

    Args:
        risk: Empirical risk with the loss.
        outputs: Outputs of all points, ``(n, c)``.
        targets: Targets of all points; read from the risk by default.
    """
    if risk.is_whole:
        return _whole_slopes(risk, outputs, targets)

    def work(out: Tensor, targets: Tensor) -> Tensor:
        leaf = out.detach().requires_grad_()
        with torch.enable_grad():
            value = risk.batch_scale(len(leaf)) * risk.loss(leaf, targets)
        return flat_rows(torch.autograd.grad(value, leaf)[0])

    return through_loss(risk, outputs, work, targets=targets)


def _whole_slopes(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor | None) -> Tensor:
    """The slopes of a loss of all outputs at once."""
    leaf = outputs.reshape(len(outputs), *output_shape(risk)).detach().clone().requires_grad_()
    aims = risk.outputs_and_targets()[1] if targets is None else targets
    with torch.enable_grad():
        value = risk.loss(leaf, aims).reshape(())
    return flat_rows(torch.autograd.grad(value, leaf, allow_unused=True, materialize_grads=True)[0])


def fit_at(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor | None = None) -> float:
    """Mean over points of ``‖∇_f L‖``, which is 0 if every point is fitted.

    Args:
        risk: Empirical risk with the loss.
        outputs: Outputs of all points, ``(n, c)``.
        targets: Targets of all points; read from the risk by default.
    """
    scale = risk.total if risk.reduction == "mean" else 1.0  # divides by α
    return scale * float(slopes_at(risk, outputs, targets).norm(dim=1).mean())


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
