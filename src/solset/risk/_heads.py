"""The loss as a function of outputs in hand, without a pass through the network."""

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


def output_shape(risk: EmpiricalRisk) -> tuple[int, ...]:
    """The shape of one point's outputs. Cost: a forward pass of one point, once for all copies of a risk.

    Args:
        risk: Empirical risk with the network.

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

    Args:
        risk: Empirical risk with the network.

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
